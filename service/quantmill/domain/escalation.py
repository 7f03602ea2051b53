"""Escalation: leave to go on with larger parameters when an artifact misses its gates, inside a stated budget.

What can be larger is the method's `ladder`, sets of parameters; the host decides which of them comes next, by the
bytes that their plans come to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantmill.contract.errors import GateFailed
from quantmill.contract.tensors import Plan
from quantmill.domain.artifacts import Metric
from quantmill.domain.gates import GateVerdict, parse, refusal

GROWING = {"size_mb", "bpw"}  # what rises with the artifact; everything else is a loss, which falls
UPWARDS = {">", ">="}


@dataclass(frozen=True)
class Escalation:
    """At most `attempts` in all, the first included, none of them planned for more than `size_mb` (10^6 bytes)."""

    attempts: int
    size_mb: float | None = None


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


def refusal_of(steps: Sequence[Step], metrics: Iterable[Metric]) -> GateFailed:
    """The error of a job whose last step, with these metrics, missed the gates too."""
    return refusal(steps[-1].gates, metrics, [step.to_json() for step in steps] if len(steps) > 1 else ())
