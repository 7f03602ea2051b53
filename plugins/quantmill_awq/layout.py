"""How the formats store a weight: names, dtypes and shapes of its arrays.

AutoAWQ 0.2.9: awq/modules/linear/gemm.py. Those of compressed-tensors are in `contract.compressed_tensors`.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantmill.contract.compressed_tensors import packed_parts
from quantmill.contract.model_folder import StoredPart, kept_part
from quantmill.contract.tensors import TensorPlan
from quantmill_awq.params import AwqParams

SOURCES = ("F32", "F16", "BF16")


def scheme_of(params: AwqParams) -> str:
    """INT, bits, what shares a scale, and asym for zero points: INT4-g128-asym, INT3-row."""
    return scheme(params.bits, params.group_size, params.zero_point)


def scheme(bits: int, group_size: int, zero_point: bool) -> str:
    grain = "row" if group_size == -1 else f"g{group_size}"
    return f"INT{bits}-{grain}{'-asym' if zero_point else ''}"


def scale_dtype(row: TensorPlan, params: AwqParams) -> str:
    """The dtype of a weight's scales: float16 in gemm, the source's in compressed-tensors."""
    return "F16" if params.format == "gemm" else row.source_dtype


def group_of(inputs: int, params: AwqParams) -> int:
    """Inputs that share a scale."""
    return inputs if params.group_size == -1 else params.group_size


def parts_of(row: TensorPlan, params: AwqParams) -> Sequence[StoredPart]:
    """The arrays that the files hold for a tensor of the plan."""
    if row.action == "keep":
        return (kept_part(row),)
    return _pack_quantized(row, params) if params.format == "compressed-tensors" else _gemm(row, params)


def _gemm(row: TensorPlan, params: AwqParams) -> Sequence[StoredPart]:
    module, (outputs, inputs) = row.name.removesuffix(".weight"), row.shape
    groups = inputs // group_of(inputs, params)
    return (
        StoredPart("qweight", f"{module}.qweight", "I32", (inputs, outputs // 8)),
        StoredPart("qzeros", f"{module}.qzeros", "I32", (groups, outputs // 8)),
        StoredPart("scales", f"{module}.scales", "F16", (groups, outputs)),
    )


def _pack_quantized(row: TensorPlan, params: AwqParams) -> Sequence[StoredPart]:
    module, groups = row.name.removesuffix(".weight"), row.shape[1] // group_of(row.shape[1], params)
    return packed_parts(module, row.shape, params.bits, groups, row.source_dtype, zero_points=params.zero_point)
