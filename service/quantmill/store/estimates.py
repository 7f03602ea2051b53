"""What jobs were thought to take, and what they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, exists, insert, select

from quantmill.domain.estimates import UNKNOWN_HISTORY, Estimate, History, Run, error_of
from quantmill.domain.jobs import Outcome
from quantmill.store.tables import attempt, environment, escalation_step, job, job_estimate, metric

RUNS = 100  # the newest of a kind that count
LOOKED_BACK = 1000  # jobs of all methods whose accuracy is told
Measured = tuple[Estimate, Run]


@dataclass(frozen=True)
class Accuracy:
    """Medians of how far off the estimates of a method's newest jobs were, as shares of what they took."""

    method: str
    runs: int
    seconds: float
    memory_bytes: float


@dataclass(frozen=True)
class Loss:
    """The perplexity of what a job made over that of its source."""

    job_id: UUID
    method: str
    params: Mapping[str, Any]
    source: str
    perplexity_ratio: float


def losses(tx: Connection) -> list[Loss]:
    """Of the newest jobs that measured it, newest first."""
    measured = (
        select(
            job.c.id.label("job_id"), job.c.method, job.c.params, job.c.source, metric.c.value.label("perplexity_ratio")
        )
        .join(metric, metric.c.job_id == job.c.id)
        .where(metric.c.name == "perplexity_ratio", metric.c.subject == "artifact", metric.c.value.is_not(None))
        .order_by(job.c.id.desc())
        .limit(LOOKED_BACK)
    )
    return [Loss(**row._mapping) for row in tx.execute(measured)]


def insert_estimate(tx: Connection, job_id: UUID, estimate: Estimate | None) -> None:
    if estimate is not None:
        tx.execute(insert(job_estimate).values(job_id=job_id, estimate=estimate.to_json()))


def estimate_of(tx: Connection, job_id: UUID) -> Estimate | None:
    """None for a job that only its worker could plan."""
    found = tx.execute(select(job_estimate.c.estimate).where(job_estimate.c.job_id == job_id)).scalar_one_or_none()
    return None if found is None else Estimate.from_json(found)


def history(tx: Connection, method: str, *, calibrated: bool, evaluated: bool) -> History:
    """The newest jobs of a method that took their first attempt from beginning to end."""
    texts = (job.c.calibration.is_not(None) == calibrated, job.c.evaluation_text.is_not(None) == evaluated)
    rows = tx.execute(_finished().where(job.c.method == method, *texts).limit(RUNS)).all()
    hardware = _hardware(tx, {row.environment_digest for row in rows})
    if not rows or (newest := hardware.get(rows[0].environment_digest)) is None:
        return UNKNOWN_HISTORY
    return History(newest, tuple(_measured(row)[1] for row in rows if hardware.get(row.environment_digest) == newest))


def accuracies(tx: Connection) -> list[Accuracy]:
    """By method, for those with jobs that have succeeded."""
    found: dict[str, list[Measured]] = {}
    for row in tx.execute(_finished().limit(LOOKED_BACK)):
        found.setdefault(row.method, []).append(_measured(row))
    return [_accuracy(method, measured) for method, measured in sorted(found.items())]


def _accuracy(method: str, measured: Sequence[Measured]) -> Accuracy:
    errors = [error_of(estimate, run) for estimate, run in measured]
    return Accuracy(method, len(errors), median(error for error, _ in errors), median(error for _, error in errors))


def _finished() -> Select[Any]:
    """Newest first. A job with more attempts or steps has spent its time on more than one run."""
    other = attempt.alias()  # asked of each row by its key, so that a page of the newest is all that is read
    return (
        select(
            job.c.method,
            job_estimate.c.estimate,
            attempt.c.started_at,
            attempt.c.ended_at,
            attempt.c.peak_memory_bytes,
            attempt.c.environment_digest,
        )
        .join(job_estimate, job_estimate.c.job_id == job.c.id)
        .join(attempt, attempt.c.job_id == job.c.id)
        .where(
            attempt.c.outcome == Outcome.SUCCEEDED,
            attempt.c.peak_memory_bytes > 0,
            ~exists().where(other.c.job_id == job.c.id, other.c.epoch != attempt.c.epoch),
            ~exists().where(escalation_step.c.job_id == job.c.id),
        )
        .order_by(job.c.id.desc())
    )


def _measured(row: Row[Any]) -> Measured:
    estimate = Estimate.from_json(row.estimate)
    seconds = max((row.ended_at - row.started_at).total_seconds(), 0.001)
    return estimate, Run(estimate.features, seconds, row.peak_memory_bytes)


def _hardware(tx: Connection, digests: set[str | None]) -> dict[str, str]:
    """The classes of environments: the processor and how many of it."""
    rows = tx.execute(select(environment).where(environment.c.digest.in_([each for each in digests if each])))
    return {row.digest: f"{row.description.get('cpu')}, {row.description.get('cpus')} CPUs" for row in rows}
