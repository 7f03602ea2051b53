"""A GGUF file as the source: its tensors keep their names, their order and the order of their rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quantmill.contract.gguf import GgufSource
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.families.config import MAX_COUNT, Config
from quantmill_gguf.families.layout import Architecture, ExpectedTensor, Model
from quantmill_gguf.families.model import Described
from quantmill_gguf.families.table import OUTPUT

_NAME = re.compile(r"(?:blk\.(?P<block>\d{1,9})\.)?(?P<rest>.+)")


@dataclass(frozen=True)
class DescribedFile(Described):
    """As `Described`, of a file: its tensors are what they are."""

    held: tuple[ExpectedTensor, ...]

    def tensors(self) -> Iterator[ExpectedTensor]:
        yield from self.held


def describe_file(index: ModelIndex, source: GgufSource) -> DescribedFile:
    """What the file says of itself, as far as mixes look at it. Whatever it does not say is 0, or 1 of a count."""
    held = tuple(_held(index, source, name) for name in source.types if name not in source.sides)
    heads = _count(source, "attention.head_count", 1)
    model = Model(
        vocab=0,
        hidden=_count(source, "embedding_length"),
        ffn=_count(source, "feed_forward_length"),
        blocks=_count(source, "block_count", 1 + max(tensor.block for tensor in held)),
        heads=heads,
        kv_heads=_count(source, "attention.head_count_kv", heads),
        head_dim=_count(source, "attention.key_length"),
        context=_count(source, "context_length"),
        norm_epsilon=0.0,
        rope=None,
        experts=_count(source, "expert_count"),
    )
    return DescribedFile(
        architecture=Architecture(source.architecture, (), (), ()),
        model=model,
        config=Config({}),
        prefix="",
        serves_as_output=f"{OUTPUT}.weight" not in source.types,
        metadata={},
        dropped={
            side: f"it scales {name}, which becomes another type by its values" for side, name in source.sides.items()
        },
        warnings=(),
        held=held,
    )


def _held(index: ModelIndex, source: GgufSource, name: str) -> ExpectedTensor:
    parts = _NAME.fullmatch(name)
    block, rest = (parts["block"], parts["rest"]) if parts else (None, name)
    shape = index.tensors[name].shape
    role = rest.removesuffix(".weight").rpartition(".")[2]
    return ExpectedTensor(name, name, role, int(block or 0), shape, shape, held=source.types[name].name)


def _count(source: GgufSource, key: str, default: int = 0) -> int:
    """A dimension; of one for each block the first."""
    value = source.number(key)
    return value if value is not None and 0 < value <= MAX_COUNT else default
