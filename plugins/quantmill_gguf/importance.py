"""Which importance each tensor of a file is quantized with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.errors import ParamsRejected, PluginBroken, SourceRejected
from quantmill.contract.session import Session
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import FloatArray, Fold, Plan, TensorPlan
from quantmill_gguf.families import ExpectedTensor
from quantmill_gguf.imatrix import Entry, ImportanceMatrix, read_imatrix
from quantmill_gguf.params import BUDGET, GgufParams
from quantmill_gguf.policies import NEED_IMATRIX
from quantmill_gguf.types import COUNTS, PLUS_ONE, SUMS

# How many times its type's block bound a block may be off when its columns are weighted. Measured on millstone-4m's
# weights: up to 8.4 with log-normal importances of sigma 3 and 4, one column of 10^4, and one used column in 64.
BLOCK_SLACK = 12.0

# llama-imatrix leaves these out unless asked, and llama-quantize does without
SELDOM_GATHERED = ("token_embd.weight", "output.weight")
EMBEDDING = "token_embd.weight"

IGNORE_IMPORTANCE = ("F32", PLUS_ONE.name, "F16", "BF16", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")


def given(params: GgufParams) -> ImportanceMatrix | None:
    """The importance matrix that the parameters name; that of `auto` is computed while the job runs.

    Raises ParamsRejected for a file that is none.
    """
    if params.imatrix == "none":
        if params.type in NEED_IMATRIX:
            raise rejected(f"{params.type} is made with an importance matrix only; give one")
        return None
    if params.imatrix == "auto":
        return None
    try:
        return read_imatrix(Path(params.imatrix))
    except SourceRejected as error:
        raise rejected(error.detail) from error


def importance_for(
    session: Session, matrix: ImportanceMatrix | None, row: TensorPlan, tensor: ExpectedTensor
) -> FloatArray | None:
    """Of each column, float32 (cols,), from the file that was given or from the calibration text; None without."""
    return computed(session, row, tensor) if matrix is None else importance_of(matrix, row, tensor)


def weighted(
    matrix: ImportanceMatrix | None, row: TensorPlan, tensor: ExpectedTensor, params: GgufParams
) -> TensorPlan:
    """The row with the slack that its importance asks for, and with what is kept of one that will be computed."""
    if params.imatrix == "auto" and is_computed(row, tensor):
        return replace(row, block_slack=BLOCK_SLACK, beside=4 * (tensor.stored[-1] + 1))  # sums, and how many tokens
    return replace(row, block_slack=BLOCK_SLACK) if matrix and entry_of(matrix, row, tensor) else row


def is_computed(row: TensorPlan, tensor: ExpectedTensor) -> bool:
    """Whether `auto` has importance for the tensor: matrices of blocks, as llama-imatrix gathers them."""
    return row.output.startswith("blk.") and _takes_importance(row, tensor)


def needed(
    planned: Sequence[tuple[TensorPlan, ExpectedTensor]], params: GgufParams, folds: Sequence[Fold]
) -> CalibrationNeed | None:
    """What `auto` asks of the calibration text: mean squared inputs in the source model. Scales ask for magnitudes."""
    if params.imatrix != "auto" and not folds:
        return None
    scaled = {name for fold in folds for name in fold.consumers}
    auto = params.imatrix == "auto"
    names = (row.name for row, tensor in planned if row.name in scaled or (auto and is_computed(row, tensor)))
    return CalibrationNeed(("second_moment", "mean_abs") if folds else ("second_moment",), tuple(names))


def computed(session: Session, row: TensorPlan, tensor: ExpectedTensor) -> FloatArray | None:
    """As `importance_of`, of what the calibration text's tokens were in the source model."""
    if not row.beside or not _takes_importance(row, tensor):
        return None
    means: FloatArray = _gathered(session, row).means(1, tensor.stored[-1])[0]
    return means


def kept(session: Session, row: TensorPlan) -> dict[str, FloatArray]:
    """What a computed matrix has of a tensor, as its parts: float32 (cols,) and (1,); none where none is computed."""
    if not row.beside:
        return {}
    entry = _gathered(session, row)
    return {SUMS: entry.sums, COUNTS: entry.counts}


