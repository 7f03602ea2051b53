"""What there is and for how long, counted by the database: every replica tells the same."""

from __future__ import annotations

from sqlalchemy import Connection, Executable, and_, func, or_, select

from quantmill.domain.jobs import HELD, State
from quantmill.store.tables import attempt, job, job_event, outbox
from quantmill.store.types import clock

Counted = dict[tuple[str, ...], float]  # by the values of a metric's labels


def jobs_by_queue(tx: Connection) -> Counted:
    """Jobs that the workers of each queue were told of or hold, by queue and state."""
    told = or_(job.c.state.in_(HELD), and_(job.c.state == State.QUEUED, job.c.dispatched_at.is_not(None)))
    return _counted(tx, select(job.c.queue, job.c.state, func.count()).where(told).group_by(job.c.queue, job.c.state))


def attempts_by_outcome(tx: Connection) -> Counted:
    """Attempts that have ended, by method and outcome."""
    ended = select(job.c.method, attempt.c.outcome, func.count()).join(attempt, attempt.c.job_id == job.c.id)
    return _counted(tx, ended.where(attempt.c.outcome.is_not(None)).group_by(job.c.method, attempt.c.outcome))


def oldest_queued_seconds(tx: Connection) -> float:
    """The age of the oldest job that is in the queue; 0 where none is."""
    return _age(tx, select(clock(), func.min(job.c.created_at)).where(job.c.state == State.QUEUED))


def outbox_seconds(tx: Connection) -> float:
    """The age of the oldest event that plugins were not told of; 0 where there is none."""
    told = and_(job_event.c.job_id == outbox.c.job_id, job_event.c.seq == outbox.c.seq)
    return _age(tx, select(clock(), func.min(job_event.c.at)).join(outbox, told))


def _counted(tx: Connection, counted: Executable) -> Counted:
    return {tuple(str(label) for label in labels): float(count) for *labels, count in tx.execute(counted)}


def _age(tx: Connection, now_and_then: Executable) -> float:
    now, then = tx.execute(now_and_then).one()
    return 0.0 if then is None else max(0.0, (now - then).total_seconds())
