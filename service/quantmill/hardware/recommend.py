"""Ranks what could be made of a model for a machine and an objective, and says what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from quantmill.contract.errors import RequestRejected
from quantmill.contract.facts import FormatFacts, Scheme
from quantmill.hardware.choices import OBJECTIVES, Choice, Objective, choice_for, measure, preference
from quantmill.hardware.memory import DEFAULT_CONTEXT, LARGEST_BATCH, LARGEST_CONTEXT, Load
from quantmill.hardware.models import ModelShape, Weights
from quantmill.hardware.profiles import Device, Machine
from quantmill.hardware.runtimes import RUNTIMES, order
from quantmill.hardware.verdicts import ANSWERS, Requirement, Verdict, judge, nearest

KV_BITS = (4, 8, 16, 32)
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
    runtimes = (
        [wish.runtime]
        if wish.runtime
        else [name for name, profile in RUNTIMES.items() if profile.trains or wish.objective != "fine-tuning"]
    )
    plans: list[Recommendation] = []
    rejected: list[Rejected] = []
    for scheme in known.schemes:
        available = makes(scheme)
        requirements = [
            Requirement(scheme, runtime, model, available.weights, wish.load)
            for runtime in runtimes
            if any((fact.format, fact.runtime) == (scheme.format, runtime) for fact in known.facts)
        ]
        verdicts = [(each.runtime, judge(machine, each, known.facts)) for each in requirements]
        runs = sorted((pair for pair in verdicts if pair[1].answer != "no"), key=_runtime_key)
        if runs:
            plans.append(_recommendation(scheme, runs, available, wish))
        else:
            rejected.append(Rejected(scheme, _reasons(scheme, verdicts, runtimes)))
    plans.sort(key=lambda plan: _rank(plan, wish.objective))
    help_ = "" if plans else _nearest(machine, model, wish, known, makes, devices)
    return Answer(machine, tuple(plans), tuple(rejected), help_, tuple(_notes(machine, model, wish, plans)))


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
    scheme: Scheme, runs: Sequence[tuple[str, Verdict]], available: Availability, wish: Wish
) -> Recommendation:
    runtime, verdict = runs[0]
    choice = _choice(wish.objective, verdict)
    why = (
        choice.why
        if preference(choice, scheme) < len(choice.schemes)
        else "not named by the choice table; ranked by its measure"
    )
    return Recommendation(scheme, verdict, runtime, available, why, tuple(name for name, _ in runs[1:]))


def _choice(objective: Objective, verdict: Verdict) -> Choice:
    assert verdict.device is not None  # only of verdicts that are not a no
    return choice_for(objective, verdict.device)


def _rank(plan: Recommendation, objective: Objective) -> tuple[int, int, float, str]:
    choice = _choice(objective, plan.verdict)
    seconds = plan.verdict.placement.seconds_per_token if plan.verdict.placement else None
    return (
        ANSWERS.index(plan.verdict.answer),
        preference(choice, plan.scheme),
        measure(objective, plan.scheme, seconds),
        plan.scheme.name,
    )


def _runtime_key(run: tuple[str, Verdict]) -> tuple[int, int, str]:
    runtime, verdict = run
    device = verdict.device
    place = order(runtime, device.kind, device.vendor) if device else len(RUNTIMES)
    return ANSWERS.index(verdict.answer), place, runtime


def _reasons(scheme: Scheme, verdicts: Iterable[tuple[str, Verdict]], runtimes: Sequence[str]) -> tuple[str, ...]:
    found = dict.fromkeys(reason for _, verdict in verdicts for reason in verdict.reasons)
    return tuple(found) or (f"{', '.join(runtimes)}: not known to load {scheme.format}",)


def _nearest(
    machine: Machine,
    model: ModelShape | None,
    wish: Wish,
    known: FormatFacts,
    makes: Maker,
    devices: Mapping[str, Device],
) -> str:
    """Of the smallest scheme that some runtime takes: what would run it."""
    runtimes = [wish.runtime] if wish.runtime else list(RUNTIMES)
    for scheme in sorted(known.schemes, key=lambda each: (each.linear_bits, each.name)):
        for runtime in runtimes:
            rows = [fact for fact in known.facts if (fact.format, fact.runtime) == (scheme.format, runtime)]
            if any(
                row.support != "unsupported" and (not row.rule.bits or scheme.bits in row.rule.bits) for row in rows
            ):
                requirement = Requirement(scheme, runtime, model, makes(scheme).weights, wish.load)
                return nearest(machine, requirement, known.facts, devices)
    return f"another runtime: {wish.runtime} loads no format that is known here"


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
