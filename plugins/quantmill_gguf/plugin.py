"""GGUF: the files that llama.cpp, Ollama and LM Studio run."""

from __future__ import annotations

from quantmill.contract import Method, Runtime, hookimpl, lazy
from quantmill_gguf.architectures import ARCHITECTURES
from quantmill_gguf.params import GgufParams

# Largest relative RMSE of one tensor that verification accepts; the encoders' searches make them differ by the
# shape of the weights' tails. Measured with tests/unit/gguf/test_error_bounds.py, whose table holds the numbers.
ERROR_BOUNDS = {
    "F32": 0.0,
    "F16": 0.0005,
    "Q8_0": 0.012,
    "Q6_K": 0.03,
    "Q5_K": 0.06,
    "Q4_K": 0.12,
    "Q4_0": 0.17,
}

GGUF = Method(
    name="gguf",
    version="0.1.0",
    summary="GGUF files with llama-quantize's mixes of block formats, 4 to 16 bits, for llama.cpp and Ollama",
    params=GgufParams,
    plan=lazy("quantmill_gguf.planning:plan"),
    quantize=lazy("quantmill_gguf.algorithm:quantize"),
    write=lazy("quantmill_gguf.export:write"),
    read=lazy("quantmill_gguf.reader:read"),
    formats=("gguf",),
    architectures=tuple(ARCHITECTURES),
    error_bounds=ERROR_BOUNDS,
    runtimes=(
        Runtime("llama.cpp", "llama-cli -m {file}"),
        Runtime("llama-cpp-python", "python -m llama_cpp.server --model {file}"),
        Runtime("transformers", "AutoModelForCausalLM.from_pretrained('{folder}', gguf_file='{file}')"),
    ),
    bits=(4, 5, 6, 8, 16),
    granularity="blocks of 32 or 256 values along a row",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [GGUF]
