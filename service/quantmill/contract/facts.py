"""Which program runs which format on which hardware: what plugins tell the matcher, as data.

A `Scheme` is one variant of a format that a method can make, a `Fact` says how one runtime runs a format on one class
of hardware. Each row names its source. Rows are opinions about the world outside: they are checked against nothing,
so a row that nobody can look up does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Support = Literal["native", "emulated", "unsupported"]
DeviceKind = Literal["gpu", "cpu", "npu"]


@dataclass(frozen=True)
class HardwareNeed:
    """The least hardware that a fact is about. Every given bound must be met; more than it is fine.

    `vendors` and `architectures` mean one of them, `features` all of them (Linux's names of CPU flags: avx2,
    avx512_vnni, amx_int8; asimddp and i8mm on Arm). `compute_capability` is CUDA's.
    """

    kind: DeviceKind
    vendors: tuple[str, ...] = ()
    compute_capability: float | None = None
    architectures: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShapeRule:
    """What a kernel demands of a weight and of its scheme; empty means anything.

    `inputs` and `outputs` must divide in_features and out_features of every quantized Linear, after a tensor-parallel
    split. A group size of -1 is one group for the whole row.
    """

    inputs: int = 1
    outputs: int = 1
    bits: tuple[int, ...] = ()
    group_sizes: tuple[int, ...] = ()
    symmetric_only: bool = False
    experts: bool = True  # takes mixtures of experts
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """A published or measured number with where it was published. Never made up, never averaged over sources."""

    what: str
    value: float
    source: str


@dataclass(frozen=True)
class Scheme:
    """One variant of a format.

    `params` make it with `method`; an empty `method` says that no method of quantmill is known to. Bits are stored
    bits per weight, scales included, for the Linears of the blocks, for the embedding and for the output matrix; they
    serve where no plan can be made.
    """

    name: str
    method: str
    params: Mapping[str, Any]
    format: str
    bits: int
    linear_bits: float
    embedding_bits: float
    output_bits: float
    source: str
    group_size: int | None = None
    symmetric: bool = True
    quality: tuple[Measured, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """How `runtime` runs `format` on hardware that meets `hardware`.

    native       the kernel computes on the packed weights with the hardware's own instructions
    emulated     it loads and runs, but unpacks or converts first: no speed is gained, or less
    unsupported  it is known not to work; `note` says why. Such a row explains a refusal, it never causes one.

    `unpacks`: the weights are held in 16 bits while it runs, whatever the file has. `speed` is measured output speed
    relative to the same model in 16 bits.
    """

    format: str
    runtime: str
    hardware: HardwareNeed
    support: Support
    kernel: str
    source: str
    minimum_version: str = ""
    rule: ShapeRule = field(default_factory=ShapeRule)
    note: str = ""
    unpacks: bool = False
    speed: Measured | None = None


@dataclass(frozen=True)
class FormatFacts:
    """What one plugin knows: its schemes and the runtimes that run them."""

    schemes: tuple[Scheme, ...] = ()
    facts: tuple[Fact, ...] = ()
