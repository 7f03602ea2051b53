"""A job's leave to escalate, and the steps that it has taken."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert, select

from quantmill.domain.escalation import Escalation, Step
from quantmill.domain.gates import GateVerdict
from quantmill.store.tables import escalation, escalation_step
from quantmill.store.types import clock


def insert_escalation(tx: Connection, job_id: UUID, asked: Escalation | None) -> None:
    if asked is not None:
        tx.execute(insert(escalation).values(job_id=job_id, **vars(asked)))


def insert_step(tx: Connection, job_id: UUID, position: int, step: Step) -> None:
    """Keep an attempt that missed its gates. The caller's transaction also moves the job on, guarded by its epoch."""
    tx.execute(
        insert(escalation_step).values(
            job_id=job_id,
            position=position,
            params=dict(step.params),
            size=step.size,
            gates=[dict(vars(verdict)) for verdict in step.gates],
            ended_at=clock(),
        )
    )


def escalations_of(tx: Connection, job_ids: Collection[UUID]) -> dict[UUID, Escalation]:
    """By job; one that may not escalate is left out."""
    rows = tx.execute(select(escalation).where(escalation.c.job_id.in_(job_ids)))
    return {row.job_id: Escalation(row.attempts, row.size_mb, row.by) for row in rows}


def steps_of(tx: Connection, job_ids: Collection[UUID]) -> dict[UUID, tuple[Step, ...]]:
    """By job, first step first; a job that has taken none is left out."""
    step = escalation_step
    found: dict[UUID, tuple[Step, ...]] = {}
    for row in tx.execute(select(step).where(step.c.job_id.in_(job_ids)).order_by(step.c.job_id, step.c.position)):
        found[row.job_id] = (*found.get(row.job_id, ()), _to_step(row))
    return found


def _to_step(row: Row[Any]) -> Step:
    return Step(row.params, row.size, tuple(GateVerdict(**verdict) for verdict in row.gates))
