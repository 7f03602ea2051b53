"""Jobs: their states, the legal moves between them, and the values that describe one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.escalation import Escalation, Step
from quantmill.domain.estimates import Estimate
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.gates import GateVerdict


class State(StrEnum):
    """Where a job stands. The set is closed: clients may rely on it."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELED, State.FAILED, State.EXPIRED}),  # FAILED: attempts used up
    State.RUNNING: frozenset(
        {
            State.SUCCEEDED,
            State.FAILED,
            State.CANCELING,
            State.EXPIRED,
            State.QUEUED,  # the lease ran out, or the worker handed the job back
        }
    ),
    State.CANCELING: frozenset(
        {
            State.CANCELED,
            State.SUCCEEDED,  # the artifact was already being published
            State.FAILED,
            State.EXPIRED,
        }
    ),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELED: frozenset(),
    State.EXPIRED: frozenset(),
}
PREVIOUS: dict[State, frozenset[State]] = {
    state: frozenset(before for before, following in NEXT.items() if state in following) for state in State
}
FINAL = frozenset(state for state, following in NEXT.items() if not following)
HELD = frozenset({State.RUNNING, State.CANCELING})  # a worker holds a lease


class Phase(StrEnum):
    """What a running job is doing. Phases may be added: clients must tolerate unknown ones."""

    FETCH = "fetch"
    PLAN = "plan"
    CALIBRATE = "calibrate"
    QUANTIZE = "quantize"
    EXPORT = "export"
    VERIFY = "verify"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


class Outcome(StrEnum):
    """How one attempt at a job ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    LOST = "lost"  # the lease ran out
    RELEASED = "released"  # the worker shut down and handed the job back; does not count against the limit


@dataclass(frozen=True)
class JobRequest:
    """What a user asked for, after validation."""

    source: str
    method: str
    params: Mapping[str, Any]
    evaluation_text: str | None = None
    seed: int = 0
    timeout_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    gates: tuple[str, ...] = ()
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    escalation: Escalation | None = None
    calibration: CalibrationOptions | None = None


@dataclass(frozen=True)
class Progress:
    """How far a phase has come: `done` of `total` units, and what is being worked on."""

    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class Waiting:
    """Why a queued job was not sent to a worker: `no_eligible_worker`, `waiting_capacity` or `waiting_workers`, what is
    missing, and the queue that the job waits for, where there is one."""

    reason: str
    missing: tuple[str, ...] = ()
    queue: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"reason": self.reason, "missing": list(self.missing), "queue": self.queue}

    def to_text(self) -> str:
        return json.dumps(self.to_json())

    @classmethod
    def of_text(cls, text: str) -> Waiting:
        fields = json.loads(text)
        return cls(fields["reason"], tuple(fields["missing"]), fields.get("queue"))


@dataclass(frozen=True)
class Attempt:
    """One claim of a job by a worker."""

    epoch: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Job:
    """A job as the store knows it. `plan` is Plan.to_json(), `error` is errors.describe().

    `steps` are attempts that missed the gates of a job that may escalate; `request.params` and `plan` are then what it
    goes on with. `need` is the text of what a worker must have, `not_before` ends the pause of a job that was lost.
    """

    id: UUID
    request: JobRequest
    method_version: str
    state: State
    phase: Phase | None
    epoch: int
    row_version: int
    progress: Progress | None
    plan: Mapping[str, Any]
    source_digest: str | None
    error: Mapping[str, Any] | None
    artifact_digest: str | None
    retry_of: UUID | None
    queue: str | None
    cancel_requested_at: datetime | None
    deadline_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attempts: tuple[Attempt, ...] = ()
    gates: tuple[GateVerdict, ...] = ()
    steps: tuple[Step, ...] = ()
    estimate: Estimate | None = None
    need: str = "{}"
    waiting: Waiting | None = None
    not_before: datetime | None = None

    @property
    def asked(self) -> JobRequest:
        """The request as it came: escalation changes the parameters, and the first step kept what they were."""
        return replace(self.request, params=self.steps[0].params) if self.steps else self.request

    def status_reason(self, now: datetime) -> str | None:
        """Why the job is still in the queue; None where it is not."""
        if self.state is not State.QUEUED:
            return None
        if self.waiting is not None:
            return self.waiting.reason
        return "backoff" if self.not_before is not None and self.not_before > now else "waiting_capacity"

    @property
    def etag(self) -> str:
        return f"{self.epoch}.{self.row_version}"


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; `seq` counts from 1 without gaps within the job."""

    job_id: UUID
    seq: int
    epoch: int
    at: datetime
    type: str
    payload: Mapping[str, Any]
