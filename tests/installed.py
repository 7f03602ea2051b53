"""What this repository installs, for the tests that look at lists of it."""

from __future__ import annotations

METHODS = ["awq", "bnb", "fp8", "gguf", "gptq", "hqq", "onnx", "repack"]
