"""Does it run there? `match` says yes, no or degraded with every reason, and for a no the nearest thing that would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from quantmill.contract.facts import Fact, HardwareNeed, Scheme, ShapeRule
from quantmill.hardware.memory import Load, Placement, Shortfall, gigabytes, place
from quantmill.hardware.models import ModelShape, Weights
from quantmill.hardware.profiles import Device, Machine
from quantmill.hardware.runtimes import RUNTIMES

Answer = Literal["yes", "degraded", "no"]
ANSWERS: tuple[Answer, ...] = ("yes", "degraded", "no")
COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Requirement:
    """A scheme in a runtime, and the model with its load where memory and shapes are to be checked."""

    scheme: Scheme
    runtime: str
    model: ModelShape | None = None
    weights: Weights | None = None
    load: Load = field(default_factory=Load)

    @property
    def stored(self) -> Weights | None:
        """The weights that are given, or those that the scheme's bits make of the model."""
        return self.weights or (self.model.weights(self.scheme) if self.model else None)


@dataclass(frozen=True)
class Verdict:
    """`device`, `fact` and `placement` say where and how it runs; None where the answer is no or nothing is known."""

    answer: Answer
    reasons: tuple[str, ...]
    device: Device | None = None
    fact: Fact | None = None
    placement: Placement | None = None
    nearest: str = ""
    missing: int = 0
    other_hardware: bool = False  # the fact is about another kind of device or another vendor's

    @property
    def key(self) -> tuple[int, float]:
        """Better verdicts sort first."""
        speed = self.placement.tokens_per_second if self.placement else None
        return ANSWERS.index(self.answer), -(speed or 0.0)


def match(machine: Machine, requirement: Requirement, facts: Sequence[Fact], devices: Mapping[str, Device]) -> Verdict:
    """The verdict; a no comes with the nearest thing that would work, another runtime here or other hardware."""
    verdict = judge(machine, requirement, facts)
    return (
        verdict if verdict.answer != "no" else replace(verdict, nearest=nearest(machine, requirement, facts, devices))
    )


def judge(machine: Machine, requirement: Requirement, facts: Sequence[Fact]) -> Verdict:
    """The best verdict over all devices and facts: more hardware only adds to what is chosen from."""
    scheme, runtime = requirement.scheme, requirement.runtime
    if runtime not in RUNTIMES:
        return Verdict("no", (f"no runtime is named {runtime!r}; known: {', '.join(RUNTIMES)}",))
    rows = [fact for fact in facts if (fact.format, fact.runtime) == (scheme.format, runtime)]
    if not any(row.support != "unsupported" for row in rows):
        said = [f"{runtime}: {row.note} ({row.source})" for row in rows]
        return Verdict("no", tuple(dict.fromkeys(said)) or (f"{runtime} is not known to load {scheme.format}",))
    found = [_verdict(machine, device, requirement, row) for device in machine.devices for row in rows]
    if not found:
        return Verdict("no", ("the machine has no device that is described",))
    best = min(found, key=lambda verdict: verdict.key)
    if best.answer != "no":
        return best
    near = [verdict for verdict in found if not verdict.other_hardware] or found
    reasons = dict.fromkeys(reason for verdict in near for reason in verdict.reasons)
    return Verdict("no", tuple(reasons), missing=min((each.missing for each in found if each.missing), default=0))


def _verdict(machine: Machine, device: Device, requirement: Requirement, fact: Fact) -> Verdict:
    if reasons := _unmet(fact, device, requirement.scheme):
        return Verdict("no", tuple(reasons), other_hardware=_is_other(fact.hardware, device))
    model, weights = requirement.model, requirement.stored
    if fact.support == "unsupported":
        return Verdict("no", (f"{fact.runtime}: {fact.note} ({fact.source})",))
    reasons = [f"{fact.kernel} on {device.name} ({fact.source})", *filter(None, [fact.note])]
    placement = None
    if model is not None and weights is not None:
        runtime = RUNTIMES[fact.runtime]
        found = place(
            device, machine.processor, model, weights, runtime, fact.rule, requirement.load, unpacked=fact.unpacks
        )
        if isinstance(found, Shortfall):
            return Verdict("no", tuple(f"{fact.kernel}: {reason}" for reason in found.reasons), missing=found.missing)
        placement = found
        reasons += [*_placed(found, requirement), *found.unsure]
    degraded = fact.support == "emulated" or (placement is not None and placement.split) or _beyond(requirement)
    if fact.support == "emulated":
        reasons.append("emulated: it runs, without the speed that the format is made for")
    return Verdict("degraded" if degraded else "yes", tuple(reasons), device, fact, placement)


def _unmet(fact: Fact, device: Device, scheme: Scheme) -> list[str]:
    return [*unmet_hardware(fact, device), *_unmet_rule(fact, scheme)]


def unmet_hardware(fact: Fact, device: Device) -> list[str]:
    """What the device lacks for the fact, as sentences; empty where it has all."""
    return [f"{fact.runtime} {fact.kernel or fact.format} {each}" for each in lacks(fact.hardware, device)]


def _is_other(need: HardwareNeed, device: Device) -> bool:
    return device.kind != need.kind or bool(need.vendors and device.vendor not in need.vendors)


