"""ONNX: integer products and weight-only blocks for ONNX Runtime, from an ONNX model or a checkpoint."""

from __future__ import annotations

from quantmill.contract import WHOLE_ROW, BlockBound, FormatFacts, Method, Runtime, hookimpl, lazy
from quantmill.contract.hessians import Tolerance
from quantmill_onnx.bounds import IN_BLOCKS, SIZES, solved
from quantmill_onnx.facts import ONNX_FACTS
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.smoothing import RATIO

# Largest relative RMSE of one tensor that verification accepts: about 1.3 times the worst of eleven distributions.
# Scales of whole channels lose most to outliers, and the longer the rows the more: theirs are wider.
# tests/unit/onnx/test_error_bounds.py measures them again.
KEPT = ("F32", "F16", "BF16")
HALF = 0.0005  # of F16-ROUNDED: half a step of 11 bits is 0.00024 of a value; smaller ones are subnormal
CHANNEL, TENSOR = 0.15, 0.6
SMOOTH = 2.0  # times that where channels of unequal importance are traded for each other


def _matrices() -> list[str]:
    """The schemes that products' matrices have without a sign as well."""
    return [
        f"INT8-{by}{zero}{smooth}"
        for by in ("CHANNEL", "TENSOR")
        for zero in ("", "-ASYM")
        for smooth in ("", "-SMOOTH")
    ]


def _error_bounds() -> dict[str, float]:
    bounds = {**dict.fromkeys(KEPT, 0.0), "F16-ROUNDED": HALF}
    for reduced, factor in (("", 1), ("-REDUCED", 2)):
        bounds[f"INT8-ROW{reduced}"] = bounds[f"INT8-FILTER{reduced}"] = CHANNEL * factor
        for zero in ("", "-ASYM"):
            bounds[f"INT8-CHANNEL{zero}{reduced}"] = CHANNEL * factor
            bounds[f"INT8-TENSOR{zero}{reduced}"] = TENSOR * factor
            bounds[f"INT8-CHANNEL{zero}{reduced}-SMOOTH"] = CHANNEL * factor * SMOOTH
            bounds[f"INT8-TENSOR{zero}{reduced}-SMOOTH"] = TENSOR * factor * SMOOTH
    bounds |= {f"U{scheme}": bounds[scheme] for scheme in _matrices()}
    for (bits, zero), by_size in IN_BLOCKS.items():
        for size, bound in zip(SIZES, by_size, strict=True):
            bounds[f"INT{bits}-{size}{zero}"] = bound
            bounds[f"INT{bits}-{size}{zero}-GPTQ"] = solved(bits, size, not zero).relative_rmse
    return bounds


def _block_bounds() -> dict[str, BlockBound]:
    """Half a step of a range from -peak to peak."""
    bounds = {**dict.fromkeys(KEPT, BlockBound(32, 0.0)), "F16-ROUNDED": BlockBound(32, HALF, absolute=2.0**-25)}
    for zero in ("", "-ASYM"):
        for reduced, largest in (("", 127), ("-REDUCED", 64)):
            half = 0.51 / largest
            bounds[f"INT8-CHANNEL{zero}{reduced}"] = BlockBound(32, 0.0, WHOLE_ROW, half)
            bounds[f"INT8-TENSOR{zero}{reduced}"] = BlockBound(32, 0.0, tensor_relative=half)
            uneven = RATIO * half  # of the least channel, behind what it is multiplied by
            bounds[f"INT8-CHANNEL{zero}{reduced}-SMOOTH"] = BlockBound(32, 0.0, WHOLE_ROW, uneven)
            bounds[f"INT8-TENSOR{zero}{reduced}-SMOOTH"] = BlockBound(32, 0.0, tensor_relative=uneven)
            bounds[f"INT8-ROW{reduced}"] = BlockBound(32, 0.0, WHOLE_ROW, half)
            bounds[f"INT8-FILTER{reduced}"] = BlockBound(32, 0.0, tensor_relative=half)
    bounds |= {f"U{scheme}": bounds[scheme] for scheme in _matrices()}
    for bits, zero in IN_BLOCKS:
        for size in SIZES:
            bounds[f"INT{bits}-{size}{zero}"] = BlockBound(size, 1.02 / (2**bits - 1))
            most = solved(bits, size, not zero).of_row_peak
            bounds[f"INT{bits}-{size}{zero}-GPTQ"] = BlockBound(Tolerance.block, 0.0, WHOLE_ROW, most)
    return bounds


ONNX = Method(
    name="onnx",
    version="0.1.0",
    summary="8-bit integer products, or blocks of 4 and 8 bits, for ONNX Runtime; from an ONNX model or a checkpoint",
    params=OnnxParams,
    plan=lazy("quantmill_onnx.planning:plan"),
    settle=lazy("quantmill_onnx.halves:settle"),
    quantize=lazy("quantmill_onnx.algorithm:quantize"),
    write=lazy("quantmill_onnx.export:write"),
    convert=lazy("quantmill_onnx.exporting:convert"),
    place=lazy("quantmill_onnx.export:place"),
    read=lazy("quantmill_onnx.reader:read"),
    inspect=lazy("quantmill_onnx.inspection:inspect"),
    formats=("onnx",),
    architectures=("ONNX",),
    error_bounds=_error_bounds(),
    block_bounds=_block_bounds(),
    runtimes=(Runtime("onnxruntime", "onnxruntime.InferenceSession('{folder}/model.onnx')"),),
    ladder=(
        {"mode": "weight_only", "weight_bits": 4, "block_size": 128},
        {"mode": "weight_only", "weight_bits": 4, "block_size": 32},
        {"mode": "dynamic", "weight_bits": 8},
        {"mode": "weight_only", "weight_bits": 8, "block_size": 32},
    ),
    bits=(4, 8),
    granularity="a scale for each output, row or tensor; blocks of 16 to 256 values",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [ONNX]


@hookimpl
def quantmill_runtimes() -> list[FormatFacts]:
    return [ONNX_FACTS]
