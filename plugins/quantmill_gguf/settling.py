"""Settling a budget: what the weights lose by each type is measured, and the types that lose least are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.gguf import NVFP4, BlockTensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, Plan, SourceTensor
from quantmill_gguf.budget import Group
from quantmill_gguf.families import ExpectedTensor
from quantmill_gguf.imatrix import ImportanceMatrix
from quantmill_gguf.importance import IGNORE_IMPORTANCE, importance_for, require_unchanged
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import allotted, laid_out
from quantmill_gguf.requantizing import is_copied
from quantmill_gguf.sensitivity import weight_of

SAMPLE_VALUES = 1 << 16  # of a tensor of the file: whole rows, evenly spaced
SAMPLE_PARTS = 8  # of its experts
DIGITS = 6  # that losses keep, so that no processor's order of additions decides


def settle(session: Session, params: GgufParams) -> Plan:
    """The plan of a budget with the types of which the weights lose least.

    Raises SourceRejected when the importance matrix is no longer the one that was planned with, RangeExceeded, naming
    the tensor, for a value that no type can hold.
    """
    laid = laid_out(session.index, params)
    if laid.matrix is not None:
        require_unchanged(laid.matrix, session.plan)
    losses = measured(session, laid.groups, laid.output, laid.matrix)
    plan = allotted(laid, losses, measured=True)
    rows = tuple(replace(row, beside=session.plan.by_name[row.name].beside) for row in plan.tensors)
    return replace(plan, tensors=rows, calibration=session.plan.calibration)  # whatever types were chosen


def measured(
    session: Session, groups: Sequence[Group], output: str, matrix: ImportanceMatrix | None
) -> list[list[float]]:
    """Each group's loss by type, on a sample of each tensor's rows. Holds one tensor's sample at a time."""
    return [_losses(session, group, output, matrix) for group in groups]


def _losses(session: Session, group: Group, output: str, matrix: ImportanceMatrix | None) -> list[float]:
    total = np.zeros(len(group.types))
    for tensor in group.tensors:
        if not _is_sampled(tensor):
            continue
        shared = min(tensor.parts, SAMPLE_PARTS) or 1
        errors = _relative_errors(session, tensor, group.types, matrix, SAMPLE_VALUES // shared)
        if not np.isfinite(errors).any():
            raise RangeExceeded(f"{tensor.name} holds values that no type of the budget can hold", tensor=tensor.name)
        total += np.array(errors) * weight_of(tensor, output) * (max(1, tensor.parts) / shared)
    return [float(f"{loss:.{DIGITS}g}") for loss in total]


def _is_sampled(tensor: ExpectedTensor) -> bool:
    """Whether the tensor is looked at: of many experts evenly spaced ones."""
    if tensor.parts <= SAMPLE_PARTS:
        return True
    return tensor.part in {place * tensor.parts // SAMPLE_PARTS for place in range(SAMPLE_PARTS)}


def _relative_errors(
    session: Session, tensor: ExpectedTensor, types: Sequence[str], matrix: ImportanceMatrix | None, most: int
) -> list[float]:
    """sum w (x - decoded)^2 / sum w x^2 of the sampled rows, for each of `types`."""
    row = session.plan.by_name[tensor.name]
    importance = importance_for(session, matrix, row, tensor)
    source = session.tensor(tensor.name)
    if not tensor.held:
        return _errors_of(sample(source.values, tensor, most), types, importance, session.threads)
    matrices = sorted({place * tensor.matrices // SAMPLE_PARTS for place in range(SAMPLE_PARTS)})
    errors = []
    for number in matrices:
        rows = _rows_of_matrix(source, tensor, number, most // len(matrices))
        own = importance if importance is None or importance.ndim == 1 else importance[number]
        errors.append(_errors_of(rows, types, own, session.threads))
    means = [sum(each) / len(matrices) for each in zip(*errors, strict=True)]
    return [0.0 if is_copied(tensor, type_) else mean for type_, mean in zip(types, means, strict=True)]


def _rows_of_matrix(source: SourceTensor, tensor: ExpectedTensor, number: int, most: int) -> NDArray[Any]:
    """As `sample`, of one matrix of a GGUF file's tensor."""
    cols = tensor.stored[-1]
    stored = source.packed if isinstance(source, BlockTensor) else source.values.reshape(-1, cols)
    each = len(stored) // tensor.matrices
    places = number * each + _spaced(each, most // cols)
    if isinstance(source, BlockTensor) and source.type == NVFP4:
        return source.at(places)
    chosen = stored[places]
    return quantmill_kernels.decode(source.type.name, chosen, cols) if isinstance(source, BlockTensor) else chosen


def _errors_of(rows: NDArray[Any], types: Sequence[str], importance: FloatArray | None, threads: int) -> list[float]:
    weights = np.ones(rows.shape[1]) if importance is None else importance.astype(np.float64)
    norm = float(np.square(rows.astype(np.float64)).sum(axis=0) @ weights)
    if norm == 0.0:
        return [0.0] * len(types)
    return [_squared_error(rows, type_, importance, weights, threads) / norm for type_ in types]


def sample(values: NDArray[Any], tensor: ExpectedTensor, most: int) -> NDArray[Any]:
    """Rows of the matrix as GGUF has them, evenly spaced, `most` values in all, but one row at least; (rows, cols)."""
    matrix = values.T if tensor.transposed else values.reshape(-1, tensor.stored[-1])
    return np.ascontiguousarray(matrix[_spaced(matrix.shape[0], most // matrix.shape[1])])


def _spaced(rows: int, most: int) -> NDArray[np.int64]:
    """Numbers of up to `most` of the rows, but one at least."""
    count = min(rows, max(1, most))
    return np.arange(count) * rows // count


def _squared_error(
    rows: NDArray[Any], type_: str, importance: FloatArray | None, weights: NDArray[np.float64], threads: int
) -> float:
    """Summed over the rows; infinite for a type that cannot hold them."""
    used = None if type_ in IGNORE_IMPORTANCE else importance
    try:
        packed = quantmill_kernels.encode(type_, rows, imatrix=used, threads=threads)
    except ValueError:
        return math.inf
    decoded = quantmill_kernels.decode(type_, packed, rows.shape[1], threads=threads)
    difference = decoded.astype(np.float64) - rows.astype(np.float64)
    return float(np.square(difference).sum(axis=0) @ weights)
