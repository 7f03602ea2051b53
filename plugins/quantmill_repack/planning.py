"""The plan of a re-pack: which weights get another layout, from headers alone."""

from __future__ import annotations

from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.model_folder import QUANTIZATION, kept_row
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo, TensorPlan, Unit
from quantmill_repack.conversion import forecast
from quantmill_repack.layouts import (
    LAYOUTS,
    NVFP4_PACKED,
    is_out_of_order,
    parts_of,
    peak_memory,
    scheme_of,
    symmetric_in,
)
from quantmill_repack.params import RepackParams

UNCHANGED = "not quantized in the source"
OUT_OF_ORDER = (
    "its groups do not follow each other (desc_act); gptq keeps their order, and compressed-tensors 0.19 and vLLM no "
    "longer read it (weight_g_idx)"
)


def plan(index: ModelIndex, params: RepackParams) -> Plan:
    """Each quantized weight in the other layout, all else as it is. Defects of the source's settings are warnings.

    A GGUF file in NVFP4 becomes a checkpoint first (`conversion`).

    Raises SourceRejected for a source without quantized weights and for a GGUF file that stands for no checkpoint,
    ParamsRejected for a target that cannot hold a weight exactly, or holds it as no program reads it.
    """
    if index.gguf is not None:
        if params.to != NVFP4_PACKED:
            raise _refused(f"a GGUF file, in NVFP4, is repacked to {NVFP4_PACKED} only, not to {params.to}")
        return forecast(index, index.gguf)
    if not index.stored:
        raise SourceRejected("the source holds no quantized weights that can be repacked", key=QUANTIZATION)
    rows = tuple(_row(index, info, params) for info in index.tensors.values())
    units = tuple(Unit(row.name, (row.name,)) for row in rows)
    return Plan(rows, units, peak_memory(rows), index.defects)


def _row(index: ModelIndex, info: TensorInfo, params: RepackParams) -> TensorPlan:
    weight = index.stored.get(info.name)
    if weight is None:
        return kept_row(info, UNCHANGED)
    rule = LAYOUTS[params.to]
    obstacle = rule.obstacle(weight) if weight.format in rule.sources else f"it is made of {', '.join(rule.sources)}"
    if obstacle is None and params.to != "gptq" and is_out_of_order(weight, index):
        obstacle = OUT_OF_ORDER
    if obstacle:
        raise _refused(f"{info.name} ({weight.format}) cannot be repacked to {params.to}: {obstacle}")
    scheme = scheme_of(params.to, weight.bits, symmetric_in(params.to, weight))
    row = TensorPlan(info.name, info.shape, info.dtype, "quantize", scheme, info.name, 0)
    nbytes = sum(part.nbytes for part in parts_of(row, index, params.to))
    return TensorPlan(info.name, info.shape, info.dtype, "quantize", scheme, info.name, nbytes)


def _refused(message: str) -> ParamsRejected:
    return ParamsRejected(message, [{"pointer": "/params/to", "code": "not_lossless", "message": message}])
