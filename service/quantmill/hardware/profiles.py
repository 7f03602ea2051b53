"""What a machine can do: its processor, its accelerators, and how much each remembers and moves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from quantmill.contract.errors import RequestRejected
from quantmill.contract.facts import DeviceKind

GB = 10**9
LARGEST_BYTES = 2**60
LARGEST_COUNT = 4096


@dataclass(frozen=True)
class Device:
    """One kind of processor or accelerator, `count` times. What is not known is None, and never assumed.

    `memory_bytes` and `bandwidth` (bytes a second) are of one device. `architecture` is the vendor's own word (Ada,
    gfx942), `features` are CPU flags under Linux's names. `unified` memory is shared with the host.
    """

    name: str
    kind: DeviceKind
    vendor: str
    architecture: str = ""
    compute_capability: float | None = None
    features: frozenset[str] = frozenset()
    memory_bytes: int | None = None
    bandwidth: float | None = None
    count: int = 1
    unified: bool = False
    driver: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _within(self.name, "memory_bytes", self.memory_bytes, LARGEST_BYTES)
        _within(self.name, "bandwidth", self.bandwidth, LARGEST_BYTES)
        _within(self.name, "count", self.count, LARGEST_COUNT)
        _within(self.name, "compute_capability", self.compute_capability, 100)

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "features": sorted(self.features),
            "notes": list(self.notes),
            "aliases": list(self.aliases),
        }


@dataclass(frozen=True)
class Machine:
    """A host with its accelerators. `processor.memory_bytes` is the RAM; None where the host is not described.

    `unseen` says what a probe could not find out.
    """

    processor: Device | None = None
    accelerators: tuple[Device, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Accelerators first: the processor is where things run when nothing else can run them."""
        return (*self.accelerators, *((self.processor,) if self.processor else ()))

    @property
    def name(self) -> str:
        shown = [f"{each.count} x {each.name}" if each.count > 1 else each.name for each in self.devices]
        return " + ".join(shown) or "a machine without devices"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "processor": self.processor.to_json() if self.processor else None,
            "accelerators": [each.to_json() for each in self.accelerators],
            "unseen": list(self.unseen),
        }

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Machine:
        """The machine that `to_json` was of; what another version wrote beside it is left out."""
        return _machine_fields().validate_python(dict(fields))


@functools.cache  # the scheduler reads every worker's each round, and an adapter takes milliseconds to make
def _machine_fields() -> TypeAdapter[Machine]:
    return TypeAdapter(Machine)


def machine_of(
    device: Device, *, count: int = 1, memory_bytes: int | None = None, ram_bytes: int | None = None
) -> Machine:
    """A machine with `count` such devices; `memory_bytes` replaces the device's own, `ram_bytes` is the host's.

    Raises RequestRejected for figures that no machine has, and for RAM given beside a device that has the RAM itself.
    """
    chosen = replace(device, count=count)
    if memory_bytes is not None:
        chosen = replace(chosen, memory_bytes=memory_bytes, notes=())
    if device.kind == "cpu":
        if memory_bytes is not None and ram_bytes is not None and memory_bytes != ram_bytes:
            raise RequestRejected(f"{device.name} is a processor: its memory is the RAM; give one of the two")
        return Machine(processor=chosen if ram_bytes is None else replace(chosen, memory_bytes=ram_bytes, notes=()))
    if ram_bytes is None:
        return Machine(accelerators=(chosen,))
    if device.unified:
        raise RequestRejected(f"{device.name} shares its memory with the host; give the memory alone")
    host = Device("host", "cpu", "", memory_bytes=ram_bytes)
    return Machine(processor=host, accelerators=(chosen,))


def _within(name: str, what: str, value: float | None, largest: int) -> None:
    if value is not None and not 0 < value <= largest:
        raise RequestRejected(f"{name}: {what} must be above 0 and at most {largest}, not {value}")
