"""The plan of a GGUF file: every tensor's type, bytes and reason, from headers alone."""

from __future__ import annotations

from itertools import groupby
from math import prod

from quantmill.contract.errors import SourceRejected
from quantmill.contract.model_folder import require_unquantized
from quantmill.contract.tensors import Action, ModelIndex, Plan, TensorInfo, TensorPlan, Unit
from quantmill_gguf import importance
from quantmill_gguf.families import EMBEDDING, OUTPUT, Described, ExpectedTensor, Order, describe
from quantmill_gguf.imatrix import ImportanceMatrix
from quantmill_gguf.overrides import asked_for, check_patterns
from quantmill_gguf.params import GgufParams
from quantmill_gguf.policies import Choice, Place, choose
from quantmill_gguf.tokenizer import read_tokenizer
from quantmill_gguf.types import PLUS_ONE, SCHEMES

SOURCE_DTYPES = ("F32", "F16", "BF16")

UNQUANTIZED = ("F32", "F16", "BF16", PLUS_ONE.name)


def plan(index: ModelIndex, params: GgufParams) -> Plan:
    """Which type each tensor gets and why.

    Source tensors that become one GGUF tensor (the experts of a block) have the same `output`, follow each other, and
    are one unit.

    Raises ArchitectureUnsupported, or SourceRejected for a tensor that is missing, unknown, of another shape or not
    of a float dtype, and for a tokenizer that cannot be carried; ParamsRejected for a pattern of `overrides` that
    matches no matrix, or gives a tensor another type than a second pattern, and for an importance matrix of another
    model.
    """
    described = describe(index)
    expected = list(described.tensors())
    matrix = importance.given(params)
    check_patterns(params, expected)
    _check_names(index, expected, described)
    rows, warnings = [], [*require_unquantized(index), *described.warnings]
    for tensor in expected:
        row, fell_back = _row(index.tensors[tensor.name], tensor, described, params, weighted=params.imatrix != "none")
        rows.append(importance.weighted(matrix, row, tensor, params))
        if fell_back:
            warnings.append(f"{row.name}: {row.reason}")
    planned = list(zip(rows, expected, strict=True))
    if matrix is not None:
        warnings.extend(importance.check(matrix, planned, params))
    warnings.extend(read_tokenizer(index, described.model.vocab).warnings)
    units = tuple(_unit(list(parts)) for _, parts in groupby(rows, key=lambda row: row.output))
    drops = [_drop(index.tensors[name], reason) for name, reason in described.dropped.items()]
    inputs = {"imatrix": matrix.digest} if matrix is not None else {}
    peak = _peak(index, expected, rows, units, matrix)
    return Plan(
        (*rows, *drops), units, peak, tuple(warnings), inputs=inputs, calibration=importance.needed(planned, params)
    )


def _unit(rows: list[TensorPlan]) -> Unit:
    return Unit(rows[0].name if len(rows) == 1 else rows[0].output, tuple(row.name for row in rows))


def _peak(
    index: ModelIndex,
    expected: list[ExpectedTensor],
    rows: list[TensorPlan],
    units: tuple[Unit, ...],
    matrix: ImportanceMatrix | None,
) -> int:
    """A unit's packed tensors, and beside them the largest that one of them needs to be made.

    That is the source's bytes (its mapped pages), once more where they are transposed or shifted, and the packed
    bytes once more where rows are gathered. All else is converted row by row inside the kernels. An importance matrix
    is mapped; a tensor's part of it, two numbers a column, counts with the tensor.
    """
    needs = {}
    for tensor, row in zip(expected, rows, strict=True):
        copies = 2 if tensor.transposed or tensor.plus_one else 1
        gathered = row.nbytes if tensor.order is Order.QKV else 0
        weights = importance.working_bytes(matrix, tensor)
        needs[row.name] = (index.tensors[row.name].nbytes * copies + gathered + weights, row.nbytes)
    return max(
        max(needs[name][0] for name in unit.tensors) + sum(needs[name][1] for name in unit.tensors) for unit in units
    )


def _check_names(index: ModelIndex, expected: list[ExpectedTensor], described: Described) -> None:
    known = {tensor.name for tensor in expected}
    unknown = sorted(set(index.tensors) - known - set(described.dropped))
    if unknown:
        raise SourceRejected(
            f"{index.architecture} has no tensor named {unknown[0]!r} ({len(unknown)} unknown)", tensors=unknown[:20]
        )
    missing = sorted(known - set(index.tensors))
    if missing:
        raise SourceRejected(f"the checkpoint lacks {missing[0]!r} ({len(missing)} missing)", tensors=missing[:20])


def _row(
    info: TensorInfo, tensor: ExpectedTensor, described: Described, params: GgufParams, *, weighted: bool
) -> tuple[TensorPlan, bool]:
    if info.dtype not in SOURCE_DTYPES:
        raise SourceRejected(
            f"{info.name} is {info.dtype}; gguf reads {', '.join(SOURCE_DTYPES)} checkpoints", tensor=info.name
        )
    if info.shape != tensor.shape:
        raise SourceRejected(
            f"{info.name} has shape {info.shape}, but config.json implies {tensor.shape}", tensor=info.name
        )
    choice = _choice(tensor, described, params, weighted=weighted)
    nbytes = prod(tensor.stored[:-1]) * SCHEMES[choice.type].row_bytes(tensor.stored[-1])
    action: Action = "keep" if choice.type in UNQUANTIZED else "quantize"
    row = TensorPlan(info.name, info.shape, info.dtype, action, choice.type, tensor.output, nbytes, choice.reason)
    return row, choice.fell_back


def _choice(tensor: ExpectedTensor, described: Described, params: GgufParams, *, weighted: bool) -> Choice:
    if tensor.plus_one:
        return Choice(PLUS_ONE.name, "norms stay F32, and GGUF has them plus one")
    model = described.model
    place = Place(
        role=tensor.role,
        block=tensor.block,
        blocks=model.blocks,
        shape=(tensor.parts, *tensor.stored) if tensor.parts else tensor.stored,
        is_output=tensor.role == (EMBEDDING if described.has_no_output else OUTPUT),
        sharing=model.heads // model.kv_heads,
        architecture=described.architecture.name,
        experts=model.experts,
        weighted=weighted,
    )
    return choose(params.type, place, pure=params.pure, asked=asked_for(params, tensor, place))


def _drop(info: TensorInfo, reason: str) -> TensorPlan:
    return TensorPlan(info.name, info.shape, info.dtype, "drop", "", "", 0, reason)
