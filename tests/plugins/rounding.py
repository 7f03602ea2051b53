"""A calibrated method as small as one can be: rounds each row to the grid that its inputs' second moments favour.

The weights of a block are quantized stage by stage, behind what has been quantized before; the last of each, and the
head where it is stored, by the source's own statistics. It stands for every method that walks blocks in the tests of
what carries them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.numpy import save_file

from quantmill.contract import hookimpl
from quantmill.contract.calibration import CalibrationNeed, Statistics
from quantmill.contract.linears import linears
from quantmill.contract.method import Method, lazy
from quantmill.contract.model_folder import KEPT_BLOCK_BOUNDS, KEPT_ERROR_BOUNDS, kept_row
from quantmill.contract.reading import WHOLE_ROW, BlockBound, ReadTensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, ModelIndex, Plan, QuantizedTensor, TensorPlan, Unit

SHRINKS = (1.0, 0.9, 0.8, 0.7)  # of the absmax that the grid reaches to
FILE = "model.safetensors"


class RoundingParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: Literal[4, 8] = 4


def plan(index: ModelIndex, params: RoundingParams) -> Plan:
    found = linears(index)
    rows = tuple(
        TensorPlan(
            info.name,
            info.shape,
            info.dtype,
            "quantize",
            f"int{params.bits}",
            info.name,
            info.values + 4 * info.shape[0],
        )
        if info.name in found
        else kept_row(info, "not a Linear")
        for info in index.tensors.values()
    )
    blocks: dict[int, list[str]] = {}
    for name, linear in found.items():
        if linear.block is not None:
            blocks.setdefault(linear.block, []).append(name)
    walked = tuple(Unit(f"block {number}", tuple(blocks[number]), number) for number in sorted(blocks))
    inside = {name for unit in walked for name in unit.tensors}
    others = tuple(Unit(row.name, (row.name,)) for row in rows if row.name not in inside)
    by_source = tuple(name for name, linear in found.items() if linear.block is None or is_last(name))
    need = CalibrationNeed(("second_moment",), by_source, ("second_moment",))
    peak = max(4 * 4 * info.values for info in index.tensors.values())
    return Plan(rows, walked + others, peak, calibration=need)


def quantize(session: Session, params: RoundingParams) -> Iterator[QuantizedTensor]:
    for block in session.blocks():
        unit = next(unit for unit in session.plan.units if unit.key == block.unit)
        made: dict[str, QuantizedTensor] = {}
        for stage in block.stages:
            known = block.statistics([name for name in stage if not is_last(name)], ("second_moment",))
            for name in stage:
                inputs = session.statistics(name) if is_last(name) else known[name]
                made[name] = _rounded(session, name, block.weight(name), inputs, params.bits)
                block.replace(name, made[name].parts["codes"] * made[name].parts["scale"])
        yield from (made.pop(name) for name in unit.tensors)
    for unit in session.units():
        (name,) = unit.tensors
        row, values = session.plan.by_name[name], session.tensor(name).values
        if row.action == "keep":
            yield QuantizedTensor(name, row.scheme, row.shape, {"values": np.asarray(values)})
        else:
            yield _rounded(session, name, values.astype(np.float32), session.statistics(name), params.bits)


def is_last(name: str) -> bool:
    return name.endswith("down_proj.weight")


def _rounded(session: Session, name: str, weight: FloatArray, inputs: Statistics, bits: int) -> QuantizedTensor:
    """Codes int8 (out, in) and a scale float32 (out, 1) for each row."""
    assert inputs.second_moment is not None
    most = 2 ** (bits - 1) - 1
    best = np.full((len(weight), 1), np.inf, np.float32)
    codes, scale = np.zeros(weight.shape, np.int8), np.zeros((len(weight), 1), np.float32)
    for shrink in SHRINKS:
        step = np.maximum(np.abs(weight).max(axis=1, keepdims=True) * np.float32(shrink / most), np.float32(1e-12))
        tried = np.clip(np.rint(weight / step), -most, most)
        error = ((tried * step - weight) ** 2 @ inputs.second_moment)[:, None]
        better = error < best
        best = np.where(better, error, best)
        scale = np.where(better, step, scale)
        codes = np.where(better, tried, codes).astype(np.int8)
    row = session.plan.by_name[name]
    return QuantizedTensor(name, row.scheme, row.shape, {"codes": codes, "scale": scale})


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: RoundingParams, folder: Path
) -> list[Path]:
    """One file of all tensors, its metadata naming the schemes."""
    arrays: dict[str, Any] = {}
    schemes = {}
    for tensor in tensors:
        schemes[tensor.name] = tensor.scheme
        for part, values in tensor.parts.items():
            stored = values.view(np.uint16) if tensor.scheme == "BF16" else values
            arrays[f"{tensor.name}/{part}"] = np.ascontiguousarray(stored)
    save_file(arrays, folder / FILE, metadata={"schemes": json.dumps(schemes)})
    return [folder / FILE]


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    with safe_open(folder / FILE, "numpy") as file:
        for name, scheme in json.loads(file.metadata()["schemes"]).items():
            if names is not None and name not in names:
                continue
            if scheme.startswith("int"):
                codes, scale = file.get_tensor(f"{name}/codes"), file.get_tensor(f"{name}/scale")
                yield ReadTensor(name, scheme, codes.nbytes + scale.nbytes, codes * scale)
            else:
                values = file.get_tensor(f"{name}/values")
                widened = values.astype(np.uint32) << 16 if scheme == "BF16" else values  # its bits are float32's upper
                floats = widened.view(np.float32) if scheme == "BF16" else widened.astype(np.float32)
                yield ReadTensor(name, scheme, values.nbytes, floats)


ROUNDING = Method(
    name="rounding",
    version="1",
    summary="Rounds rows to the grid that calibration favours.",
    params=RoundingParams,
    plan=lazy(f"{__name__}:plan"),
    quantize=lazy(f"{__name__}:quantize"),
    write=lazy(f"{__name__}:write"),
    read=lazy(f"{__name__}:read"),
    formats=("rounding",),
    architectures=("LlamaForCausalLM",),
    error_bounds={**KEPT_ERROR_BOUNDS, "int4": 0.5, "int8": 0.5},
    block_bounds={
        **KEPT_BLOCK_BOUNDS,
        "int4": BlockBound(32, 0.0, WHOLE_ROW, 0.6),
        "int8": BlockBound(32, 0.0, WHOLE_ROW, 0.6),
    },
    runtimes=(),
    bits=(4, 8),
    unit="block",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [ROUNDING]