def _gathered(session: Session, row: TensorPlan) -> Entry:
    found = session.statistics(row.name)
    if found.second_moment is None:
        raise PluginBroken(f"the calibration gives no second moment for {row.name}", tensor=row.name)
    return Entry(found.second_moment * np.float32(found.tokens), np.array([found.tokens], np.float32))


def check(
    matrix: ImportanceMatrix, planned: Sequence[tuple[TensorPlan, ExpectedTensor]], params: GgufParams
) -> Iterator[str]:
    """Warnings of tensors that the matrix says nothing of, and of experts that no token reached.

    Raises ParamsRejected for a matrix of another model, and where a type needs an entry that is missing.
    """
    weighted, missing = 0, []
    for row, tensor in planned:
        if tensor.part or not _takes_importance(row, tensor):  # the first part speaks for all
            continue
        entry = entry_of(matrix, row, tensor)
        if entry is not None:
            weighted += 1
            yield from _unreached(entry, tensor)
        elif row.scheme == NEED_IMATRIX.get(params.type) and row.output != EMBEDDING:
            raise rejected(f"has nothing for {row.output}, and {params.type} needs it there")
        elif row.output not in SELDOM_GATHERED:
            missing.append(row.output)
    if not weighted and (missing or params.type != BUDGET):  # a budget may come to types that take none
        raise rejected(f"has nothing for any quantized tensor of this model; its first is {_first(matrix)}")
    if missing:
        names = ", ".join(missing[:5])
        yield f"the importance matrix has nothing for {len(missing)} tensors, quantized without it: {names}"


def importance_of(matrix: ImportanceMatrix, row: TensorPlan, tensor: ExpectedTensor) -> FloatArray | None:
    """Weights of the squared error, float32 (cols,); None where the matrix has none for this tensor.

    Of several experts in one source tensor they are (matrices, cols).
    """
    entry = entry_of(matrix, row, tensor)
    if entry is None:
        return None
    means: FloatArray = entry.means(*_stack(tensor))
    return means[tensor.part] if tensor.parts or len(means) == 1 else means


def entry_of(matrix: ImportanceMatrix, row: TensorPlan, tensor: ExpectedTensor) -> Entry | None:
    entry = matrix.entries.get(row.output) if _takes_importance(row, tensor) else None
    if entry is None or (row.output == EMBEDDING and not entry.fits(*_stack(tensor))):
        return None
    if not entry.fits(*_stack(tensor)):
        matrices, cols = _stack(tensor)
        raise rejected(
            f"is of another model: it has {entry.sums.size} values for {row.output}, not {matrices} x {cols}"
        )
    return entry


def working_bytes(matrix: ImportanceMatrix | None, tensor: ExpectedTensor) -> int:
    """Of a tensor's sums, their means and what they are made with."""
    return 0 if matrix is None else 4 * 4 * prod(_stack(tensor))


def require_unchanged(matrix: ImportanceMatrix, plan: Plan) -> None:
    """Raises SourceRejected when the file is no longer the one that was planned with."""
    if matrix.digest != plan.inputs["imatrix"]:
        raise SourceRejected("the importance matrix has changed since the job was planned; submit a new job")


def _unreached(entry: Entry, tensor: ExpectedTensor) -> Iterator[str]:
    try:
        entry.means(*_stack(tensor))
    except SourceRejected as error:
        raise rejected(f"{error.detail}, for {tensor.output}") from error
    experts = entry.unreached(*_stack(tensor))
    if experts:
        which = ", ".join(map(str, experts[:20])) + (", ..." if len(experts) > 20 else "")
        what = f"experts {which}" if tensor.matrices > 1 else "it"
        yield f"{tensor.output}: no token of the importance matrix's text reached {what}; quantized without weights"


def _takes_importance(row: TensorPlan, tensor: ExpectedTensor) -> bool:
    return len(tensor.stored) > 1 and not {row.scheme, *row.candidates} <= {*IGNORE_IMPORTANCE}


def _stack(tensor: ExpectedTensor) -> tuple[int, int]:
    """How many matrices the file's tensor holds, and their columns."""
    return tensor.matrices, tensor.stored[-1]


def _first(matrix: ImportanceMatrix) -> str:
    return shown(next(iter(matrix.entries), ""))


def rejected(what: str) -> ParamsRejected:
    message = f"imatrix: {what}"
    error = {"pointer": "/params/imatrix", "code": "imatrix", "message": message}
    return ParamsRejected(f"gguf: {message}", [error])
