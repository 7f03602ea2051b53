"""The plan of a GGUF file: every tensor's type, bytes and reason, from headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil
from weakref import WeakKeyDictionary

from quantmill.contract.errors import SourceRejected
from quantmill.contract.model_folder import require_unquantized
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo, TensorPlan, Unit
from quantmill_gguf import folding, importance, nvfp4
from quantmill_gguf.budget import Group, allot, bytes_of, choices, grouped, limit_of, preferred, too_small
from quantmill_gguf.families import EMBEDDING, OUTPUT, Described, ExpectedTensor, Order, describe
from quantmill_gguf.imatrix import ImportanceMatrix
from quantmill_gguf.overrides import asked_for, check_patterns
from quantmill_gguf.params import BUDGET, CODES_KEPT, GgufParams
from quantmill_gguf.policies import MIXES, NEED_IMATRIX, Choice, Place, choose
from quantmill_gguf.requantizing import as_it_is, is_copied, kept, require_known, said_of, source_bytes
from quantmill_gguf.sensitivity import typical
from quantmill_gguf.tokenizer import read_tokenizer
from quantmill_gguf.types import PLUS_ONE, UNQUANTIZED

SOURCE_DTYPES = ("F32", "F16", "BF16")

ALIGNMENT = 32  # bytes, of each tensor's first
PART_HEADER = 1024  # bytes, more than a file of a split model begins with beside its tensors' names


@dataclass(frozen=True)
class Laid:
    """A checkpoint that fits its architecture and the parameters: what becomes of it but for the types.

    `groups` are the tensors whose types a budget chooses.
    """

    index: ModelIndex
    params: GgufParams
    described: Described
    expected: tuple[ExpectedTensor, ...]
    matrix: ImportanceMatrix | None
    groups: Sequence[Group]

    @property
    def output(self) -> str:
        """The output matrix of the file, by its name there."""
        return f"{EMBEDDING if self.described.has_no_output else OUTPUT}.weight"


def plan(index: ModelIndex, params: GgufParams) -> Plan:
    """Which type each tensor gets and why; for a budget a first guess by the usual errors, which `settle` replaces.

    Source tensors that become one GGUF tensor (the experts of a block) have the same `output`, follow each other, and
    are one unit.

    Raises ArchitectureUnsupported, or SourceRejected for a tensor that is missing, unknown, of another shape or not
    of a float dtype, and for a tokenizer that cannot be carried; ParamsRejected for a pattern of `overrides` that
    matches no matrix, or gives a tensor another type than a second pattern, for an importance matrix of another
    model, and for a budget that the smallest types exceed.
    """
    laid = laid_out(index, params)
    if params.type != BUDGET:
        return _planned(laid, {})
    return allotted(laid, typical(laid.groups, laid.output), measured=False)


def laid_out(index: ModelIndex, params: GgufParams) -> Laid:
    """What `plan` and `settle` begin with. Raises what `plan` raises, but for a budget that is too small."""
    if index.gguf is not None:
        require_known(index.gguf, params)
    described = describe(index)
    expected = tuple(described.tensors())
    matrix = importance.given(params)
    check_patterns(params, expected)
    _check_names(index, expected, described)
    for tensor in expected:
        _check_tensor(index.tensors[tensor.name], tensor)
    budgeted = (tensor for tensor in expected if _is_open(tensor, described, params))
    return Laid(index, params, described, expected, matrix, grouped(budgeted) if params.type == BUDGET else ())


def _is_open(tensor: ExpectedTensor, described: Described, params: GgufParams) -> bool:
    """Whether a budget chooses the tensor's type: it is a matrix, and nothing asks for another by name."""
    place = _place(tensor, described, weighted=False)
    return not tensor.plus_one and kept(tensor, place) is None and asked_for(params, tensor, place) is None


