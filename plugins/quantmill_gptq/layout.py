"""How the formats store a weight: names, dtypes and shapes of its arrays.

GPTQModel 7.7: nn_modules/qlinear/__init__.py, pack_original. Those of compressed-tensors are in
`contract.compressed_tensors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from quantmill.contract.compressed_tensors import packed_parts
from quantmill.contract.model_folder import StoredPart, kept_part
from quantmill.contract.tensors import TensorPlan
from quantmill_gptq.params import GptqParams

ScaleDtype = Literal["float32", "float16", "bfloat16"]
SCALE_DTYPES: Mapping[str, ScaleDtype] = MappingProxyType(  # of sources, as the kernels say it
    {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
)


def scheme_of(params: GptqParams) -> str:
    """INT, bits, what shares a scale, and asym for zero points: INT4-g128, INT3-row-asym."""
    return scheme(params.bits, params.group_size, params.sym)


def scheme(bits: int, group_size: int, sym: bool) -> str:
    grain = "row" if group_size == -1 else f"g{group_size}"
    return f"INT{bits}-{grain}{'' if sym else '-asym'}"


def parts_of(row: TensorPlan, params: GptqParams) -> Sequence[StoredPart]:
    """The arrays that the files hold for a tensor of the plan."""
    if row.action == "keep":
        return (kept_part(row),)
    return _pack_quantized(row, params) if params.format == "compressed-tensors" else _gptq(row, params)


def groups_of(inputs: int, group_size: int) -> int:
    return 1 if group_size == -1 else inputs // group_size


def _gptq(row: TensorPlan, params: GptqParams) -> Sequence[StoredPart]:
    module, (outputs, inputs) = row.name.removesuffix(".weight"), row.shape
    groups = groups_of(inputs, params.group_size)
    return (
        StoredPart("qweight", f"{module}.qweight", "I32", (inputs * params.bits // 32, outputs)),
        StoredPart("qzeros", f"{module}.qzeros", "I32", (groups, outputs * params.bits // 32)),
        StoredPart("scales", f"{module}.scales", "F16", (groups, outputs)),
        StoredPart("g_idx", f"{module}.g_idx", "I32", (inputs,)),
    )


def _pack_quantized(row: TensorPlan, params: GptqParams) -> Sequence[StoredPart]:
    module, groups = row.name.removesuffix(".weight"), groups_of(row.shape[1], params.group_size)
    return packed_parts(module, row.shape, params.bits, groups, row.source_dtype, zero_points=not params.sym)
