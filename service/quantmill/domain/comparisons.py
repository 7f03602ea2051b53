"""Comparisons: several variants of one source, each a job, seen as one."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.escalation import Escalation
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.jobs import FINAL, Job, JobRequest, State

WORST_FIRST = (State.CANCELED, State.FAILED, State.EXPIRED, State.SUCCEEDED)


@dataclass(frozen=True)
class VariantRequest:
    """One way to compress the source."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What was asked for, without the defaults that the method fills in."""
        return " ".join([self.method, *(f"{key}={shown(value)}" for key, value in self.params.items())])


@dataclass(frozen=True)
class ComparisonRequest:
    """What a user asked for: each variant of one source, evaluated on one text."""

    source: str
    evaluation_text: str
    variants: tuple[VariantRequest, ...]
    seed: int = 0
    timeout_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    gates: tuple[str, ...] = ()
    escalation: Escalation | None = None
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    calibration: CalibrationOptions | None = None

    def job(self, variant: VariantRequest) -> JobRequest:
        return JobRequest(
            source=self.source,
            method=variant.method,
            params=variant.params,
            evaluation_text=self.evaluation_text,
            seed=self.seed,
            timeout_seconds=self.timeout_seconds,
            labels=self.labels,
            gates=self.gates,
            escalation=self.escalation,
            evaluation=self.evaluation,
            calibration=self.calibration,
        )


@dataclass(frozen=True)
class Variant:
    """A variant as it was asked for, and its job; the job's plan and attempts are left empty."""

    asked: VariantRequest
    job: Job


@dataclass(frozen=True)
class Comparison:
    """`source` and `evaluation_text` are as the user named them; `source_bytes` is the size of the source's weights.

    A comparison has no state of its own: it is what its jobs make it.
    """

    id: UUID
    source: str
    evaluation_text: str
    source_bytes: int
    variants: tuple[Variant, ...]
    created_at: datetime

    @property
    def state(self) -> State:
        return state_of({variant.job.state for variant in self.variants})

    @property
    def ended_at(self) -> datetime | None:
        """When the last job ended; None while one has not."""
        ends = [variant.job.ended_at for variant in self.variants]
        known = [end for end in ends if end is not None]
        return max(known) if len(known) == len(ends) else None

    @property
    def etag(self) -> str:
        """Rises with every change that a reader can see of a job."""
        return str(sum(variant.job.row_version for variant in self.variants))


def state_of(states: Collection[State]) -> State:
    """What jobs in these states make together: the worst end once all have ended."""
    going = set(states) - FINAL
    if not going:
        return next(state for state in WORST_FIRST if state in states)
    if going == {State.CANCELING}:
        return State.CANCELING
    return State.QUEUED if set(states) == {State.QUEUED} else State.RUNNING


def shown(value: Any) -> str:
    """A parameter's value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)
