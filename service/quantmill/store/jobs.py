"""Jobs: accepted once, moved by one function, held by one worker at a time.

Every change is one guarded UPDATE: it names the epoch, and the states the move may start from. No row back means that
somebody else was faster; nothing is read first and written after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, case, delete, exists, func, insert, or_, select, update

from quantmill.contract.errors import (
    IllegalTransition,
    NotFound,
    RequestRejected,
    ResourceExhausted,
    SourceRejected,
    WorkerLost,
    describe,
)
from quantmill.contract.tensors import Plan
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.escalation import Escalation, Rung, Step
from quantmill.domain.estimates import Estimate
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.gates import GateVerdict
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import (
    FINAL,
    HELD,
    PREVIOUS,
    Attempt,
    Job,
    JobRequest,
    Outcome,
    Phase,
    Progress,
    State,
    Waiting,
)
from quantmill.store.escalations import escalations_of, insert_escalation, insert_step, steps_of
from quantmill.store.estimates import estimate_of, insert_estimate
from quantmill.store.events import write_event
from quantmill.store.gates import gates_of, insert_gates
from quantmill.store.tables import attempt, job, job_label, job_plan, job_unit
from quantmill.store.types import clock, storable

LONGEST_BACKOFF_SECONDS = 3600.0
REAPED_AT_ONCE = 100
_PHASES = {phase.value: phase for phase in Phase}  # a newer worker's phase is not known here, and no reason to fail

# What entering a state does to the row, whoever asks for it
_UNHELD: dict[str, Any] = {
    "lease_owner": None,
    "lease_expires_at": None,
    "phase": None,
    "progress_done": None,
    "progress_total": None,
    "progress_message": None,
    "waiting": None,
}
_ENTERING: dict[State, dict[str, Any]] = {
    # the epoch rises so that whoever held the job can write nothing more
    State.QUEUED: {**_UNHELD, "epoch": job.c.epoch + 1, "dispatched_at": None},
    State.RUNNING: {"started_at": func.coalesce(job.c.started_at, clock())},
    State.CANCELING: {},
    **{state: {**_UNHELD, "ended_at": clock()} for state in FINAL},
}


# Submit and read


def insert_job(
    tx: Connection,
    request: JobRequest,
    *,
    method_version: str,
    plan: dict[str, Any],
    timeout_seconds: int,
    need: str = "{}",
    estimate: Estimate | None = None,
    job_id: UUID | None = None,
    retry_of: UUID | None = None,
) -> Job:
    """Accept a job: its row, its first event and the outbox row for that. `need` says what a worker must have for it.

    The job's request reads back with `timeout_seconds` as given here. Raises RequestRejected for text or a seed that
    a database cannot hold.
    """
    _check_storable(request)
    job_id = job_id or uuid7()
    tx.execute(
        insert(job).values(
            id=job_id,
            source=request.source,
            method=request.method,
            method_version=method_version,
            params=dict(request.params),
            evaluation_text=request.evaluation_text,
            evaluation=request.evaluation.asked() or None,
            calibration=request.calibration.asked() if request.calibration else None,
            seed=request.seed,
            timeout_seconds=timeout_seconds,
            retry_of=retry_of,
            need=need,
            event_seq=1,
            created_at=clock(),
        )
    )
    tx.execute(insert(job_plan).values(job_id=job_id, plan=plan))
    if request.labels:
        labels = [{"job_id": job_id, "key": key, "value": value} for key, value in request.labels.items()]
        tx.execute(insert(job_label), labels)
    insert_estimate(tx, job_id, estimate)
    insert_gates(tx, job_id, request.gates)
    insert_escalation(tx, job_id, request.escalation)
    write_event(tx, job_id, 1, 0, f"job.{State.QUEUED}", {"method": request.method})
    return get_job(tx, job_id)


def _check_storable(request: JobRequest) -> None:
    if not 0 <= request.seed < 2**63:
        raise RequestRejected(f"seed {request.seed} is out of range; use 0 to 2**63 - 1", pointer="/seed")
    fields = {
        name: getattr(request, name) for name in ("source", "method", "params", "evaluation_text", "labels", "gates")
    } | {
        "evaluation": request.evaluation.asked(),
        "calibration": request.calibration.asked() if request.calibration else {},
    }
    for name, value in fields.items():
        text = "".join(_texts(value))
        if text != storable(text):
            raise RequestRejected(f"{name} holds NUL or half a surrogate pair; send plain Unicode", pointer=f"/{name}")


def _texts(value: Any) -> Iterable[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for key, item in value.items():
                yield from _texts(key)
                yield from _texts(item)
        case list() | tuple():
            for item in value:
                yield from _texts(item)


def get_job(tx: Connection, job_id: UUID) -> Job:
    """The job with its plan, its estimate and its attempts. Raises NotFound."""
    wanted = select(job, job_plan.c.plan).join(job_plan, job_plan.c.job_id == job.c.id).where(job.c.id == job_id)
    row = tx.execute(wanted).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}", job_id=str(job_id))
    attempts = select(attempt).where(attempt.c.job_id == job_id).order_by(attempt.c.epoch)
    found = _to_job(row, _parts_of(tx, [job_id]))
    return replace(
        found,
        plan=row.plan,
        estimate=estimate_of(tx, job_id),
        attempts=tuple(_to_attempt(each) for each in tx.execute(attempts)),
    )


def list_jobs(
    tx: Connection,
    *,
    state: State | None = None,
    method: str | None = None,
    label: tuple[str, str] | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[Job]:
    """Jobs, newest first, from the one behind `after` on. Their `plan`, `estimate` and `attempts` are left empty:
    `get_job` has them, and a page of plans would be megabytes.
    """
    wanted = select(job).order_by(job.c.id.desc()).limit(limit)
    if state is not None:
        wanted = wanted.where(job.c.state == state)
    if method is not None:
        wanted = wanted.where(job.c.method == method)
    if label is not None:
        key, value = label
        wanted = wanted.where(
            exists().where(job_label.c.job_id == job.c.id, job_label.c.key == key, job_label.c.value == value)
        )
    if after is not None:
        wanted = wanted.where(job.c.id < after)
    return _without_plans(tx, tx.execute(wanted).all())


def find_jobs(tx: Connection, job_ids: Collection[UUID]) -> dict[UUID, Job]:
    """Those of these jobs that exist, by id, their `plan` and `attempts` left empty."""
    rows = tx.execute(select(job).where(job.c.id.in_(job_ids))).all()
    return {found.id: found for found in _without_plans(tx, rows)}


def _without_plans(tx: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    parts = _parts_of(tx, [row.id for row in rows])
    return [_to_job(row, parts) for row in rows]


@dataclass(frozen=True)
class _Parts:
    """What lies in other tables than `job`, by job."""

    labels: dict[UUID, dict[str, str]]
    gates: dict[UUID, tuple[GateVerdict, ...]]
    escalations: dict[UUID, Escalation]
    steps: dict[UUID, tuple[Step, ...]]


def _parts_of(tx: Connection, ids: Collection[UUID]) -> _Parts:
    return _Parts(_labels(tx, ids), gates_of(tx, ids), escalations_of(tx, ids), steps_of(tx, ids))


def _labels(tx: Connection, job_ids: Collection[UUID]) -> dict[UUID, dict[str, str]]:
    found: dict[UUID, dict[str, str]] = {}
    for row in tx.execute(select(job_label).where(job_label.c.job_id.in_(job_ids)).order_by(job_label.c.key)):
        found.setdefault(row.job_id, {})[row.key] = row.value
    return found


def _to_job(row: Row[Any], parts: _Parts) -> Job:
    """Without its plan and its attempts."""
    progress, gates = None, parts.gates.get(row.id, ())
    if row.progress_done is not None:
        progress = Progress(row.progress_done, row.progress_total, row.progress_message)
    return Job(
        id=row.id,
        request=JobRequest(
            source=row.source,
            method=row.method,
            params=row.params,
            evaluation_text=row.evaluation_text,
            evaluation=EvaluationOptions.of(row.evaluation or {}),
            calibration=CalibrationOptions.of(row.calibration) if row.calibration else None,
            seed=row.seed,
            timeout_seconds=row.timeout_seconds,
            labels=parts.labels.get(row.id, {}),
            gates=tuple(verdict.gate for verdict in gates),
            escalation=parts.escalations.get(row.id),
        ),
        method_version=row.method_version,
        state=row.state,
        phase=_PHASES.get(row.phase),
        epoch=row.epoch,
        row_version=row.row_version,
        progress=progress,
        plan={},
        source_digest=row.source_digest,
        error=row.error,
        artifact_digest=row.artifact_digest,
        retry_of=row.retry_of,
        queue=row.queue,
        need=row.need,
        waiting=Waiting.of_text(row.waiting) if row.waiting else None,
        not_before=row.not_before,
        cancel_requested_at=row.cancel_requested_at,
        deadline_at=row.deadline_at,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        gates=gates,
        steps=parts.steps.get(row.id, ()),
    )


def _to_attempt(row: Row[Any]) -> Attempt:
    return Attempt(
        epoch=row.epoch,
        worker=row.worker,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        exit_code=row.exit_code,
        signal=row.signal,
        peak_memory_bytes=row.peak_memory_bytes,
    )


# The one move


def transition(
    tx: Connection,
    job_id: UUID,
    *,
    epoch: int,
    to: State,
    from_: Collection[State] | None = None,
    payload: dict[str, Any] | None = None,
    **columns: Any,
) -> Job:
    """Move a job to another state. Nothing else in quantmill writes that column.

    One guarded UPDATE, the event `job.<state>` and its outbox row. `from_` narrows the states the move may start from;
    `columns` are set with it. A final state ends the lease and closes the attempt with the outcome of that name; a
    return to the queue raises the epoch. Raises IllegalTransition when the job is elsewhere or the epoch has passed,
    NotFound when there is no such job.
    """
    allowed = PREVIOUS[to] if from_ is None else PREVIOUS[to] & frozenset(from_)
    moved = tx.execute(
        update(job)
        .where(job.c.id == job_id, job.c.epoch == epoch, job.c.state.in_(allowed))
        .values(
            state=to,
            row_version=job.c.row_version + 1,
            event_seq=job.c.event_seq + 1,
            **{**_ENTERING[to], **columns},
        )
        .returning(job.c.epoch, job.c.event_seq)
    ).one_or_none()
    if moved is None:
        raise _illegal(get_job(tx, job_id), epoch, to)
    if to in FINAL:
        _close_attempts(tx, job_id, Outcome(to.value))
    if payload is None:
        payload = {"error": columns["error"]} if columns.get("error") else {}
    write_event(tx, job_id, moved.event_seq, moved.epoch, f"job.{to}", payload)
    return get_job(tx, job_id)


def _illegal(found: Job, epoch: int, to: State) -> IllegalTransition:
    facts = {"job_id": str(found.id), "state": found.state.value}
    if found.epoch != epoch:
        return IllegalTransition(
            f"job {found.id} is at epoch {found.epoch}; epoch {epoch} has passed and can no longer write", **facts
        )
    return IllegalTransition(f"job {found.id} is {found.state} and cannot become {to}", **facts)


def _close_attempts(tx: Connection, job_id: UUID, outcome: Outcome) -> None:
    tx.execute(
        update(attempt)
        .where(attempt.c.job_id == job_id, attempt.c.outcome.is_(None))
        .values(ended_at=clock(), outcome=outcome)
    )


# What users do


def request_cancel(tx: Connection, job_id: UUID) -> Job:
    """Cancel: at once in the queue, by way of `canceling` where a worker holds the job.

    A job that is being canceled or has been is left as it is. Raises IllegalTransition for one that ended otherwise,
    NotFound when there is no such job.
    """
    tx.execute(select(job.c.id).where(job.c.id == job_id).with_for_update())
    found = get_job(tx, job_id)
    if found.state in (State.CANCELING, State.CANCELED):
        return found
    to = State.CANCELED if found.state is State.QUEUED else State.CANCELING
    return transition(tx, job_id, epoch=found.epoch, to=to, cancel_requested_at=clock())


# What workers do


def claim(tx: Connection, job_id: UUID, epoch: int, worker: str, lease_seconds: float) -> Job | None:
    """Take a dispatched job: queued -> running, with a lease and an attempt. None when it is no longer there to take:
    the message was a duplicate, came late, or another worker was faster.
    """
    try:
        transition(
            tx,
            job_id,
            epoch=epoch,
            to=State.RUNNING,
            payload={"worker": worker},
            lease_owner=worker,
            lease_expires_at=clock(lease_seconds),
            deadline_at=func.coalesce(job.c.deadline_at, clock(job.c.timeout_seconds)),
        )
    except (IllegalTransition, NotFound):
        return None
    tx.execute(insert(attempt).values(job_id=job_id, epoch=epoch, worker=worker, started_at=clock()))
    return get_job(tx, job_id)


def is_held(job_id: UUID, epoch: int) -> ColumnElement[bool]:
    """The guard of everything that the holder of a job writes."""
    return and_(job.c.id == job_id, job.c.epoch == epoch, job.c.state.in_(HELD))


def renew_lease(tx: Connection, job_id: UUID, epoch: int, worker: str, lease_seconds: float) -> State | None:
    """Hold the job for `lease_seconds` from now; the state says whether it is to be canceled.

    None when the lease is lost: the worker must stop at once, what it still writes is refused.
    """
    return tx.execute(
        update(job)
        .where(is_held(job_id, epoch), job.c.lease_owner == worker)
        .values(lease_expires_at=clock(lease_seconds))
        .returning(job.c.state)
    ).scalar_one_or_none()


def record_progress(
    tx: Connection, job_id: UUID, epoch: int, phase: Phase, progress: Progress | None, *, event: bool
) -> bool:
    """Show what the job is doing, with an event (`job.progress`, or `job.phase` without progress) if wanted.

    False when the job is no longer held at this epoch.
    """
    shown = progress or Progress(0, 0)
    row = tx.execute(
        update(job)
        .where(is_held(job_id, epoch))
        .values(
            phase=phase.value,
            progress_done=shown.done if progress else None,
            progress_total=shown.total if progress else None,
            progress_message=shown.message if progress else None,
            row_version=job.c.row_version + 1,
            event_seq=job.c.event_seq + int(event),
        )
        .returning(job.c.event_seq)
    ).one_or_none()
    if row is None:
        return False
    if event:
        payload: dict[str, Any] = {"phase": phase.value}
        if progress:
            payload |= {"done": progress.done, "total": progress.total, "message": progress.message}
        write_event(tx, job_id, row.event_seq, epoch, "job.progress" if progress else "job.phase", payload)
    return True


def record_source(tx: Connection, job_id: UUID, epoch: int, source_digest: str) -> bool:
    """Keep the digest of the source that this job reads. False when the job is no longer held at this epoch.

    Raises SourceRejected when an earlier attempt read another source: its finished units do not fit this one.
    """
    known = tx.execute(
        update(job)
        .where(is_held(job_id, epoch))
        .values(source_digest=func.coalesce(job.c.source_digest, source_digest), row_version=job.c.row_version + 1)
        .returning(job.c.source_digest)
    ).scalar_one_or_none()
    if known is not None and known != source_digest:
        raise SourceRejected(
            f"the source changed while the job was running: it was {known}, now it is {source_digest}; submit it again"
        )
    return known is not None


def settle_plan(tx: Connection, job_id: UUID, epoch: int, plan: Mapping[str, Any]) -> bool:
    """Keep the plan with every scheme decided, so that later attempts go by it; an event says what it comes to.

    False when the job is no longer held at this epoch.
    """
    row = tx.execute(
        update(job)
        .where(is_held(job_id, epoch))
        .values(row_version=job.c.row_version + 1, event_seq=job.c.event_seq + 1)
        .returning(job.c.event_seq)
    ).one_or_none()
    if row is None:
        return False
    tx.execute(update(job_plan).where(job_plan.c.job_id == job_id).values(plan=dict(plan)))
    settled = Plan.from_json(plan)
    payload = {
        "nbytes": settled.nbytes,
        "limit_bytes": settled.limit_bytes,
        "bits_per_weight": settled.bits_per_weight,
        "predicted_loss": settled.predicted_loss,
    }
    write_event(tx, job_id, row.event_seq, epoch, "job.plan_settled", payload)
    return True


def escalate(tx: Connection, job_id: UUID, epoch: int, missed: Step, rung: Rung) -> Job | None:
    """Go on with larger parameters: the step that missed its gates is kept, its units are forgotten, and an event says
    so. None when the job is to be canceled, or is no longer held at this epoch.
    """
    row = tx.execute(
        update(job)
        .where(is_held(job_id, epoch), job.c.state == State.RUNNING)
        .values(params=dict(rung.params), row_version=job.c.row_version + 1, event_seq=job.c.event_seq + 1)
        .returning(job.c.event_seq)
    ).one_or_none()
    if row is None:
        return None
    tx.execute(update(job_plan).where(job_plan.c.job_id == job_id).values(plan=rung.plan.to_json()))
    tx.execute(delete(job_unit).where(job_unit.c.job_id == job_id))
    position = len(steps_of(tx, [job_id]).get(job_id, ()))
    insert_step(tx, job_id, position, missed)
    payload = {"step": position + 1, **missed.to_json(), "next": dict(rung.params)}
    write_event(tx, job_id, row.event_seq, epoch, "job.escalated", payload)
    return get_job(tx, job_id)


def end_attempt(
    tx: Connection,
    job_id: UUID,
    epoch: int,
    outcome: Outcome,
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    peak_memory_bytes: int | None = None,
) -> None:
    """Close an attempt, or add what is known to one already closed with this outcome. One closed with another outcome
    is left alone: a worker that comes back after its lease was reaped does not change what happened.
    """
    tx.execute(
        update(attempt)
        .where(
            attempt.c.job_id == job_id,
            attempt.c.epoch == epoch,
            or_(attempt.c.outcome.is_(None), attempt.c.outcome == outcome),
        )
        .values(
            ended_at=func.coalesce(attempt.c.ended_at, clock()),
            outcome=outcome,
            exit_code=func.coalesce(attempt.c.exit_code, exit_code),
            signal=func.coalesce(attempt.c.signal, signal),
            peak_memory_bytes=func.coalesce(attempt.c.peak_memory_bytes, peak_memory_bytes),
        )
    )


def release(tx: Connection, job_id: UUID, epoch: int) -> Job:
    """Hand a running job back to the queue, at a new epoch and without counting the attempt against it.

    Raises IllegalTransition when the job is not running at this epoch.
    """
    transition(tx, job_id, epoch=epoch, to=State.QUEUED, from_={State.RUNNING}, payload={"reason": "released"})
    end_attempt(tx, job_id, epoch, Outcome.RELEASED)
    return get_job(tx, job_id)


# What the scheduler does


@dataclass(frozen=True)
class Dispatchable:
    """A queued job that a worker should be told of. `redispatch`: it was told before, and nobody claimed the job."""

    job_id: UUID
    epoch: int
    queue: str | None
    need: str
    redispatch: bool


def queued_needs(tx: Connection) -> list[tuple[str, str | None]]:
    """The different needs of the jobs in the queue, each with every different `waiting` that is written beside it."""
    found = select(job.c.need, job.c.waiting).where(job.c.state == State.QUEUED).distinct().order_by(job.c.need)
    return [(row.need, row.waiting) for row in tx.execute(found)]


def dispatchable(
    tx: Connection, redispatch_seconds: float, limit: int, *, needs: Collection[str]
) -> list[Dispatchable]:
    """Queued jobs that a worker should be told of now, oldest first.

    At most `limit` with one of `needs` that wait for their first message, and all whose message is older than
    `redispatch_seconds`: those hold a place among the workers' slots already, and would hold it for ever if they had to
    wait for another.
    """
    columns = (job.c.id, job.c.epoch, job.c.queue, job.c.need)
    queued = select(*columns).where(job.c.state == State.QUEUED).order_by(job.c.id)
    due_again = queued.where(job.c.dispatched_at <= clock(-redispatch_seconds))
    due_first = queued.where(
        job.c.dispatched_at.is_(None),
        or_(job.c.not_before.is_(None), job.c.not_before <= clock()),
        job.c.need.in_(needs),
    ).limit(limit)
    return [
        Dispatchable(row.id, row.epoch, row.queue, row.need, redispatch)
        for wanted, redispatch in ((due_again, True), (due_first, False))
        for row in tx.execute(wanted)
    ]


def outstanding(tx: Connection) -> dict[str, int]:
    """How many jobs the workers of each queue have been told of and are not done with: dispatched and unclaimed, or
    held."""
    told = or_(job.c.state.in_(HELD), and_(job.c.state == State.QUEUED, job.c.dispatched_at.is_not(None)))
    counted = select(job.c.queue, func.count().label("jobs")).where(told).group_by(job.c.queue)
    return {row.queue: row.jobs for row in tx.execute(counted)}


def count_unsent(tx: Connection) -> list[tuple[str, int, datetime]]:
    """The different needs of queued jobs that no worker was told of, with how many have it and when the newest of
    these came."""
    counted = (
        select(job.c.need, func.count().label("jobs"), func.max(job.c.created_at).label("newest"))
        .where(job.c.state == State.QUEUED, job.c.dispatched_at.is_(None))
        .group_by(job.c.need)
        .order_by(job.c.need)
    )
    return [(row.need, row.jobs, row.newest) for row in tx.execute(counted)]


def note_waiting(tx: Connection, need: str, waiting: Waiting | None) -> None:
    """Write beside all jobs with this need that wait for their first message why they do, or that nothing is in their
    way. An event `job.waiting` says a reason where it is new.
    """
    text = waiting.to_text() if waiting else None
    moved = tx.execute(
        update(job)
        .where(
            job.c.state == State.QUEUED,
            job.c.dispatched_at.is_(None),
            job.c.need == need,
            job.c.waiting.is_distinct_from(text),
        )
        .values(waiting=text, row_version=job.c.row_version + 1, event_seq=job.c.event_seq + int(waiting is not None))
        .returning(job.c.id, job.c.epoch, job.c.event_seq)
    ).all()
    if waiting is not None:
        for row in moved:
            write_event(tx, row.id, row.event_seq, row.epoch, "job.waiting", waiting.to_json())


def decline(tx: Connection, job_id: UUID, epoch: int) -> bool:
    """Take a message back that was sent to where the job cannot run: it waits for its first message again. False when
    the job has moved on."""
    taken = update(job).where(job.c.id == job_id, job.c.epoch == epoch, job.c.state == State.QUEUED)
    return tx.execute(taken.values(dispatched_at=None, row_version=job.c.row_version + 1)).rowcount == 1


def count_waiting(tx: Connection) -> dict[str, int]:
    """How many queued jobs say that they wait, by reason."""
    counted = (
        select(job.c.waiting, func.count().label("jobs")).where(job.c.waiting.is_not(None)).group_by(job.c.waiting)
    )
    found: Counter[str] = Counter()
    for row in tx.execute(counted):
        found[Waiting.of_text(row.waiting).reason] += row.jobs
    return dict(found)


def count_jobs(tx: Connection) -> dict[State, int]:
    """How many jobs stand in each state; states without any are left out."""
    counted = select(job.c.state, func.count().label("jobs")).group_by(job.c.state)
    return {row.state: row.jobs for row in tx.execute(counted)}


def mark_dispatched(tx: Connection, job_id: UUID, epoch: int, queue: str) -> int | None:
    """Note that the job is being sent to `queue`, and give the epoch to send: a new one the first time, the same one
    when it is sent again (a claim takes only one of the messages). None when the job has moved on since it was read.
    """
    return tx.execute(
        update(job)
        .where(job.c.id == job_id, job.c.epoch == epoch, job.c.state == State.QUEUED)
        .values(
            epoch=case((job.c.dispatched_at.is_(None), job.c.epoch + 1), else_=job.c.epoch),
            dispatched_at=clock(),
            queue=queue,
            waiting=None,
            row_version=job.c.row_version + 1,
        )
        .returning(job.c.epoch)
    ).scalar_one_or_none()


def reap(tx: Connection, *, max_attempts: int, backoff_seconds: float) -> list[Job]:
    """Deal with jobs whose deadline or whose worker's lease has passed; gives those it moved, at most 100 of each.

    Past the deadline: expired. Past the lease: as `lose` says.
    """
    overdue = _past(tx, job.c.deadline_at, {State.QUEUED, State.RUNNING})
    moved = [_expire(tx, row) for row in overdue]
    lost = _past(tx, job.c.lease_expires_at, HELD)
    return moved + [
        lose(
            tx,
            row.id,
            row.epoch,
            reason=f"the lease of worker {row.lease_owner} ran out",
            max_attempts=max_attempts,
            backoff_seconds=backoff_seconds,
        )
        for row in lost
    ]


def _past(tx: Connection, moment: ColumnElement[Any], states: Collection[State]) -> list[Row[Any]]:
    """Jobs of these states whose `moment` has passed, locked; those that another transaction holds are left to it."""
    wanted = (
        select(job.c.id, job.c.epoch, job.c.lease_owner, job.c.timeout_seconds)
        .where(moment <= clock(), job.c.state.in_(states))
        .order_by(moment)
        .limit(REAPED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return list(tx.execute(wanted))


def _expire(tx: Connection, row: Row[Any]) -> Job:
    error = ResourceExhausted(f"the job was not done {row.timeout_seconds} seconds after it was first started")
    return transition(tx, row.id, epoch=row.epoch, to=State.EXPIRED, error=describe(error))


def lose(
    tx: Connection,
    job_id: UUID,
    epoch: int,
    *,
    reason: str,
    max_attempts: int,
    backoff_seconds: float,
    exit_code: int | None = None,
    signal: int | None = None,
    peak_memory_bytes: int | None = None,
) -> Job:
    """Take a job from a worker or a runner that went away: canceled where that was wanted, else back to the queue
    after a pause that doubles each time, or failed when this was the `max_attempts`-th loss.

    Raises IllegalTransition when the job is not held at this epoch.
    """
    end_attempt(
        tx, job_id, epoch, Outcome.LOST, exit_code=exit_code, signal=signal, peak_memory_bytes=peak_memory_bytes
    )
    state = tx.execute(select(job.c.state).where(job.c.id == job_id).with_for_update()).scalar_one_or_none()
    if state is State.CANCELING:
        return transition(tx, job_id, epoch=epoch, to=State.CANCELED, payload={"reason": reason})
    lost = tx.execute(
        select(func.count()).select_from(attempt).where(attempt.c.job_id == job_id, attempt.c.outcome == Outcome.LOST)
    ).scalar_one()
    if lost >= max_attempts:
        error = WorkerLost(f"the job was lost {lost} times; the last time {reason}")
        return transition(tx, job_id, epoch=epoch, to=State.FAILED, from_={State.RUNNING}, error=describe(error))
    pause = min(backoff_seconds * 2 ** (lost - 1), LONGEST_BACKOFF_SECONDS)
    return transition(
        tx,
        job_id,
        epoch=epoch,
        to=State.QUEUED,
        payload={"reason": reason, "backoff_seconds": pause},
        not_before=clock(pause),
    )
