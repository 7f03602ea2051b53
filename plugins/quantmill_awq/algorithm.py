"""Quantizing block by block: scales and clipping from calibration, folded into what stands before."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.calibration import CalibratedBlock, Statistics
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.model_folder import KEPT, kept_tensor
from quantmill.contract.scaling import candidates, magnitudes
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, Fold, QuantizedTensor, TensorPlan, Unit
from quantmill_awq.bounds import tolerance
from quantmill_awq.layout import group_of, scale_dtype
from quantmill_awq.params import AwqParams
from quantmill_awq.planning import STATISTICS
from quantmill_awq.rounding import DTYPES, Grid, Rounded, rounded
from quantmill_awq.search import Workers, find_clipping, find_scales, workers

UNCLIPPED = ("q_proj", "k_proj", "qkv_proj", "query_key_value")  # as AutoAWQ: errors of both meet in a product


class Weights(Protocol):
    """A block's weights and what their inputs were."""

    def weight(self, name: str) -> FloatArray: ...

    def statistics(self, names: Collection[str]) -> Mapping[str, Statistics]: ...

    def replace(self, name: str, values: FloatArray) -> None: ...


@dataclass(frozen=True)
class Walked:
    """A block that runs behind quantized blocks; what is quantized takes its weights' places."""

    block: CalibratedBlock

    def weight(self, name: str) -> FloatArray:
        return self.block.weight(name)

    def statistics(self, names: Collection[str]) -> Mapping[str, Statistics]:
        return self.block.statistics(names, STATISTICS)

    def replace(self, name: str, values: FloatArray) -> None:
        self.block.replace(name, values)


@dataclass(frozen=True)
class AtTheSource:
    """A block that stays as the source has it, with the statistics of the source model's own pass."""

    session: Session
    block: CalibratedBlock

    def weight(self, name: str) -> FloatArray:
        return self.block.weight(name)

    def statistics(self, names: Collection[str]) -> Mapping[str, Statistics]:
        return {name: self.session.statistics(name) for name in names}

    def replace(self, name: str, values: FloatArray) -> None:
        """The blocks behind are fed by the source's."""


def quantize(session: Session, params: AwqParams) -> Iterator[QuantizedTensor]:
    """Quantize the Linears of each block as the plan says; the parts are those of `layout.parts_of`.

    Raises RangeExceeded, naming the tensor, for values whose scale the format cannot hold.
    """
    units = {unit.key: unit for unit in session.plan.units}
    with workers(session.threads) as pool:
        for block in session.blocks():
            weights = Walked(block) if params.predecessors == "quantized" else AtTheSource(session, block)
            yield from _Block(session, params, units[block.unit], weights, pool).quantized()
    for unit in session.units():
        yield kept_tensor(session.tensor(unit.tensors[0]))


