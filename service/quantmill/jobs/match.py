"""What to make of a model for a machine: the matcher, with the methods of this installation and their plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmill.checkpoints import open_checkpoint
from quantmill.checkpoints.folder import read_config
from quantmill.checkpoints.gguf_model import is_gguf
from quantmill.checkpoints.uris import resolve
from quantmill.contract.errors import ParamsRejected, QuantmillError, RequestRejected
from quantmill.contract.facts import Measured, Scheme
from quantmill.contract.method import Method
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill.hardware.catalogue import catalogue, find_device
from quantmill.hardware.choices import Objective
from quantmill.hardware.facts import combine
from quantmill.hardware.memory import Load
from quantmill.hardware.models import EMBEDDINGS, GGUF_EMBEDDING, GGUF_OUTPUT, OUTPUTS, ModelShape, shape_of
from quantmill.hardware.profiles import GB, Device, Machine, machine_of
from quantmill.hardware.recommend import Answer, Availability, Wish, check, default_context, recommend
from quantmill.jobs.params import validate, validate_by_schema
from quantmill.plugins import Plugins

if TYPE_CHECKING:  # the command needs no database
    from quantmill.services import Services
    from quantmill.store.database import Database


@dataclass(frozen=True)
class Question:
    """What is asked of the matcher. Without `context`: as much as the model was made for, up to 8192."""

    objective: Objective = "balanced"
    runtime: str | None = None
    context: int | None = None
    batch: int = 1
    kv_bits: int = 16


@dataclass(frozen=True)
class Asked:
    """A model: its shape, and its headers where they could be read."""

    shape: ModelShape
    index: ModelIndex | None


Quality = Callable[[Scheme], tuple[Measured, ...]]  # what jobs of this installation measured
RUNS_SHOWN = 3


def nothing_measured(scheme: Scheme) -> tuple[Measured, ...]:
    """Where there is no history."""
    return ()


Published = Mapping[str, Mapping[str, Any]]  # descriptions of methods that only workers have


def answer(
    plugins: Plugins,
    machine: Machine,
    asked: Asked | None,
    question: Question,
    *,
    published: Published | None = None,
    measured: Quality = nothing_measured,
    extra: Path | None = None,
) -> Answer:
    """The ranked plans; what was `measured` of their schemes stands before the published figures.

    Raises RequestRejected for contradictory constraints and figures out of range.
    """
    shape = asked.shape if asked else None
    context = default_context(shape) if question.context is None else question.context
    wish = Wish(question.objective, question.runtime, Load(context, question.batch, question.kv_bits))
    check(wish)
    devices = catalogue(extra)
    makes = _maker(plugins, asked, published or {})
    known = combine(plugins.format_facts)
    schemes = tuple(replace(scheme, quality=(*measured(scheme), *scheme.quality)) for scheme in known.schemes)
    return recommend(_completed(machine), shape, wish, replace(known, schemes=schemes), makes, devices)


def answer_service(
    services: Services,
    device: str,
    question: Question,
    *,
    count: int = 1,
    memory_gb: float | None = None,
    ram_gb: float | None = None,
    source: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Answer:
    """The same over the installation: sources below its roots, methods of its workers."""
    from quantmill.jobs.methods import list_methods
    from quantmill.jobs.plan import pointing_at

    extra = services.settings.device_catalogue
    with pointing_at("/device"):
        machine = described_machine(device, count=count, memory_gb=memory_gb, ram_gb=ram_gb, extra=extra)
    asked = folder = None
    if source is not None and config is not None:
        raise RequestRejected("source and config both name a model; give one of them")
    if source is not None:
        with pointing_at("/source"):
            folder = resolve(source, services.settings.source_roots)
            asked = read_model(folder)
    if config is not None:
        with pointing_at("/config"):
            asked = Asked(shape_of(config), None)
    published = {row["name"]: row for row in list_methods(services)}
    measured = measured_quality(services.database, folder)
    return answer(services.plugins, machine, asked, question, published=published, measured=measured, extra=extra)


def measured_quality(database: Database, model: Path | None) -> Quality:
    """What jobs lost that made a scheme, the newest of each source; the asked model's alone where it is there."""
    from quantmill.store.estimates import losses

    with database.read() as tx:
        runs = losses(tx)

    def measured(scheme: Scheme) -> tuple[Measured, ...]:
        by_source: dict[str, Measured] = {}
        for run in runs:
            if run.method == scheme.method and scheme.params.items() <= run.params.items():
                what = f"perplexity over the source's, {Path(run.source).name}"
                by_source.setdefault(run.source, Measured(what, run.perplexity_ratio, f"job {run.job_id}"))
        same = by_source.get(str(model))
        return (same,) if same else tuple(by_source.values())[:RUNS_SHOWN]

    return measured


