"""HQQ: 1 to 8 bits in groups without calibration data, for transformers with hqq, or as compressed-tensors for vLLM."""

from __future__ import annotations

from quantmill.contract import WHOLE_ROW, BlockBound, Method, Runtime, hookimpl, lazy
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.model_folder import KEPT_BLOCK_BOUNDS, KEPT_ERROR_BOUNDS
from quantmill_hqq.params import HqqParams

# Largest relative RMSE of one tensor that verification accepts: about 1.3 times the worst of eleven distributions, of
# both axes, of float32, float16 and bfloat16 scales, of free and of whole zeros; long groups lose most to outliers.
# tests/unit/hqq/test_error_bounds.py measures them again.
SIZES = ("8", "16", "32", "64", "128", "256", "ROW")
BY_BITS = {  # in the order of SIZES
    1: (0.8, 0.85, 0.88, 0.9, 0.92, 0.94, 0.98),
    2: (0.345, 0.43, 0.5, 0.58, 0.64, 0.69, 0.93),
    3: (0.157, 0.217, 0.279, 0.343, 0.404, 0.457, 0.8),
    4: (0.074, 0.105, 0.141, 0.182, 0.225, 0.27, 0.55),
    5: (0.036, 0.05, 0.068, 0.09, 0.114, 0.145, 0.43),
    6: (0.0175, 0.0245, 0.0335, 0.046, 0.065, 0.092, 0.31),
    8: (0.0079, 0.0114, 0.016, 0.0225, 0.031, 0.043, 0.148),
}
BITS = tuple(BY_BITS)
COMPRESSED_BITS = (4, 8)

STORED = 2.0**-9  # half a step of bfloat16, in which scales and zeros may be stored
LEAST = 2.0**-19  # the least scale that the solver gives float16: smaller weights become 0 or that


def _error_bounds() -> dict[str, float]:
    bounds = dict(KEPT_ERROR_BOUNDS)
    for nbits, by_size in BY_BITS.items():
        for size, bound in zip(SIZES, by_size, strict=True):
            bounds[f"HQQ{nbits}-{size}"] = bound
            bounds[f"HQQ{nbits}-COL" if size == "ROW" else f"HQQ{nbits}-{size}-AXIS0"] = bound
            if nbits in COMPRESSED_BITS:
                bounds[f"INT{nbits}-{size}-ASYM"] = bound
    return bounds


def _block_bounds() -> dict[str, BlockBound]:
    """Half a step of a range from -peak to peak; where groups reach beyond a block, its outliers may be cut off."""
    bounds = dict(KEPT_BLOCK_BOUNDS)
    for nbits in BITS:
        half = 1 / (2**nbits - 1)
        cut = min(1.0, 2.4 * half) + STORED
        along_columns = BlockBound(32, 0.0, tensor_relative=cut, absolute=LEAST)
        whole = BlockBound(32, 0.0, WHOLE_ROW, cut, absolute=LEAST)
        for size in SIZES:
            along_rows = (
                whole if size == "ROW" else BlockBound(int(size), half + STORED, absolute=LEAST, across_rows=True)
            )
            bounds[f"HQQ{nbits}-{size}"] = along_rows
            bounds[f"HQQ{nbits}-COL" if size == "ROW" else f"HQQ{nbits}-{size}-AXIS0"] = along_columns
            if nbits in COMPRESSED_BITS:
                bounds[f"INT{nbits}-{size}-ASYM"] = along_rows
    return bounds


HQQ = Method(
    name="hqq",
    version="0.1.0",
    summary="Half-quadratic quantization: 1 to 8 bits in groups, no data, for transformers with hqq, or for vLLM",
    params=HqqParams,
    plan=lazy("quantmill_hqq.planning:plan"),
    quantize=lazy("quantmill_hqq.algorithm:quantize"),
    write=lazy("quantmill_hqq.export:write"),
    place=lazy("quantmill_hqq.export:place"),
    read=lazy("quantmill_hqq.reader:read"),
    inspect=lazy("quantmill_hqq.inspection:inspect"),
    formats=("hqq", "compressed-tensors"),
    architectures=ARCHITECTURES,
    error_bounds=_error_bounds(),
    block_bounds=_block_bounds(),
    runtimes=(
        Runtime(
            "transformers",
            "AutoModelForCausalLM.from_pretrained('{folder}')",
            unless={"format": "compressed-tensors"},
        ),
        Runtime(
            "transformers",
            "AutoModelForCausalLM.from_pretrained('{folder}', "
            "quantization_config=CompressedTensorsConfig(dequantize=True))",
            unless={"format": "hqq"},
        ),
        Runtime("vLLM", "vllm serve {folder}", unless={"format": "hqq"}),
    ),
    ladder=(
        {"nbits": 2, "group_size": 32},
        {"nbits": 3, "group_size": 64},
        {"nbits": 4, "group_size": 64},
        {"nbits": 4, "group_size": 32},
        {"nbits": 8, "group_size": 64},
    ),
    bits=BITS,
    granularity="groups of 8 to 256 values, or whole rows; along rows or columns",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [HQQ]
