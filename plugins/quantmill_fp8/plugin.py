"""FP8 and its smaller kin: folders that vLLM and transformers load through compressed-tensors."""

from __future__ import annotations

from quantmill.contract import WHOLE_ROW, BlockBound, Method, Runtime, hookimpl, lazy
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.model_folder import KEPT_BLOCK_BOUNDS, KEPT_ERROR_BOUNDS
from quantmill_fp8.params import Fp8Params

# Largest relative RMSE of one tensor that verification accepts, and what a single block may be off by.
# tests/unit/fp8/test_error_bounds.py measures both on many distributions.
ERROR_BOUNDS = {
    **KEPT_ERROR_BOUNDS,
    "FP8": 0.04,  # a step of 3 bits of mantissa: at most 2^-4 of a value, 0.026 rms
    "FP8-tensor": 0.04,
    "FP8-128x128": 0.04,
    "MXFP8": 0.045,
    "NVFP4": 0.18,
    "MXFP4": 0.22,
}
SUBNORMAL = 2.0**-10 / 448  # half of E4M3's least step, over its largest value
BLOCK_BOUNDS = {
    **KEPT_BLOCK_BOUNDS,
    "FP8": BlockBound(32, 0.0625, WHOLE_ROW, 1.1 * SUBNORMAL),
    "FP8-tensor": BlockBound(32, 0.0625, tensor_relative=1.1 * SUBNORMAL),
    "FP8-128x128": BlockBound(32, 0.0625, tensor_relative=1.1 * SUBNORMAL),
    "MXFP8": BlockBound(32, 0.0625),
    "NVFP4": BlockBound(16, 0.2, tensor_relative=2.0**-10 / 448 * 6),
    "MXFP4": BlockBound(32, 0.26),
}

FP8 = Method(
    name="fp8",
    version="0.1.0",
    summary="FP8 by rows, blocks or tensors, MXFP8, NVFP4 and MXFP4 weights, for vLLM and transformers",
    params=Fp8Params,
    plan=lazy("quantmill_fp8.planning:plan"),
    quantize=lazy("quantmill_fp8.algorithm:quantize"),
    write=lazy("quantmill_fp8.export:write"),
    place=lazy("quantmill_fp8.export:place"),
    read=lazy("quantmill_fp8.reader:read"),
    inspect=lazy("quantmill_fp8.inspection:inspect"),
    formats=("compressed-tensors", "fp8"),
    architectures=ARCHITECTURES,
    error_bounds=ERROR_BOUNDS,
    block_bounds=BLOCK_BOUNDS,
    runtimes=(
        Runtime("vLLM", "vllm serve {folder}"),
        Runtime("transformers", "AutoModelForCausalLM.from_pretrained('{folder}')"),
    ),
    # Activations stay as they are on each rung: evaluation would not see what quantizing them loses
    ladder=({"scheme": "MXFP4A16"}, {"scheme": "NVFP4A16"}, {"scheme": "FP8A16"}),
    promote=lazy("quantmill_fp8.planning:promote"),
    bits=(4, 8),
    granularity="rows, tensors, blocks of 128 x 128, or groups of 16 or 32 values along a row",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [FP8]
