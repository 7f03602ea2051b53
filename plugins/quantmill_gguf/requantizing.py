"""What a GGUF file as the source may become, and what is said of it before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from quantmill.contract.errors import ArchitectureUnsupported, ParamsRejected, SourceRejected
from quantmill.contract.gguf import GgufSource
from quantmill.contract.tensors import TensorPlan
from quantmill_gguf.families import ARCHITECTURES, ExpectedTensor
from quantmill_gguf.importance import rejected
from quantmill_gguf.params import CODES_KEPT, GgufParams
from quantmill_gguf.policies import Choice, Place, kept_at
from quantmill_gguf.types import NVFP4, SCHEMES

AS_GOOD_AS_PLAIN = ("F32", "F16", "BF16", "Q8_0")  # what requantizing starts from without a word
CHUNK_VALUES = 1 << 19  # of a tensor in blocks, decoded at once

# Matrices that no file type touches, in architectures that have no mix here (llama.cpp, tensor_allows_quantization)
RWKV = "first w0 w1 w2 v0 v1 v2 a0 a1 a2 g1 g2 decay_w1 decay_w2 lerp_fused"
GEMMA_3N = "altup_proj altup_unembd_proj altup_correct_coef altup_predict_coef altup_router laurel_l laurel_r"
SMALL = frozenset(
    (
        *("ssm_conv1d", "conv", "attn_rel_b", "per_layer_model_proj", *GEMMA_3N.split()),
        *(f"time_mix_{name}" for name in RWKV.split()),
    )
)


def require_known(source: GgufSource, params: GgufParams) -> None:
    """Raises ArchitectureUnsupported for an architecture whose mix nobody has said, unless every matrix is to get one
    type, and ParamsRejected for type NVFP4 and for an importance matrix that would have to be computed."""
    known = sorted({architecture.name for architecture in ARCHITECTURES.values()})
    if source.architecture not in known and not params.pure:
        raise ArchitectureUnsupported(
            f"gguf does not know which tensors of the architecture {source.architecture!r} a mix gives more bits; it "
            f"knows: {', '.join(known)}. With pure every matrix gets one type, in any architecture",
            architecture=source.architecture,
        )
    if params.type == CODES_KEPT:
        message = "type NVFP4 takes a checkpoint's codes; a GGUF file becomes another type by its values"
        error = {"pointer": "/params/type", "code": "type", "message": message}
        raise ParamsRejected(f"gguf: {message}", [error])
    if params.imatrix == "auto":
        raise rejected(
            "auto runs the model on the calibration text, which takes its checkpoint; for a GGUF file give the "
            "importance matrix as a file, such as llama-imatrix writes"
        )


def kept(tensor: ExpectedTensor, place: Place) -> Choice | None:
    """As `kept_at`, of a tensor of any source: one that no file type quantizes stays what a GGUF file has it as.

    But for NVFP4, whose factors go into the values.
    """
    found = kept_at(place)
    if not tensor.held or tensor.held == NVFP4.name:
        return found
    if found is None and tensor.name.endswith(".weight") and tensor.role not in SMALL:
        return None
    return Choice(tensor.held, f"no file type changes it: {tensor.held} as in the source")


def as_it_is(tensor: ExpectedTensor, choice: Choice) -> Choice:
    """The choice, with the reason why blocks that the source has already are copied."""
    if not is_copied(tensor, choice.type) or choice.reason or SCHEMES[choice.type].block_values == 1:
        return choice
    return Choice(choice.type, f"{choice.type} in the source: its blocks are copied", candidates=choice.candidates)


def is_copied(tensor: ExpectedTensor, type_: str) -> bool:
    """Whether the file has the source's bytes."""
    return tensor.held == type_


def said_of(planned: Sequence[tuple[TensorPlan, ExpectedTensor]], params: GgufParams) -> Iterator[str]:
    """Warnings of what is made from blocks. Raises SourceRejected where their errors would add to the new ones."""
    changed: dict[str, list[str]] = {}
    for row, tensor in planned:
        if SCHEMES[tensor.held].block_values > 1 and (row.candidates or not is_copied(tensor, row.scheme)):
            changed.setdefault(tensor.held, []).append(row.name)
    lossy = {type_: names for type_, names in changed.items() if type_ not in AS_GOOD_AS_PLAIN}
    if lossy and not params.allow_requantize:
        raise SourceRejected(
            f"the source is quantized already ({_listed(lossy)}), and its errors would add to the new ones; give a "
            f"file of {', '.join(AS_GOOD_AS_PLAIN)}, or the checkpoint that it was made from, or set allow_requantize",
            types={type_: len(names) for type_, names in lossy.items()},
        )
    if changed:
        yield f"the source is quantized ({_listed(changed)}): its tensors are read as what they stand for"


def _listed(changed: Mapping[str, list[str]]) -> str:
    return ", ".join(
        f"{type_}: {len(names)} tensors, {names[0]}{' and others' if len(names) > 1 else ''}"
        for type_, names in sorted(changed.items())
    )


def source_bytes(tensor: ExpectedTensor, nbytes: int) -> int:
    """What of the source is in memory at a time: its mapped pages, and of one in blocks the values of a chunk."""
    type_ = SCHEMES.get(tensor.held)
    if type_ is None or type_.block_values == 1:
        return nbytes
    values = prod(tensor.stored)
    return values // type_.block_values * type_.block_bytes + 2 * 4 * max(min(values, CHUNK_VALUES), tensor.stored[-1])