def lacks(need: HardwareNeed, device: Device) -> Iterator[str]:
    """What of `need` the device does not have, or is not known to have."""
    if device.kind != need.kind:
        yield f"needs a {need.kind}, {device.name} is a {device.kind}"
        return
    if need.vendors and device.vendor not in need.vendors:
        yield f"runs on {', '.join(need.vendors)}, not on {device.vendor or 'an unknown vendor'}'s {device.name}"
        return
    capability = device.compute_capability
    if need.compute_capability is not None and (capability is None or capability < need.compute_capability):
        has = "an unknown one" if capability is None else f"{capability:.1f}"
        yield f"needs compute capability {need.compute_capability:.1f}, {device.name} has {has}"
    if need.architectures and device.architecture not in need.architectures:
        yield f"needs one of {', '.join(need.architectures)}, {device.name} is {device.architecture or 'unknown'}"
    if missing := [feature for feature in need.features if feature not in device.features]:
        yield f"needs {', '.join(missing)}, which {device.name} is not known to have"


def _unmet_rule(fact: Fact, scheme: Scheme) -> Iterator[str]:
    rule: ShapeRule = fact.rule
    kernel = f"{fact.runtime} {fact.kernel}"
    if rule.bits and scheme.bits not in rule.bits:
        yield f"{kernel} takes {_listed(rule.bits)} bits, not {scheme.bits}"
    if rule.group_sizes and scheme.group_size is not None and scheme.group_size not in rule.group_sizes:
        yield f"{kernel} takes groups of {_listed(rule.group_sizes)}, not {scheme.group_size}"
    if rule.symmetric_only and not scheme.symmetric:
        yield f"{kernel} takes symmetric codes only"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _placed(placement: Placement, requirement: Requirement) -> Iterator[str]:
    memory, load = placement.memory, requirement.load
    told = "from the method's plan" if memory.exact_weights else "by bits per weight"
    kv = "KV cache unknown: config.json does not tell the heads"
    if memory.kv is not None:
        kv = f"KV cache {gigabytes(memory.kv)} for {load.batch} x {load.context} tokens in {load.kv_bits} bits"
    yield f"needs {gigabytes(memory.total)}: weights {gigabytes(memory.weights)} ({told}), {kv}"
    if placement.tensor_parallel > 1:
        yield f"cut over {placement.tensor_parallel} devices"
    if placement.split:
        yield (
            f"{placement.gpu_layers} of {placement.layers} layers on the GPU (-ngl {placement.gpu_layers}), "
            f"{gigabytes(placement.host_bytes)} in RAM: slower than all on the GPU"
        )
    if _beyond(requirement) and requirement.model:
        yield f"the model was made for {requirement.model.context} tokens; {load.context} are beyond that"


def _beyond(requirement: Requirement) -> bool:
    made_for = requirement.model.context if requirement.model else None
    return made_for is not None and requirement.load.context > made_for


# The nearest thing that would work


def nearest(machine: Machine, requirement: Requirement, facts: Sequence[Fact], devices: Mapping[str, Device]) -> str:
    """Another runtime or a shorter context on this machine, else the smallest hardware of the catalogue; in words."""
    for runtime in RUNTIMES:
        other = replace(requirement, runtime=runtime)
        if runtime != requirement.runtime and judge(machine, other, facts).answer != "no":
            return f"{requirement.scheme.name} in {runtime} on this machine"
    if shorter := _shorter_context(machine, requirement, facts):
        return shorter
    runtimes = [requirement.runtime, *(name for name in RUNTIMES if name != requirement.runtime)]
    for runtime in runtimes:
        if smallest := smallest_hardware(replace(requirement, runtime=runtime), facts, devices):
            return f"{requirement.scheme.name} in {runtime} on {smallest}"
    return _least(requirement)


def _shorter_context(machine: Machine, requirement: Requirement, facts: Sequence[Fact]) -> str:
    context = requirement.load.context // 2
    while requirement.model and context >= 512:
        load = replace(requirement.load, context=context)
        if judge(machine, replace(requirement, load=load), facts).answer != "no":
            return f"the same on this machine with a context of {context}"
        context //= 2
    return ""


def smallest_hardware(requirement: Requirement, facts: Sequence[Fact], devices: Mapping[str, Device]) -> str:
    """The device of the catalogue with the least memory that runs it whole, fewest of them first; "" for none."""
    known = sorted(
        (device for device in devices.values() if device.memory_bytes), key=lambda each: (each.memory_bytes, each.name)
    )
    for count in COUNTS:
        for device in known:
            if device.kind == "cpu" and count > 1:
                continue
            several = replace(device, count=count)
            machine = Machine(several) if device.kind == "cpu" else Machine(accelerators=(several,))
            verdict = judge(machine, requirement, facts)
            if verdict.answer == "yes":
                return f"{machine.name} ({gigabytes(count * (device.memory_bytes or 0))})"
    return ""


def _least(requirement: Requirement) -> str:
    """Where nothing that is known suffices: what it would take."""
    weights = requirement.stored
    if weights is None:
        return f"no runtime that is known loads {requirement.scheme.format}; choose another format"
    return f"more memory than any listed device has: {gigabytes(weights.nbytes)} for the weights alone; or fewer bits"
