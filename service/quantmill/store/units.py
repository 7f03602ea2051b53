"""Finished units of a job: what the next attempt need not do again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, select

from quantmill.contract.errors import IllegalTransition
from quantmill.domain.jobs import FINAL
from quantmill.store.jobs import get_job, is_held
from quantmill.store.tables import job, job_unit
from quantmill.store.types import clock
from quantmill.store.upsert import upsert


@dataclass(frozen=True)
class FinishedUnit:
    """`digest` and `size` are those of the unit's tensors as the job's unit store has them, `carry` is the blob of the
    hidden states behind a calibrated block; `findings` are what came of it beside tensors, as JSON."""

    key: str
    digest: str
    size: int
    carry: str | None = None
    findings: Mapping[str, Any] = field(default_factory=dict)


def finish_unit(tx: Connection, job_id: UUID, epoch: int, unit: FinishedUnit, worker: str) -> bool:
    """Note a unit as finished; one finished before is replaced (its blob may have been damaged).

    False when the job is no longer held at this epoch; then nothing was noted.
    """
    held = select(job.c.id).where(is_held(job_id, epoch)).with_for_update(read=True)
    if tx.execute(held).one_or_none() is None:
        return False
    values = {
        "epoch": epoch,
        "worker": worker,
        "digest": unit.digest,
        "size": unit.size,
        "carry_digest": unit.carry,
        "findings": dict(unit.findings) or None,
        "finished_at": clock(),
    }
    tx.execute(
        upsert(tx, job_unit)
        .values(job_id=job_id, key=unit.key, **values)
        .on_conflict_do_update(index_elements=["job_id", "key"], set_=values)
    )
    return True


def finished_units(tx: Connection, job_id: UUID) -> list[FinishedUnit]:
    """The units that are finished, by whichever attempt, in the order of their keys."""
    wanted = select(job_unit).where(job_unit.c.job_id == job_id).order_by(job_unit.c.key)
    return [
        FinishedUnit(row.key, row.digest, row.size, row.carry_digest, row.findings or {}) for row in tx.execute(wanted)
    ]


def forget_units(tx: Connection, job_id: UUID) -> None:
    """Forget the units of a job that has ended.

    Raises IllegalTransition for a job that has not ended, NotFound when there is no such job.
    """
    ended = get_job(tx, job_id)
    if ended.state not in FINAL:
        raise IllegalTransition(f"job {job_id} is {ended.state}; its finished units are still needed")
    tx.execute(delete(job_unit).where(job_unit.c.job_id == job_id))