def list_devices(services: Services) -> list[Device]:
    """The catalogue with what this installation adds, by name."""
    devices = catalogue(services.settings.device_catalogue)
    return [devices[name] for name in sorted(devices)]


def described_machine(
    device: str,
    *,
    count: int = 1,
    memory_gb: float | None = None,
    ram_gb: float | None = None,
    extra: Path | None = None,
) -> Machine:
    """A machine with devices of the catalogue. Raises UnknownDevice, or RequestRejected for figures that none has."""
    memory, ram = (None if size is None else _bytes(size) for size in (memory_gb, ram_gb))
    return machine_of(find_device(device, extra), count=count, memory_bytes=memory, ram_bytes=ram)


def read_model(path: Path) -> Asked:
    """The model in a checkpoint folder or GGUF file, or as a config.json alone describes it. Raises SourceRejected."""
    if path.is_file() and not is_gguf(path):
        return Asked(shape_of(read_config(path), name=path.resolve().parent.name), None)
    with open_checkpoint(path) as checkpoint:
        index = checkpoint.index
    return Asked(shape_of(index.config, index, path.name), index)


def _bytes(size_gb: float) -> int:
    if not 0 < size_gb <= GB:
        raise RequestRejected(f"a memory must have from 0 to {GB} GB, not {size_gb:g}")
    return max(1, round(size_gb * GB))


def _completed(machine: Machine) -> Machine:
    """A probed machine with what the catalogue knows of its devices and the probe could not see."""
    return replace(machine, accelerators=tuple(_complete(device) for device in machine.accelerators))


def _complete(device: Device) -> Device:
    if device.bandwidth is not None and device.architecture:
        return device
    try:
        known = find_device(device.name)
    except RequestRejected:
        return device
    return replace(
        device,
        architecture=device.architecture or known.architecture,
        bandwidth=device.bandwidth or known.bandwidth,
        features=device.features | known.features,
    )


# What makes a scheme here


def _maker(plugins: Plugins, asked: Asked | None, published: Published) -> Callable[[Scheme], Availability]:
    def makes(scheme: Scheme) -> Availability:
        if not scheme.method:
            return Availability(False, "no method of quantmill makes it")
        try:
            if scheme.method in plugins.methods:
                return _by_plan(plugins.methods[scheme.method], scheme, asked)
            if scheme.method in published:
                validate_by_schema(scheme.method, published[scheme.method]["params_schema"], scheme.params)
                return Availability(True, "a worker has it installed")
        except ParamsRejected:
            given = ", ".join(f"{key}={value}" for key, value in scheme.params.items())
            return Availability(False, f"the {scheme.method} that is installed here does not take {given}")
        except QuantmillError as error:
            return Availability(False, f"{scheme.method} cannot make it of this model: {error.detail}")
        return Availability(False, f"the method {scheme.method} is not installed here")

    return makes


def _by_plan(method: Method, scheme: Scheme, asked: Asked | None) -> Availability:
    params = validate(method, scheme.params)
    if asked is None or asked.index is None:
        return Availability(True, "")
    plan: Plan = method.plan.load()(asked.index, params)
    outside = sum(tensor.nbytes for tensor in plan.tensors if _is_outside(tensor.name, tensor.shape))
    return Availability(True, "", asked.shape.exact_weights(plan.nbytes, outside))


def _is_outside(name: str, shape: tuple[int, ...]) -> bool:
    return (
        len(shape) < 2
        or name in (GGUF_EMBEDDING, GGUF_OUTPUT)
        or not {*EMBEDDINGS, *OUTPUTS}.isdisjoint(name.split("."))
    )
