"""What an architecture is: its tensors by both names, their shapes, and how GGUF arranges them otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import Any

from quantmill_gguf.families.config import Config
from quantmill_gguf.families.rope import Rope, Value

Metadata = Mapping[str, Value]


@dataclass(frozen=True)
class Model:
    """The dimensions of one model, checked. Those that an architecture does not have are 0."""

    vocab: int
    hidden: int
    ffn: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_epsilon: float
    rope: Rope | None
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    token_types: int = 0
    one: int = 1

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def qkv(self) -> int:
        return self.q + 2 * self.kv

    @property
    def gate_up(self) -> int:
        return 2 * self.ffn

    def size(self, dimension: str) -> int:
        return int(getattr(self, dimension))


class Order(Enum):
    """How GGUF orders the rows of a matrix whose rows belong to heads."""

    SOURCE = "as in the source"
    NEIGHBOURS = "of each head, row p of the first half before row p of the second: rope turns neighbours"
    QKV = "all heads' queries, then their keys, then their values; the source has the three of a head together"


@dataclass(frozen=True)
class Slot:
    """A module of the architecture, by its names in the checkpoint and in GGUF.

    source      `{n}` is the block's number, `{e}` that of one of several parts, `{p}` the checkpoint's prefix
    shape       names dimensions of `Model`
    heads       the dimension that counts the heads whose rows GGUF orders by `order`
    bias        whether it has one: always, never, or as the key of config.json says
    parts       the dimension that counts modules that are stored each alone; GGUF has them as one tensor
    transposed  the source has (in, out)
    plus_one    GGUF stores the weight plus one
    flat        the source has one row, GGUF a vector
    when        the key of config.json whose truth means that the module is there; `unless`, that it is not
    """

    source: str
    output: str
    shape: tuple[str, ...]
    heads: str = ""
    order: Order = Order.SOURCE
    bias: str | bool = False
    parts: str = ""
    transposed: bool = False
    plus_one: bool = False
    flat: bool = False
    when: str = ""
    unless: str = ""

    def is_there(self, config: Config) -> bool:
        return (not self.when or config.flag(self.when)) and not (self.unless and config.flag(self.unless))

    def has_bias(self, config: Config) -> bool:
        return self.bias if isinstance(self.bias, bool) else config.flag(self.bias)


@dataclass(frozen=True)
class ExpectedTensor:
    """One source tensor that a model of this architecture has, and what becomes of it.

    role      the GGUF name without block and suffix: attn_q, ffn_down_exps, token_embd
    shape     the source's
    stored    the shape in GGUF, of this part of the tensor where there are several
    parts     how many source tensors the GGUF tensor `output` is made of, in the order in which they are given
    part      which of them this is, from 0
    heads     0 where the rows keep their order
    copy      a second tensor of the file that has the same type and bytes
    held      the type in which a GGUF file that is the source has it; empty of a checkpoint's
    """

    name: str
    output: str
    role: str
    block: int
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    parts: int = 0
    part: int = 0
    heads: int = 0
    order: Order = Order.SOURCE
    transposed: bool = False
    plus_one: bool = False
    copy: str = ""
    held: str = ""

    @property
    def matrices(self) -> int:
        """How many matrices the file's tensor is made of: more than one in a mixture."""
        return self.parts or prod(self.stored[:-2])

    @property
    def copies(self) -> int:
        """How often the file holds it."""
        return 2 if self.copy else 1


@dataclass(frozen=True)
class Requirement:
    """A key of config.json that must have one of `values`, because llama.cpp's graph computes nothing else.

    An absent one has the first.
    """

    key: str
    values: tuple[Any, ...]


class Tie(Enum):
    """Whether the embedding may serve as the output matrix in llama.cpp."""

    MAY = "may"
    MUST = "must"
    COPIED = "llama.cpp wants an output matrix in the file: a tied model has its embedding there twice"
    HEADLESS = "there is no output matrix"


@dataclass(frozen=True)
class Architecture:
    """A row of the table.

    name       general.architecture
    epsilon    config.json's key; `rms` where norms do not subtract the mean
    ropes      the rope types that llama.cpp computes for it; none where positions have an embedding
    defaults   transformers' values of keys that a config.json may leave out
    aliases    its own names of usual keys of config.json
    dropped    endings of source tensors that are left out, with the reason
    ignored    keys of config.json that llama.cpp cannot follow, with what it does instead: a warning
    prefixes   what may stand for `{p}` in the names of a checkpoint's tensors
    any_head_dim   llama.cpp takes heads whose sizes do not add up to the hidden size
    """

    name: str
    head: tuple[Slot, ...]  # before the blocks
    block: tuple[Slot, ...]
    tail: tuple[Slot, ...]
    epsilon: str = "rms_norm_eps"
    rms: bool = True
    ropes: tuple[str, ...] = ("default", "linear")
    tie: Tie = Tie.MAY
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[Requirement, ...] = ()
    metadata: Callable[[Config, Model], Metadata] = lambda config, model: {}
    dropped: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("",)
    any_head_dim: bool = False

    def config(self, values: Mapping[str, Any]) -> Config:
        return Config(values, self.defaults, self.aliases)

    def prefix_of(self, names: Collection[str]) -> str:
        """What stands for `{p}` in these names."""
        first = self.head[0].source
        return next((each for each in self.prefixes if f"{first.format(p=each)}.weight" in names), self.prefixes[0])

    def tensors(self, model: Model, config: Config, prefix: str = "") -> Iterator[ExpectedTensor]:
        """Every tensor of the model, in the order in which the file holds them."""
        for slot in self.head:
            yield from _expected(slot, 0, model, config, prefix)
        for n in range(model.blocks):
            for slot in self.block:
                yield from _expected(slot, n, model, config, prefix)
        for slot in self.tail:
            yield from _expected(slot, 0, model, config, prefix)


def _expected(slot: Slot, n: int, model: Model, config: Config, prefix: str) -> Iterator[ExpectedTensor]:
    if not slot.is_there(config):
        return
    shape = tuple(model.size(dimension) for dimension in slot.shape)
    stored = shape[::-1] if slot.transposed else shape[1:] if slot.flat else shape
    output = slot.output.format(n=n)
    parts = model.size(slot.parts) if slot.parts else 0
    for part in range(parts or 1):
        source = slot.source.format(n=n, e=part, p=prefix)
        yield ExpectedTensor(
            name=f"{source}.weight",
            output=f"{output}.weight",
            role=output.rpartition(".")[2],
            block=n,
            shape=shape,
            stored=stored,
            parts=parts,
            part=part,
            heads=model.size(slot.heads) if slot.heads else 0,
            order=slot.order,
            transposed=slot.transposed,
            plus_one=slot.plus_one,
        )
        if slot.has_bias(config):
            yield _bias(slot, n, model, source, output)


def _bias(slot: Slot, n: int, model: Model, source: str, output: str) -> ExpectedTensor:
    length = (model.size(slot.shape[-1] if slot.transposed else slot.shape[0]),)
    return ExpectedTensor(
        name=f"{source}.bias",
        output=f"{output}.bias",
        role=output.rpartition(".")[2],
        block=n,
        shape=length,
        stored=length,
        heads=model.size(slot.heads) if slot.heads else 0,
        order=slot.order,
    )
