"""Ranks what could be made of a model for a machine and an objective, and says what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from quantmill.contract.errors import RequestRejected
from quantmill.contract.facts import Fact, FormatFacts, Scheme
from quantmill.hardware.choices import (
    FAMILIAR,
    NO_CHOICE,
    OBJECTIVES,
    TRAINABLE,
    Choice,
    Objective,
    choice_for,
    measure,
    preference,
)
from quantmill.hardware.memory import DEFAULT_CONTEXT, LARGEST_BATCH, LARGEST_CONTEXT, Load, gigabytes
from quantmill.hardware.models import ModelShape, Weights
from quantmill.hardware.profiles import Device, Machine
from quantmill.hardware.runtimes import RUNTIMES, order
from quantmill.hardware.verdicts import ANSWERS, Requirement, Verdict, judge, nearest

KV_BITS = (4, 8, 16, 32)
UNNAMED = "the choice table does not name it for this hardware; ranked by what the objective measures"
TRAINING_NOTE = "memory for adapters, gradients and optimizer states comes on top and is not counted"


@dataclass(frozen=True)
class Availability:
    """Whether a method of this installation makes a scheme; `weights` are exact where its plan could be made."""

    installed: bool
    reason: str
    weights: Weights | None = None


Maker = Callable[[Scheme], Availability]


@dataclass(frozen=True)
class Wish:
    """What is asked. A `runtime` narrows the answer to it."""

    objective: Objective = "balanced"
    runtime: str | None = None
    load: Load = field(default_factory=Load)


@dataclass(frozen=True)
class Recommendation:
    """One plan: a scheme in the runtime that suits it best here, and `others` that run it too."""

    scheme: Scheme
    verdict: Verdict
    runtime: str
    made_here: Availability
    why: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Rejected:
    scheme: Scheme
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """Plans, best first; `nearest` says what would work where there is none."""

    machine: Machine
    plans: tuple[Recommendation, ...]
    rejected: tuple[Rejected, ...]
    nearest: str
    notes: tuple[str, ...]


def recommend(
    machine: Machine,
    model: ModelShape | None,
    wish: Wish,
    known: FormatFacts,
    makes: Maker,
    devices: Mapping[str, Device],
) -> Answer:
    """The ranked plans. The same question has the same answer, and every scheme is either a plan or rejected.

    Raises RequestRejected for constraints that contradict each other and for figures out of range.
    """
    check(wish)
    choice = choice_for(wish.objective, machine.devices[0]) if machine.devices else NO_CHOICE
    plans: list[Recommendation] = []
    rejected: list[Rejected] = []
    shortest: tuple[int, Requirement] | None = None
    for scheme in known.schemes:
        available = makes(scheme)
        requirements = list(_requirements(scheme, model, wish, available, known))
        verdicts = [(each.runtime, judge(machine, each, known.facts)) for each in requirements]
        runs = sorted((pair for pair in verdicts if pair[1].answer != "no"), key=lambda run: _runtime_key(run, wish))
        if runs:
            plans.append(_recommendation(scheme, runs, available, choice))
            continue
        rejected.append(Rejected(scheme, _reasons(scheme, verdicts, wish)))
        for requirement, (_, verdict) in zip(requirements, verdicts, strict=True):
            if verdict.missing and (shortest is None or verdict.missing < shortest[0]):
                shortest = verdict.missing, requirement
    plans.sort(key=lambda plan: _rank(plan, wish.objective, choice))
    would_work = "" if plans else _nearest(machine, shortest, model, wish, known, devices)
    return Answer(machine, tuple(plans), tuple(rejected), would_work, tuple(_notes(machine, model, wish, plans)))


def _requirements(
    scheme: Scheme, model: ModelShape | None, wish: Wish, available: Availability, known: FormatFacts
) -> Iterator[Requirement]:
    """The scheme in each runtime that may be asked and that some fact speaks of."""
    if wish.objective == "fine-tuning" and scheme.format not in TRAINABLE:
        return
    told = {fact.runtime for fact in known.facts if fact.format == scheme.format}
    for runtime, profile in RUNTIMES.items():
        trains = profile.trains or wish.objective != "fine-tuning"
        if runtime in told and trains and wish.runtime in (None, runtime):
            yield Requirement(scheme, runtime, model, available.weights, wish.load)


def check(wish: Wish) -> None:
    """Raises RequestRejected, saying what to change."""
    if wish.objective not in OBJECTIVES:
        raise RequestRejected(f"no objective is named {wish.objective!r}; there are: {', '.join(OBJECTIVES)}")
    if wish.runtime is not None and wish.runtime not in RUNTIMES:
        raise RequestRejected(f"no runtime is named {wish.runtime!r}; known: {', '.join(RUNTIMES)}")
    if wish.objective == "fine-tuning" and wish.runtime and not RUNTIMES[wish.runtime].trains:
        trains = ", ".join(name for name, runtime in RUNTIMES.items() if runtime.trains)
        raise RequestRejected(f"{wish.runtime} only runs models, it does not fine-tune; that does: {trains}")
    for name, value, largest in (
        ("context", wish.load.context, LARGEST_CONTEXT),
        ("batch", wish.load.batch, LARGEST_BATCH),
    ):
        if not 1 <= value <= largest:
            raise RequestRejected(f"{name} must be from 1 to {largest}, not {value}")
    if wish.load.kv_bits not in KV_BITS:
        raise RequestRejected(f"a KV cache has {', '.join(map(str, KV_BITS))} bits a value, not {wish.load.kv_bits}")


def default_context(model: ModelShape | None) -> int:
    """As much as the model was made for, up to 8192."""
    return min(DEFAULT_CONTEXT, model.context) if model and model.context else DEFAULT_CONTEXT


def _recommendation(
    scheme: Scheme, runs: Sequence[tuple[str, Verdict]], available: Availability, choice: Choice
) -> Recommendation:
    runtime, verdict = runs[0]
    named = preference(choice, scheme) < len(choice.schemes)
    why = f"{choice.why} ({choice.source})" if named else UNNAMED
    return Recommendation(scheme, verdict, runtime, available, why, tuple(name for name, _ in runs[1:]))


def _rank(plan: Recommendation, objective: Objective, choice: Choice) -> tuple[int, int, float, str]:
    seconds = plan.verdict.placement.seconds_per_token if plan.verdict.placement else None
    return (
        ANSWERS.index(plan.verdict.answer),
        preference(choice, plan.scheme),
        measure(objective, plan.scheme, seconds),
        plan.scheme.name,
    )


def _runtime_key(run: tuple[str, Verdict], wish: Wish) -> tuple[int, int, str]:
    runtime, verdict = run
    device = verdict.device
    place = order(runtime, device.kind, device.vendor, wish.objective) if device else len(RUNTIMES)
    return ANSWERS.index(verdict.answer), place, runtime


def _reasons(scheme: Scheme, verdicts: Iterable[tuple[str, Verdict]], wish: Wish) -> tuple[str, ...]:
    if wish.objective == "fine-tuning" and scheme.format not in TRAINABLE:
        return (f"adapters cannot be trained on {scheme.format} weights (PEFT docs, quantization)",)
    found = dict.fromkeys(reason for _, verdict in verdicts for reason in verdict.reasons)
    return tuple(found) or (f"{wish.runtime or 'no runtime'} is not known to load {scheme.format}",)


def _nearest(
    machine: Machine,
    shortest: tuple[int, Requirement] | None,
    model: ModelShape | None,
    wish: Wish,
    known: FormatFacts,
    devices: Mapping[str, Device],
) -> str:
    """What came closest, with the memory that it lacks; else a scheme that many things run, and what runs it."""
    if shortest is not None:
        missing, requirement = shortest
        lacking = f"{requirement.scheme.name} in {requirement.runtime} lacks {gigabytes(missing)} here"
        return f"{lacking}; {nearest(machine, requirement, known.facts, devices)}"
    familiar = _familiar(model, wish, known)
    if familiar is None:
        return f"another runtime: {wish.runtime} is not known to load any format"
    return nearest(machine, familiar, known.facts, devices)


def _familiar(model: ModelShape | None, wish: Wish, known: FormatFacts) -> Requirement | None:
    """A well-known scheme of the objective, in the runtime that was asked for or in the first that runs it."""
    schemes = sorted(known.schemes, key=lambda each: (each.name not in FAMILIAR, each.linear_bits, each.name))
    schemes.sort(key=lambda each: FAMILIAR.index(each.name) if each.name in FAMILIAR else len(FAMILIAR))
    for scheme in schemes:
        for requirement in _requirements(scheme, model, wish, Availability(False, ""), known):
            if any(_may_run(fact, requirement) for fact in known.facts):
                return requirement
    return None


def _may_run(fact: Fact, requirement: Requirement) -> bool:
    same = (fact.format, fact.runtime) == (requirement.scheme.format, requirement.runtime)
    return (
        same
        and fact.support != "unsupported"
        and not (fact.rule.bits and requirement.scheme.bits not in fact.rule.bits)
    )


def _notes(machine: Machine, model: ModelShape | None, wish: Wish, plans: Sequence[Recommendation]) -> Iterable[str]:
    for device in machine.devices:
        yield from (f"{device.name}: {note}" for note in device.notes)
    yield from (f"not seen: {each}" for each in machine.unseen)
    if model is None:
        yield "no model was given: whether it fits was not checked"
    elif not model.from_headers:
        yield "sizes follow from config.json alone; the checkpoint's headers would make them exact"
    if wish.objective == "fine-tuning":
        yield TRAINING_NOTE
    if plans and not any(plan.made_here.installed for plan in plans):
        yield "no method installed here makes any of these plans"