@dataclass
class _Block:
    """One unit of the plan: its Linears, and the norms and biases that are divided by their scales.

    `columns` are the scales of Linears' inputs, `rows` those of their outputs; 1 where there is none.
    """

    session: Session
    params: AwqParams
    unit: Unit
    weights: Weights
    pool: Workers
    columns: dict[str, FloatArray] = field(default_factory=dict)
    rows: dict[str, FloatArray] = field(default_factory=dict)
    made: dict[str, QuantizedTensor] = field(default_factory=dict)

    def quantized(self) -> Iterator[QuantizedTensor]:
        plan = self.session.plan
        rows = [plan.by_name[name] for name in self.unit.tensors if plan.by_name[name].action == "quantize"]
        known = self.weights.statistics([row.name for row in rows])
        for fold in plan.folds:
            if fold.producer in self.unit.tensors:
                self._fold(fold, self._found(fold, known[fold.consumers[0]]))
        for row in rows:
            self._quantize(row, known[row.name])
        for name in self.unit.tensors:
            yield self.made.pop(name)

    def _found(self, fold: Fold, statistics: Statistics) -> FloatArray:
        """The scales by which the fold's consumers lose least."""
        assert statistics.hessian is not None  # both are asked for by the plan
        assert statistics.mean_abs is not None
        matrices = [self.weights.weight(name) for name in fold.consumers]
        grid = self._grid(self.session.plan.by_name[fold.consumers[0]])
        relative = magnitudes(matrices, grid.group_size)
        tried = list(candidates(statistics.mean_abs, relative, self.params.n_grid, self.params.duo_scaling))
        accepted = tolerance(self.params.bits, self.params.group_size)
        hessian = np.array(statistics.hessian)  # torch takes no arrays that are read-only
        return find_scales(matrices, hessian, tried, grid, accepted, self.pool)

    def _fold(self, fold: Fold, scales: FloatArray) -> None:
        """Divide the producer. A norm says by what exactly, which is then what the consumers are multiplied by."""
        producer = self.session.plan.by_name[fold.producer]
        if producer.action == "keep":
            scales = self._keep(producer, scales, fold.offset)
        else:
            own = self.rows.setdefault(fold.producer, np.ones(producer.shape[0], np.float32))
            own[fold.first_row : fold.first_row + len(scales)] = scales
        self.columns |= dict.fromkeys(fold.consumers, scales)
        if fold.bias:
            row = self.session.plan.by_name[fold.bias]
            values = self.weights.weight(fold.bias).copy()
            values[fold.first_row : fold.first_row + len(scales)] /= scales
            self.made[row.name] = _kept(row, values.astype(DTYPES[row.source_dtype]))

    def _keep(self, row: TensorPlan, scales: FloatArray, offset: float) -> FloatArray:
        """Store a norm divided; gives by what, channel by channel, once it is rounded to the source's dtype."""
        source = self.weights.weight(row.name)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            divided = ((source + np.float32(offset)) / scales - np.float32(offset)).astype(DTYPES[row.source_dtype])
            exact = (source + np.float32(offset)) / (divided.astype(np.float32) + np.float32(offset))
        usable = (exact > scales / 2) & (exact < scales * 2)  # not so where a channel is 0 or beyond the dtype
        self.made[row.name] = _kept(row, np.where(usable, divided, source.astype(DTYPES[row.source_dtype])))
        return np.where(usable, exact, np.float32(1))

    def _quantize(self, row: TensorPlan, statistics: Statistics) -> None:
        assert statistics.hessian is not None
        weight, grid, params = self.weights.weight(row.name), self._grid(row), self.params
        columns = self.columns.get(row.name, np.ones(row.shape[1], np.float32))
        rows = self.rows.get(row.name, np.ones(row.shape[0], np.float32))[:, None]
        share: FloatArray | float = 1.0
        if params.clip and row.name.split(".")[-2] not in UNCLIPPED:
            accepted = tolerance(params.bits, params.group_size)
            share = find_clipping(weight, columns, statistics.hessian, params.n_grid, grid, accepted, self.pool)
        found = rounded(weight * columns / rows, grid, share)
        if not np.isfinite(found.scales).all():
            raise RangeExceeded(
                f"{row.name}: a scale is beyond what {grid.scale_dtype} holds; put its module into skip_modules",
                tensor=row.name,
            )
        self.weights.replace(row.name, found.weights() * rows / columns)
        parts = (_pack_quantized if params.format == "compressed-tensors" else _gemm)(
            row, found, params, self.session.threads
        )
        self.made[row.name] = QuantizedTensor(row.name, row.scheme, row.shape, parts)

    def _grid(self, row: TensorPlan) -> Grid:
        params = self.params
        return Grid(params.bits, group_of(row.shape[1], params), not params.zero_point, scale_dtype(row, params))


Parts = Mapping[str, NDArray[Any]]


def _kept(row: TensorPlan, values: NDArray[Any]) -> QuantizedTensor:
    return QuantizedTensor(row.name, row.scheme, row.shape, {KEPT: values})


def _gemm(row: TensorPlan, found: Rounded, params: AwqParams, threads: int) -> Parts:
    return {
        "qweight": quantmill_kernels.pack_awq(found.codes, threads=threads),
        "qzeros": quantmill_kernels.pack_awq(found.zeros, threads=threads),
        "scales": np.ascontiguousarray(found.scales.T.astype(np.float16)),  # exact: rounded to it already
    }


def _pack_quantized(row: TensorPlan, found: Rounded, params: AwqParams, threads: int) -> Parts:
    parts: dict[str, NDArray[Any]] = {
        "packed": quantmill_kernels.pack_quantized(found.codes, params.bits, threads=threads),
        "shape": np.array(row.shape, np.int64),
        "scale": found.scales.astype(DTYPES[row.source_dtype]),  # exact: rounded to it already
    }
    if params.zero_point:
        parts["zero_point"] = quantmill_kernels.pack_quantized_zeros(found.zeros, params.bits, threads=threads)
    return parts
