"""The plan of a GGUF file: every tensor's type, bytes and reason, from headers alone."""

from __future__ import annotations

from quantmill.contract.errors import SourceRejected
from quantmill.contract.tensors import Action, ModelIndex, Plan, TensorInfo, TensorPlan, Unit
from quantmill_gguf import importance
from quantmill_gguf.architectures import EMBEDDING, OUTPUT, ExpectedTensor, Model, architecture_of, model_of
from quantmill_gguf.overrides import asked_for, check_patterns
from quantmill_gguf.params import GgufParams
from quantmill_gguf.policies import Place, choose
from quantmill_gguf.tokenizer import read_tokenizer
from quantmill_gguf.types import TYPES

SOURCE_DTYPES = ("F32", "F16", "BF16")

UNQUANTIZED = ("F32", "F16", "BF16")

HEAD = "lm_head.weight"  # may be tied to the embedding: llama.cpp then uses token_embd for both

# Source tensors that llama.cpp computes by itself, by the end of their names
REBUILT = {".rotary_emb.inv_freq": "llama.cpp computes the rope frequencies itself"}


def plan(index: ModelIndex, params: GgufParams) -> Plan:
    """Which type each tensor gets and why.

    `peak_memory_bytes` is the largest tensor's source bytes (its mapped pages) plus its packed bytes: values are
    converted row by row inside the kernels, and q/k rows are reordered in place. An importance matrix is mapped; a
    tensor's part of it, two numbers a column, counts with the tensor.

    Raises ArchitectureUnsupported, or SourceRejected for a tensor that is missing, unknown, of another shape or not
    of a float dtype, and for a tokenizer that cannot be carried; ParamsRejected for a pattern of `overrides` that
    matches no matrix, or gives a tensor another type than a second pattern, and for an importance matrix of another
    model.
    """
    architecture, model = architecture_of(index), model_of(index)
    expected = list(architecture.tensors(model, index.config))
    tied = HEAD in index.tied
    dropped = _dropped(index)
    matrix = importance.given(params)
    check_patterns(params, expected)
    _check_names(index, expected, dropped)
    rows, warnings = [], []
    for tensor in expected:
        if tensor.name in index.tensors and tensor.name not in dropped:
            row, fell_back = _row(index.tensors[tensor.name], tensor, model, tied, params, weighted=matrix is not None)
            rows.append(importance.weighted(matrix, row))
            if fell_back:
                warnings.append(f"{row.name}: {row.reason}")
    if matrix is not None:
        warnings.extend(importance.check(matrix, rows, params))
    warnings.extend(read_tokenizer(index, model.vocab).warnings)
    units = tuple(Unit(row.name, (row.name,)) for row in rows)
    peak = max(index.tensors[row.name].nbytes + row.nbytes + importance.working_bytes(matrix, row) for row in rows)
    drops = [_drop(index.tensors[name], reason) for name, reason in dropped.items()]
    inputs = {"imatrix": matrix.digest} if matrix is not None else {}
    return Plan((*rows, *drops), units, peak, tuple(warnings), inputs=inputs)


def _dropped(index: ModelIndex) -> dict[str, str]:
    """Source tensors that are left out, with the reason."""
    return {name: reason for name in index.tensors for ending, reason in REBUILT.items() if name.endswith(ending)}


def _check_names(index: ModelIndex, expected: list[ExpectedTensor], dropped: dict[str, str]) -> None:
    known = {tensor.name for tensor in expected}
    unknown = sorted(set(index.tensors) - known - set(dropped))
    if unknown:
        raise SourceRejected(
            f"{index.architecture} has no tensor named {unknown[0]!r} ({len(unknown)} unknown)", tensors=unknown[:20]
        )
    missing = sorted(known - set(index.tensors) - set(index.tied).intersection({HEAD}))
    if missing:
        raise SourceRejected(f"the checkpoint lacks {missing[0]!r} ({len(missing)} missing)", tensors=missing[:20])


def _row(
    info: TensorInfo, tensor: ExpectedTensor, model: Model, tied: bool, params: GgufParams, *, weighted: bool
) -> tuple[TensorPlan, bool]:
    if info.dtype not in SOURCE_DTYPES:
        raise SourceRejected(
            f"{info.name} is {info.dtype}; gguf reads {', '.join(SOURCE_DTYPES)} checkpoints", tensor=info.name
        )
    if info.shape != tensor.shape:
        raise SourceRejected(
            f"{info.name} has shape {info.shape}, but config.json implies {tensor.shape}", tensor=info.name
        )
    place = Place(
        role=tensor.role,
        block=tensor.block,
        blocks=model.blocks,
        shape=info.shape,
        is_output=tensor.role == OUTPUT or (tied and tensor.role == EMBEDDING),
        sharing=model.heads // model.kv_heads,
        weighted=weighted,
    )
    choice = choose(params.type, place, pure=params.pure, asked=asked_for(params, tensor, place))
    nbytes = info.values // info.shape[-1] * TYPES[choice.type].row_bytes(info.shape[-1])
    action: Action = "keep" if choice.type in UNQUANTIZED else "quantize"
    row = TensorPlan(info.name, info.shape, info.dtype, action, choice.type, tensor.output, nbytes, choice.reason)
    return row, choice.fell_back


def _drop(info: TensorInfo, reason: str) -> TensorPlan:
    return TensorPlan(info.name, info.shape, info.dtype, "drop", "", "", 0, reason)
