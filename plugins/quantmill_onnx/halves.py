"""Storing as float16 what stays float: decided once the values have been seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, Plan, TensorPlan
from quantmill_onnx import settling
from quantmill_onnx.layout import HALF
from quantmill_onnx.params import OnnxParams

LARGEST = 65520.0  # from here on the nearest float16 is infinite
LEAST_RMSE = 0.0005  # of a weight that float16 does not hold: half a step of 11 bits is 0.00024 of a value
CHUNK_VALUES = 1 << 18


def settle(session: Session, params: OnnxParams) -> Plan:
    """The plan with the gates met, and with each weight in float32 that float16 does not hold.

    Raises as `settling.settle` where there are gates.
    """
    plan = settling.settle(session, params) if params.gates else session.plan
    return replace(plan, tensors=tuple(_settled(session, row) for row in plan.tensors))


def _settled(session: Session, row: TensorPlan) -> TensorPlan:
    row = replace(row, candidates=())
    if row.scheme != HALF:
        return row
    session.pause()
    why = unlike_float16(session.tensor(row.name).values)
    if not why:
        return row
    source = session.index.tensors[row.name]
    return replace(row, scheme=source.dtype, nbytes=source.nbytes, reason=f"{row.reason}; float32, since {why}")


def unlike_float16(values: FloatArray) -> str:
    """Why float16 does not hold the values, in words; empty where it does."""
    flat = values.reshape(-1)
    error = squares = 0.0
    for start in range(0, flat.size, CHUNK_VALUES):
        chunk = flat[start : start + CHUNK_VALUES].astype(np.float64)
        peak = float(np.abs(chunk).max())
        if peak >= LARGEST:
            return f"float16 ends at 65504 and it has {peak:.4g}"
        error += float(np.sum((chunk - chunk.astype(np.float16)) ** 2))
        squares += float(np.sum(chunk**2))
    return "most of its values are too small for float16" if error > LEAST_RMSE**2 * squares else ""
