"""Types that the parameters ask for by a tensor's name, before any mix."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from quantmill.contract.errors import ParamsRejected
from quantmill_gguf.families import EMBEDDING, ExpectedTensor
from quantmill_gguf.params import GgufParams
from quantmill_gguf.policies import Choice, Place


def asked_for(params: GgufParams, tensor: ExpectedTensor, place: Place) -> Choice | None:
    """The type that the parameters give to `tensor` by name; None leaves it to the mix.

    `token_embedding_type` goes before `output_type`, and both before `overrides`.
    """
    if params.token_embedding_type and place.role == EMBEDDING:
        return Choice(params.token_embedding_type, f"token_embedding_type is {params.token_embedding_type}")
    if params.output_type and place.is_output:
        return Choice(params.output_type, f"output_type is {params.output_type}")
    for pattern, type_ in params.overrides.items():
        if matches(pattern, tensor):
            return Choice(type_, f"overrides give {pattern} {type_}")
    return None


def check_patterns(params: GgufParams, tensors: Iterable[ExpectedTensor]) -> None:
    """Each pattern matches a matrix, and no two give one tensor different types: parameters have no order.

    Raises ParamsRejected, pointing at the pattern.
    """
    matrices = [tensor for tensor in tensors if len(tensor.stored) > 1]
    owners: dict[str, str] = {}
    for pattern, type_ in params.overrides.items():
        found = [tensor.output for tensor in matrices if matches(pattern, tensor)]
        if not found:
            names = ", ".join(tensor.output for tensor in matrices[:3])
            raise _rejected(pattern, f"matches no matrix of this model; its matrices are {names}, ...")
        for name in found:
            other = owners.setdefault(name, pattern)
            if params.overrides[other] != type_:
                raise _rejected(
                    pattern, f"and {other!r} give {name} different types; make them match different tensors"
                )


def matches(pattern: str, tensor: ExpectedTensor) -> bool:
    """By either of the tensor's names, the whole of it, capitals and all."""
    return fnmatchcase(tensor.output, pattern) or fnmatchcase(tensor.name, pattern)


def _rejected(pattern: str, what: str) -> ParamsRejected:
    message = f"the pattern {pattern!r} {what}"
    error = {"pointer": f"/params/overrides/{pattern}", "code": "pattern", "message": message}
    return ParamsRejected(f"gguf: overrides: {message}", [error])
