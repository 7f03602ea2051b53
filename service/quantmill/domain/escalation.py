"""Escalation: leave to go on with larger parameters when an artifact misses its gates, inside a stated budget.

What can be larger is the method's `ladder`, sets of parameters; the host decides which of them comes next, by the
bytes that their plans come to. Or the worst blocks alone get more bits: those after which the output's error, as
evaluation measured it, has grown most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from quantmill.contract.errors import GateFailed, RequestRejected
from quantmill.contract.tensors import Plan
from quantmill.domain.artifacts import Metric
from quantmill.domain.gates import GateVerdict, parse, refusal

GROWING = {"size_mb", "bpw"}  # what rises with the artifact; everything else is a loss, which falls
UPWARDS = {">", ">="}


By = Literal["ladder", "blocks"]
SHARE = 0.5  # of the error's growth, that the blocks which get more bits together account for


@dataclass(frozen=True)
class Escalation:
    """At most `attempts` in all, the first included, none of them planned for more than `size_mb` (10^6 bytes).

    `by` says what grows: the whole model up the method's ladder, or its worst blocks.
    """

    attempts: int
    size_mb: float | None = None
    by: By = "ladder"

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise RequestRejected(f"an escalation is by {' or by '.join(get_args(By))}, not by {self.by!r}")

    def asked(self) -> dict[str, Any]:
        """What a request says, as JSON: requests of before there was `by` are still the same."""
        return {"attempts": self.attempts, "size_mb": self.size_mb} | ({} if self.by == "ladder" else {"by": self.by})


@dataclass(frozen=True)
class Step:
    """An attempt that missed its gates: with which parameters, how large it was, and what was observed."""

    params: Mapping[str, Any]
    size: int
    gates: tuple[GateVerdict, ...]

    def to_json(self) -> dict[str, Any]:
        return {"params": dict(self.params), "size": self.size, "gates": [dict(vars(each)) for each in self.gates]}


@dataclass(frozen=True)
class Rung:
    """Parameters of a method, whole, and what they lead to."""

    params: Mapping[str, Any]
    plan: Plan


def more_may_help(verdicts: Iterable[GateVerdict]) -> bool:
    """Whether every gate that was missed is one that a larger artifact comes nearer to."""
    missed = [parse(verdict.gate) for verdict in verdicts if not verdict.passed]
    return all(gate.name not in GROWING or gate.comparison in UPWARDS for gate in missed)


def most_bytes(escalation: Escalation, gates: Iterable[str]) -> float:
    """The budget, or the smallest size that a gate allows where that is less."""
    sizes = [gate.limit for gate in map(parse, gates) if gate.name == "size_mb" and gate.comparison not in UPWARDS]
    given = math.inf if escalation.size_mb is None else escalation.size_mb
    return 1e6 * min([given, *sizes])


def next_rung(rungs: Sequence[Rung], current: int, most: float) -> Rung | None:
    """The smallest that is larger than `current` bytes and within `most`; None when there is none."""
    larger = [rung for rung in rungs if current < rung.plan.nbytes <= most]
    return min(larger, key=lambda rung: rung.plan.nbytes, default=None)


def worst_blocks(metrics: Iterable[Metric], promotable: Callable[[str], bool]) -> list[str]:
    """The fewest `promotable` blocks that account for SHARE of what the output's error has grown by in such blocks.

    Worst first, by their prefixes (model.layers.3). Errors add up from block to block, so what one of them has added is
    what the error is larger by behind it. Empty where no block's error was measured.
    """
    measured = sorted((each for each in metrics if each.name == "output_error"), key=lambda each: _place(each.subject))
    errors = [0.0, *(each.value for each in measured)]
    growth = {
        each.subject: max(0.0, after - before)
        for each, before, after in zip(measured, errors[:-1], errors[1:], strict=True)
        if math.isfinite(after - before) and promotable(each.subject)
    }
    worst = sorted(growth, key=lambda block: -growth[block])
    enough = SHARE * sum(growth.values())
    before = [sum(growth[block] for block in worst[:count]) for count in range(len(worst))]
    return [block for block, so_far in zip(worst, before, strict=True) if so_far < enough]


def _place(block: str) -> tuple[tuple[bool, int, str], ...]:
    """Blocks in the model's order: numbers by their value."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in block.split("."))


def refusal_of(steps: Sequence[Step], metrics: Iterable[Metric]) -> GateFailed:
    """The error of a job whose last step, with these metrics, missed the gates too."""
    return refusal(steps[-1].gates, metrics, [step.to_json() for step in steps] if len(steps) > 1 else ())