def allotted(laid: Laid, losses: Sequence[Sequence[float]], *, measured: bool) -> Plan:
    """The plan of a budget by what each group loses in each of its types."""
    groups, params = laid.groups, laid.params
    smallest = _planned(laid, choices(groups, [0] * len(groups), losses, measured=measured))
    container = _container_bytes(laid, smallest) if params.target_size_mb is not None else 0
    stored = [row for row in smallest.tensors if row.action != "drop"]
    values = sum(row.values for row in stored)
    limit = limit_of(params, values, container)
    fixed = smallest.nbytes - sum(group.nbytes[0] for group in groups)
    try:
        picks = allot(groups, losses, limit - fixed)
    except ValueError as error:
        raise too_small(params, smallest.nbytes, values, container) from error
    picks = preferred(groups, losses, limit - fixed, picks, _mixes(laid))
    lost = sum(loss[pick] for loss, pick in zip(losses, picks, strict=True))
    chosen = _planned(laid, choices(groups, picks, losses, measured=measured))
    return replace(chosen, limit_bytes=limit, predicted_loss=lost)


def _mixes(laid: Laid) -> Iterator[list[int]]:
    """What each file type gives the groups, of those that keep to their types; whole mixes are well tried."""
    for file_type in sorted(MIXES.keys() - NEED_IMATRIX.keys()):
        picks = [_pick_of_mix(laid, file_type, group) for group in laid.groups]
        known = [pick for pick in picks if pick is not None]
        if len(known) == len(picks):
            yield known


def _pick_of_mix(laid: Laid, file_type: str, group: Group) -> int | None:
    weighted = laid.params.imatrix != "none"
    places = (_place(tensor, laid.described, weighted=weighted) for tensor in group.tensors)
    types = {choose(file_type, place).type for place in places}
    return group.types.index(types.pop()) if len(types) == 1 and types <= {*group.types} else None


def _container_bytes(laid: Laid, smallest: Plan) -> int:
    """The most that the files take beside tensors' bytes, whichever types these get.

    Of split files `smallest` says how many there are at least; larger tensors may need twice as many, and one more.
    """
    from quantmill_gguf.export import place  # only a size in MB needs the header, whose writer takes long to import

    placement = place(smallest, laid.index, laid.params)
    heads = sum(len(file.head) for file in placement.weights.values())
    outputs = len({row.output for row in smallest.tensors})
    parts = 0
    if laid.params.split_max_size_mb is not None and laid.params.target_size_mb is not None:
        parts = 2 * ceil(laid.params.target_size_mb / laid.params.split_max_size_mb) + 1
    return heads + (ALIGNMENT - 1) * outputs + PART_HEADER * parts


def _planned(laid: Laid, chosen: Mapping[str, Choice]) -> Plan:
    """The plan in which tensors get their types from `chosen`, by their names in the file, or from the mix."""
    index, params, matrix = laid.index, laid.params, laid.matrix
    rows, warnings = [], [*_about_source(laid), *laid.described.warnings]
    for tensor in laid.expected:
        choice = as_it_is(tensor, chosen.get(tensor.output) or _choice(tensor, laid))
        row = importance.weighted(matrix, _row(index.tensors[tensor.name], tensor, choice), tensor, params)
        rows.append(row)
        if choice.fell_back or tensor.copy:
            warnings.append(f"{row.name}: {row.reason}")
    planned = list(zip(rows, laid.expected, strict=True))
    if matrix is not None:
        warnings.extend(importance.check(matrix, planned, params))
    if index.gguf is not None:
        warnings.extend(said_of(planned, params))
    warnings.extend(index.card.notes)
    units = tuple(_unit(list(parts)) for _, parts in groupby(rows, key=lambda row: row.output))
    drops = [_drop(index.tensors[name], reason) for name, reason in laid.described.dropped.items()]
    inputs = {"imatrix": matrix.digest} if matrix is not None else {}
    folds = folding.planned_folds(index, rows, params)
    peak = _peak(index, laid.expected, rows, units, matrix) + folding.working_bytes(index, folds)
    return Plan(
        (*rows, *drops),
        units,
        peak,
        tuple(warnings),
        inputs=inputs,
        calibration=importance.needed(planned, params, folds),
        folds=folds,
    )


def _about_source(laid: Laid) -> tuple[str, ...]:
    """What is said of a checkpoint; raises SourceRejected for one that is quantized or whose tokenizer is unknown."""
    index = laid.index
    if index.gguf is not None:
        return ()
    kept = laid.params.type == CODES_KEPT
    said = nvfp4.said_of(index) if kept else require_unquantized(index, laid.params.allow_requantize)
    if index not in _tokenizer_warnings:
        _tokenizer_warnings[index] = read_tokenizer(index, laid.described.model.vocab).warnings
    return (*said, *_tokenizer_warnings[index])


