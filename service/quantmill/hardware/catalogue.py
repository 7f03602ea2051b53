"""The device catalogue: `devices.yaml`, and what an installation adds to it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantmill.contract.errors import RequestRejected
from quantmill.hardware.profiles import GB, Device

SHIPPED = Path(__file__).with_name("devices.yaml")
LARGEST_FILE_BYTES = 1_000_000
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where libyaml is


class UnknownDevice(RequestRejected):
    """The catalogue has no such device."""


SizeGb = Annotated[float, Field(gt=0, le=1e9)]


class Entry(BaseModel):
    """One device as the file has it. `memory_gb` lists what it is sold with; a figure that is not sure is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    also: tuple[str, ...] = ()
    architecture: str = ""
    compute_capability: float | None = Field(default=None, gt=0, lt=100)
    features: tuple[str, ...] = ()
    memory_gb: SizeGb | tuple[SizeGb, ...] | None = None
    bandwidth_gb_s: SizeGb | None = None
    source: str = Field(default="", max_length=200)


class Family(BaseModel):
    """Devices that share vendor, kind and source; an entry's own words win."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendor: str
    kind: Literal["gpu", "cpu", "npu"]
    source: str = Field(min_length=1)
    architecture: str = ""
    compute_capability: float | None = None
    features: tuple[str, ...] = ()
    unified: bool = False
    devices: tuple[Entry, ...]


@lru_cache
def catalogue(extra: Path | None = None) -> Mapping[str, Device]:
    """Every known device by its name. One of `extra` takes the place of a shipped one.

    Raises RequestRejected, naming the file and the place in it, for a file that does not hold devices.
    """
    devices = {device.name: device for device in _read(SHIPPED)}
    if extra is not None:
        devices |= {device.name: device for device in _read(extra)}
    return devices


def find_device(name: str, extra: Path | None = None) -> Device:
    """The device that `name` names, whatever its case, spacing and vendor prefix. `RTX 3080 12GB` asks for a memory.

    Raises UnknownDevice, naming those that are written alike.
    """
    devices = catalogue(extra)
    names = _names(extra)
    if (known := names.get(_plain(name))) is not None:
        return devices[known]
    memory = re.fullmatch(r"(.+?)\s*[-, ]\s*(\d{1,5})\s*gb", name.strip(), re.IGNORECASE)
    if memory and (known := names.get(_plain(memory[1]))) is not None and int(memory[2]):
        return replace(devices[known], memory_bytes=int(memory[2]) * GB, notes=())
    near = difflib.get_close_matches(_plain(name), names, n=3, cutoff=0.5)
    alike = list(dict.fromkeys(names[each] for each in near))
    hint = f"written alike: {', '.join(alike)}; " if alike else ""
    raise UnknownDevice(
        f"no device is named {name[:80]!r}; {hint}`quantmill devices` lists all, and a file of "
        "QUANTMILL_DEVICE_CATALOGUE adds to them",
        device=name[:80],
        alike=alike,
    )


@lru_cache
def _names(extra: Path | None) -> Mapping[str, str]:
    """What devices may be called -> their names; a device's own name wins over another's alias."""
    devices = catalogue(extra).values()
    aliases = {_plain(alias): device.name for device in devices for alias in device.aliases}
    return aliases | {_plain(device.name): device.name for device in devices}


def _plain(name: str) -> str:
    words = re.sub(r"[^a-z0-9+]+", " ", name.lower()).split()
    return "".join(word for word in words if word not in {"nvidia", "geforce", "amd", "radeon", "intel", "apple"})


def _read(path: Path) -> Iterable[Device]:
    try:
        data = path.read_bytes()
        if len(data) > LARGEST_FILE_BYTES:
            raise RequestRejected(f"{path} is larger than {LARGEST_FILE_BYTES} bytes")
        families = SAFE_LOADER(data).get_single_data()["families"]
        found = [Family.model_validate(family) for family in families]
    except OSError as error:
        raise RequestRejected(f"the device catalogue {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        raise RequestRejected(f"{path} is not a device catalogue: {error}") from None
    return [_device(family, entry) for family in found for entry in family.devices]


def _device(family: Family, entry: Entry) -> Device:
    sizes = entry.memory_gb if isinstance(entry.memory_gb, tuple) else (entry.memory_gb,)
    smallest = min((size for size in sizes if size is not None), default=None)
    shown = ", ".join(f"{size:g}" for size in sizes if size is not None)
    notes = (f"sold with {shown} GB; the smallest is assumed",) if len(sizes) > 1 else ()
    return Device(
        name=entry.name,
        kind=family.kind,
        vendor=family.vendor,
        architecture=entry.architecture or family.architecture,
        compute_capability=entry.compute_capability or family.compute_capability,
        features=frozenset(family.features + entry.features),
        memory_bytes=None if smallest is None else round(smallest * GB),
        bandwidth=None if entry.bandwidth_gb_s is None else entry.bandwidth_gb_s * GB,
        unified=family.unified,
        source=entry.source or family.source,
        notes=notes,
        aliases=entry.also,
    )
