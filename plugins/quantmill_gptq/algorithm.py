"""Quantizing block by block: Hessians from calibration, solved one stage of a block after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.calibration import CalibratedBlock, Statistic, Statistics
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, QuantizedTensor, TensorPlan
from quantmill_gptq.layout import SCALE_DTYPES, ScaleDtype
from quantmill_gptq.params import GptqParams
from quantmill_gptq.solution import Inputs, Solution, solve

HESSIAN: tuple[Statistic, ...] = ("hessian",)
NEAREST = "rounded to nearest"


def quantize(session: Session, params: GptqParams) -> Iterator[QuantizedTensor]:
    """Solve the Linears of each block as the plan says; the parts are those of `layout.parts_of`.

    Raises RangeExceeded, naming the tensor, for values whose scale the format cannot hold.
    """
    units = {unit.key: unit for unit in session.plan.units}
    solved = _walked if params.predecessors == "quantized" else _at_the_source
    for block in session.blocks():
        made = solved(session, block, params)
        for name in units[block.unit].tensors:
            yield made.pop(name)
    for unit in session.units():
        yield kept_tensor(session.tensor(unit.tensors[0]))


def _walked(session: Session, block: CalibratedBlock, params: GptqParams) -> dict[str, QuantizedTensor]:
    """The block's Linears; each is replaced by what a reader will compute, so that what follows is calibrated on it."""
    made: dict[str, QuantizedTensor] = {}
    planned = [tuple(name for name in stage if _is_planned(session, name)) for stage in block.stages]
    stages = [stage for stage in planned if stage]
    every = [name for stage in stages for name in stage]
    known = None if params.sequential else block.statistics(every, HESSIAN)
    for stage in stages:
        statistics = block.statistics(stage, HESSIAN) if known is None else known
        inputs = _inputs(session, statistics[stage[0]], params)
        for name in stage:
            row = session.plan.by_name[name]
            solution = _solved(session, block.weight(name), row, inputs, params)
            _note(session, name, statistics[name], solution, params)
            block.replace(name, solution.weights())
            made[name] = _packed(row, solution, params, session.threads)
    return made


def _is_planned(session: Session, name: str) -> bool:
    row = session.plan.by_name.get(name)
    return row is not None and row.action == "quantize"


def _at_the_source(session: Session, block: CalibratedBlock, params: GptqParams) -> dict[str, QuantizedTensor]:
    """The block's Linears by the statistics of the source model's own pass; those behind it are fed by the source's."""
    made: dict[str, QuantizedTensor] = {}
    for stage in block.stages:
        inputs: Inputs | None = None
        for row in (session.plan.by_name[name] for name in stage if _is_planned(session, name)):
            statistics = session.statistics(row.name)
            inputs = inputs or _inputs(session, statistics, params)
            solution = _solved(session, block.weight(row.name), row, inputs, params)
            _note(session, row.name, statistics, solution, params)
            made[row.name] = _packed(row, solution, params, session.threads)
    return made


def _inputs(session: Session, statistics: Statistics, params: GptqParams) -> Inputs:
    assert statistics.hessian is not None  # asked for by the plan
    return Inputs(statistics.hessian, params, session.device)


def _solved(session: Session, weight: FloatArray, row: TensorPlan, inputs: Inputs, params: GptqParams) -> Solution:
    stored: ScaleDtype = "float16" if params.format != "compressed-tensors" else SCALE_DTYPES[row.source_dtype]
    try:
        return solve(weight, inputs, params, stored, session.threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{row.name}: {error}; put its module into skip_modules", tensor=row.name) from error


def _note(session: Session, name: str, statistics: Statistics, solution: Solution, params: GptqParams) -> None:
    """What the calibration text did not settle."""
    assert statistics.hessian is not None
    dead, inputs = int(np.count_nonzero(np.diagonal(statistics.hessian) <= 0)), len(statistics.hessian)
    if dead == inputs:
        why = "its inputs were always 0" if statistics.tokens else "no calibration token reached it"
        session.note(name, NEAREST, why=why)
        return
    if dead:
        session.note(name, "inputs that were always 0", inputs=dead, of=inputs)
    if statistics.tokens < inputs:
        session.note(name, "fewer tokens than inputs", tokens=statistics.tokens, inputs=inputs)
    if solution.damp == np.inf:
        session.note(name, NEAREST, why="with no damping its weights stayed within what verification accepts")
    elif solution.damp > params.damp_percent:
        session.note(name, "damping raised", asked=params.damp_percent, used=float(solution.damp))


Parts = Mapping[str, NDArray[Any]]


def _packed(row: TensorPlan, solution: Solution, params: GptqParams, threads: int) -> QuantizedTensor:
    compressed = params.format == "compressed-tensors"
    parts = (_pack_quantized if compressed else _gptq)(row, solution, params, threads)
    return QuantizedTensor(row.name, row.scheme, row.shape, parts)


def _gptq(row: TensorPlan, solution: Solution, params: GptqParams, threads: int) -> Parts:
    convention: Any = params.format
    return {
        "qweight": quantmill_kernels.pack_gptq(solution.codes, params.bits, threads=threads),
        "qzeros": quantmill_kernels.pack_gptq_zeros(solution.zeros, params.bits, format=convention, threads=threads),
        "scales": np.ascontiguousarray(solution.scales.T.astype(np.float16)),  # exact: rounded to it already
        "g_idx": solution.group_index,
    }


def _pack_quantized(row: TensorPlan, solution: Solution, params: GptqParams, threads: int) -> Parts:
    parts: dict[str, NDArray[Any]] = {
        "packed": quantmill_kernels.pack_quantized(solution.codes, params.bits, threads=threads),
        "shape": np.array(row.shape, np.int64),
        "scale": solution.scales.astype(SCALE_DTYPES[row.source_dtype]),  # exact: rounded to it already
    }
    if not params.sym:
        parts["zero_point"] = quantmill_kernels.pack_quantized_zeros(solution.zeros, params.bits, threads=threads)
    return parts