# a model is planned for every type when hardware is matched; its tokenizer is read once
_tokenizer_warnings: WeakKeyDictionary[ModelIndex, tuple[str, ...]] = WeakKeyDictionary()


def _unit(rows: list[TensorPlan]) -> Unit:
    return Unit(rows[0].name if len(rows) == 1 else rows[0].output, tuple(row.name for row in rows))


def _peak(
    index: ModelIndex,
    expected: Sequence[ExpectedTensor],
    rows: list[TensorPlan],
    units: tuple[Unit, ...],
    matrix: ImportanceMatrix | None,
) -> int:
    """A unit's packed tensors, and beside them the largest that one of them needs to be made.

    That is the source's bytes (its mapped pages), once more where they are transposed or shifted, and the packed
    bytes once more where rows are gathered. All else is converted row by row inside the kernels. An importance matrix
    is mapped; a tensor's part of it, two numbers a column, counts with the tensor. Of several candidates the largest
    counts, and measuring them takes the values, decoded and subtracted, of a sample.
    """
    needs = {}
    for tensor, row in zip(expected, rows, strict=True):
        copies = 2 if tensor.transposed or tensor.plus_one else 1
        packed = max(bytes_of(tensor, type_) for type_ in (row.scheme, *row.candidates))
        gathered = packed if tensor.order is Order.QKV else 0
        weights = importance.working_bytes(matrix, tensor)
        needs[row.name] = (source_bytes(tensor, index.tensors[row.name].nbytes) * copies + gathered + weights, packed)
    return max(
        max(needs[name][0] for name in unit.tensors) + sum(needs[name][1] for name in unit.tensors) for unit in units
    )


def _check_names(index: ModelIndex, expected: Sequence[ExpectedTensor], described: Described) -> None:
    known = {tensor.name for tensor in expected}
    unknown = sorted(set(index.tensors) - known - set(described.dropped))
    if unknown:
        raise SourceRejected(
            f"{index.architecture} has no tensor named {unknown[0]!r} ({len(unknown)} unknown)", tensors=unknown[:20]
        )
    missing = sorted(known - set(index.tensors))
    if missing:
        raise SourceRejected(f"the checkpoint lacks {missing[0]!r} ({len(missing)} missing)", tensors=missing[:20])


def _check_tensor(info: TensorInfo, tensor: ExpectedTensor) -> None:
    if info.dtype not in SOURCE_DTYPES:
        raise SourceRejected(
            f"{info.name} is {info.dtype}; gguf reads {', '.join(SOURCE_DTYPES)} checkpoints", tensor=info.name
        )
    if info.shape != tensor.shape:
        raise SourceRejected(
            f"{info.name} has shape {info.shape}, but config.json implies {tensor.shape}", tensor=info.name
        )


def _row(info: TensorInfo, tensor: ExpectedTensor, choice: Choice) -> TensorPlan:
    twice = f"stored twice: llama.cpp wants {tensor.copy} as a matrix of its own" if tensor.copy else ""
    return TensorPlan(
        info.name,
        info.shape,
        info.dtype,
        "keep" if choice.type in UNQUANTIZED or is_copied(tensor, choice.type) else "quantize",
        choice.type,
        tensor.output,
        bytes_of(tensor, choice.type),
        "; ".join(filter(None, (choice.reason, twice))),
        candidates=choice.candidates,
    )


def _choice(tensor: ExpectedTensor, laid: Laid) -> Choice:
    """By the file type's mix, or as the parameters ask for by name; what a budget leaves is one of these too."""
    if tensor.plus_one:
        return Choice(PLUS_ONE.name, "norms stay F32, and GGUF has them plus one")
    params = laid.params
    place = _place(tensor, laid.described, weighted=params.imatrix != "none")
    if tensor.held and (found := kept(tensor, place)) is not None:
        return found
    asked = asked_for(params, tensor, place)
    if params.type == CODES_KEPT:
        return nvfp4.choice_of(tensor, place, laid.index, asked)
    return choose("F32" if params.type == BUDGET else params.type, place, pure=params.pure, asked=asked)


def _place(tensor: ExpectedTensor, described: Described, *, weighted: bool) -> Place:
    model = described.model
    return Place(
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


def _drop(info: TensorInfo, reason: str) -> TensorPlan:
    return TensorPlan(info.name, info.shape, info.dtype, "drop", "", "", 0, reason)
