"""Where AWQ's scales go in a plan, and what finding them takes."""

from __future__ import annotations

from collections.abc import Sequence

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.scaling import folds_of
from quantmill.contract.tensors import Fold, ModelIndex, TensorPlan
from quantmill_gguf.params import GgufParams

SAMPLE_VALUES = 1 << 20  # of a weight that scales are tried on: whole rows, evenly spaced


def planned_folds(index: ModelIndex, rows: Sequence[TensorPlan], params: GgufParams) -> tuple[Fold, ...]:
    """Where scales go among the weights that are quantized.

    Raises ParamsRejected where there is no such place.
    """
    if not params.awq:
        return ()
    quantized = frozenset(row.name for row in rows if row.action == "quantize")
    found = tuple(folds_of(index, quantized)) if index.gguf is None else ()
    if not found:
        message = f"awq: no scales have a place in {index.architecture} with these types; leave awq out"
        raise ParamsRejected(f"gguf: {message}", [{"pointer": "/params/awq", "code": "awq", "message": message}])
    return found


def working_bytes(index: ModelIndex, folds: Sequence[Fold]) -> int:
    """The largest tensor that is scaled, in float32 and once more, and a sample with what comes of it."""
    names = {name for fold in folds for name in (fold.producer, *fold.consumers)}
    return max((8 * index.tensors[name].values for name in names), default=-(24 * SAMPLE_VALUES)) + 24 * SAMPLE_VALUES
