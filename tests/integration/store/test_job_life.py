"""The life of jobs, in any order of events, against a model of it in plain Python.

Messages are never taken out of `sent`: claiming any of them again, late or never, is what a broker may do to us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, update

from quantmill.contract.errors import IdempotencyMismatch, IllegalTransition, WorkerLost, describe
from quantmill.domain.artifacts import Artifact, ArtifactFile
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import FINAL, HELD, NEXT, JobRequest, Phase, Progress, State
from quantmill.store import artifacts, idempotency, jobs, outbox, tables, units
from quantmill.store.database import Database

MAX_ATTEMPTS = 2
EXAMPLES = 20
STEPS = 50
PICKED_FROM = 3
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
REQUEST = JobRequest(source="/models/any", method="gguf", params={"type": "Q4_0"})
MADE = Artifact("sha256:made", "model", "gguf", (ArtifactFile("m.gguf", "sha256:file", 10),), None, LONG_AGO)
PROVENANCE = {
    "source_digest": "sha256:source",
    "source_uri": "/models/any",
    "metrics": [],
    "environment": {},
    "verification": {},
}

Draw = Callable[..., Any]
WORKERS = st.sampled_from(["w1", "w2"])
EPOCHS_BACK = st.sampled_from([0, 0, 0, 1])
HAPPENINGS = [
    *("submit", "cancel", "run_out_of_time", "release", "tell_others", "finish", "lose_a_worker", "work"),
    *("dispatch", "dispatch", "claim", "claim", "claim", "lose_a_worker", "reap", "reap", "work"),
]


@dataclass
class Expected:
    state: State = State.QUEUED
    epoch: int = 0
    dispatched: bool = False
    worker: str | None = None
    lost: int = 0
    lease_over: bool = False
    overdue: bool = False
    attempts: list[int] = field(default_factory=list)
    canceled_before_claim: bool = False

    def enter(self, state: State) -> None:
        self.state = state
        if state not in HELD:
            self.worker, self.lease_over = None, False
        if state is State.QUEUED:
            self.epoch, self.dispatched = self.epoch + 1, False


class JobLife(RuleBasedStateMachine):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.expected: dict[UUID, Expected] = {}
        self.keys: dict[str, UUID] = {}
        self.sent: list[tuple[UUID, int]] = []
        self.told: list[tuple[UUID, int]] = []
        with database.write() as tx:
            for table in reversed(tables.metadata.sorted_tables):
                tx.execute(table.delete())

    def pick(self, draw: Draw) -> tuple[UUID, Expected]:
        """One of the newest jobs: most of those before have ended, and nothing more can happen to them."""
        return draw(st.sampled_from(list(self.expected.items())[-PICKED_FROM:]))

    @rule(what=st.sampled_from(HAPPENINGS), data=st.data())
    def happen(self, what: str, data: st.DataObject) -> None:
        """One rule for all: with a rule for each, Hypothesis would leave some of them out of every example."""
        getattr(self, what if self.expected else "submit")(data.draw)

    # Users

    def submit(self, draw: Draw) -> None:
        key = draw(st.sampled_from([None, None, "a", "b"]))
        job_id = uuid7()
        with self.database.write() as tx:
            first = idempotency.remember(tx, key, "sha256:body", job_id, 3600) if key else job_id
            if first == job_id:
                jobs.insert_job(tx, REQUEST, method_version="1", plan={}, timeout_seconds=3600, job_id=job_id)

        if key in self.keys:
            assert first == self.keys[key]
            with pytest.raises(IdempotencyMismatch), self.database.write() as tx:
                idempotency.remember(tx, key, "sha256:another", job_id, 3600)
        else:
            assert first == job_id
            self.expected[job_id] = Expected()
            if key:
                self.keys[key] = job_id

    def cancel(self, draw: Draw) -> None:
        job_id, job = self.pick(draw)
        becomes = {
            State.QUEUED: State.CANCELED,
            State.RUNNING: State.CANCELING,
            State.CANCELING: State.CANCELING,
            State.CANCELED: State.CANCELED,
        }.get(job.state)

        if becomes is None:
            with pytest.raises(IllegalTransition), self.database.write() as tx:
                jobs.request_cancel(tx, job_id)
            return
        with self.database.write() as tx:
            assert jobs.request_cancel(tx, job_id).state is becomes
        job.canceled_before_claim |= job.state is State.QUEUED and not job.attempts
        if becomes is not job.state:
            job.enter(becomes)

    # The scheduler

    def dispatch(self, draw: Draw) -> None:
        redispatch, limit = draw(st.booleans()), draw(st.sampled_from([1, 100]))
        queued = [(job_id, job) for job_id, job in self.expected.items() if job.state is State.QUEUED]
        again = [(job_id, job.epoch) for job_id, job in queued if job.dispatched and redispatch]
        first = [(job_id, job.epoch) for job_id, job in queued if not job.dispatched][:limit]

        with self.database.read() as tx:
            due = jobs.dispatchable(tx, 0 if redispatch else 3600, limit, needs=["{}"])
        assert [(each.job_id, each.epoch) for each in due] == again + first

        for each in due:
            with self.database.write() as tx:
                epoch = jobs.mark_dispatched(tx, each.job_id, each.epoch, "cpu")
                assert jobs.mark_dispatched(tx, each.job_id, epoch - 1, "cpu") is None
            job = self.expected[each.job_id]
            assert epoch == job.epoch + (0 if each.redispatch else 1)
            job.epoch, job.dispatched = epoch, True
            self.sent.append((each.job_id, epoch))

    def decline(self, draw: Draw) -> None:
        if not self.sent:
            return
        job_id, epoch = draw(st.sampled_from(self.sent[-PICKED_FROM:]))
        job = self.expected[job_id]
        with self.database.write() as tx:
            declined = jobs.decline(tx, job_id, epoch)

        assert declined == (job.state is State.QUEUED and job.epoch == epoch)
        if declined:
            job.dispatched = False

    def lose_a_worker(self, draw: Draw) -> None:
        held = [job_id for job_id, job in self.expected.items() if job.state in HELD]
        if held:
            job_id = draw(st.sampled_from(held))
            self._let_pass(job_id, "lease_expires_at")
            self.expected[job_id].lease_over = True

    def run_out_of_time(self, draw: Draw) -> None:
        job_id, job = self.pick(draw)
        self._let_pass(job_id, "deadline_at")
        job.overdue = True

    def _let_pass(self, job_id: UUID, moment: str) -> None:
        with self.database.write() as tx:
            tx.execute(update(tables.job).where(tables.job.c.id == job_id).values({moment: LONG_AGO}))

    def reap(self, draw: Draw) -> None:
        with self.database.write() as tx:
            moved = jobs.reap(tx, max_attempts=MAX_ATTEMPTS, backoff_seconds=0)

        should_move = {
            job_id
            for job_id, job in self.expected.items()
            if job.lease_over or (job.overdue and job.state in (State.QUEUED, State.RUNNING))
        }
        assert {job.id for job in moved} == should_move
        for job_id in should_move:
            self._expect_reaped(self.expected[job_id])

    def _expect_reaped(self, job: Expected) -> None:
        if job.overdue and job.state in (State.QUEUED, State.RUNNING):
            job.enter(State.EXPIRED)
            return
        job.lost += 1
        if job.state is State.CANCELING:
            job.enter(State.CANCELED)
        else:
            job.enter(State.FAILED if job.lost >= MAX_ATTEMPTS else State.QUEUED)

    def tell_others(self, draw: Draw) -> None:
        with self.database.write() as tx:
            rows = outbox.pending(tx, draw(st.sampled_from([1, 3, 100])))
            outbox.delivered(tx, [row.id for row in rows])
        self.told += [(row.event.job_id, row.event.seq) for row in rows]

    # Workers

    def claim(self, draw: Draw) -> None:
        if not self.sent:
            return
        job_id, epoch = draw(st.sampled_from(self.sent[-PICKED_FROM:]))
        worker = draw(WORKERS)
        job = self.expected[job_id]
        with self.database.write() as tx:
            claimed = jobs.claim(tx, job_id, epoch, worker, 3600)

        assert (claimed is not None) == (job.state is State.QUEUED and job.epoch == epoch)
        if claimed:
            job.enter(State.RUNNING)
            job.worker = worker
            job.attempts.append(epoch)

    def work(self, draw: Draw) -> None:
        job_id, job = self.pick(draw)
        epoch, worker = job.epoch - draw(EPOCHS_BACK), draw(WORKERS)
        with self.database.write() as tx:
            state = jobs.renew_lease(tx, job_id, epoch, worker, 3600)
            kept = jobs.record_progress(tx, job_id, epoch, Phase.QUANTIZE, Progress(1, 9), event=draw(st.booleans()))
            unit = units.finish_unit(tx, job_id, epoch, units.FinishedUnit("block.0", "sha256:unit", 10), worker)

        holds = job.state in HELD and job.epoch == epoch
        mine = holds and job.worker == worker
        assert (state, kept, unit) == (job.state if mine else None, holds, holds)
        if mine:
            job.lease_over = False

    def finish(self, draw: Draw) -> None:
        job_id, job = self.pick(draw)
        epoch = job.epoch - draw(EPOCHS_BACK)
        to = draw(st.sampled_from([State.SUCCEEDED, State.FAILED, State.CANCELED]))

        if job.state in HELD and job.epoch == epoch and to in NEXT[job.state]:
            self._finish(job_id, epoch, to)
            job.enter(to)
        else:
            with pytest.raises(IllegalTransition):
                self._finish(job_id, epoch, to)

    def _finish(self, job_id: UUID, epoch: int, to: State) -> None:
        error = describe(WorkerLost("gone")) if to is State.FAILED else None
        with self.database.write() as tx:
            if to is State.SUCCEEDED:
                artifacts.publish(tx, job_id, epoch, MADE, **PROVENANCE)
            else:
                jobs.transition(tx, job_id, epoch=epoch, to=to, from_=HELD, error=error)

    def release(self, draw: Draw) -> None:
        job_id, job = self.pick(draw)
        epoch = job.epoch - draw(EPOCHS_BACK)
        if job.state is State.RUNNING and job.epoch == epoch:
            with self.database.write() as tx:
                jobs.release(tx, job_id, epoch)
            job.enter(State.QUEUED)
        else:
            with pytest.raises(IllegalTransition), self.database.write() as tx:
                jobs.release(tx, job_id, epoch)

    # What is always true

    @invariant()
    def the_promises_hold(self) -> None:
        with self.database.read() as tx:
            rows = {row.id: row for row in tx.execute(select(tables.job))}
            events = tx.execute(select(tables.job_event).order_by(tables.job_event.c.seq)).all()
            attempts = tx.execute(select(tables.attempt).order_by(tables.attempt.c.epoch)).all()
            published = set(tx.execute(select(tables.job_output.c.job_id)).scalars())
            waiting = [(row.job_id, row.seq) for row in tx.execute(select(tables.outbox))]

        assert sorted(self.told + waiting) == sorted((event.job_id, event.seq) for event in events)
        assert self.told == self._in_order(self.told)
        assert rows.keys() == self.expected.keys()
        for job_id, job in self.expected.items():
            row = rows[job_id]
            assert (row.state, row.epoch, row.lease_owner) == (job.state, job.epoch, job.worker)
            assert (job_id in published) == (job.state is State.SUCCEEDED)
            self._check_events([event for event in events if event.job_id == job_id], row)
            self._check_attempts([attempt for attempt in attempts if attempt.job_id == job_id], job)

    def _in_order(self, told: list[tuple[UUID, int]]) -> list[tuple[UUID, int]]:
        """The same with each job's events in the order of their numbers."""
        numbers = {job_id: iter(sorted(seq for each, seq in told if each == job_id)) for job_id, _ in told}
        return [(job_id, next(numbers[job_id])) for job_id, _ in told]

    def _check_events(self, events, row) -> None:
        states = [State(event.type.removeprefix("job.")) for event in events if event.type != "job.progress"]
        assert [event.seq for event in events] == list(range(1, row.event_seq + 1))
        assert [event.epoch for event in events] == sorted(event.epoch for event in events)
        assert states[0] is State.QUEUED
        assert states[-1] is row.state
        assert all(after in NEXT[before] for before, after in pairwise(states))
        assert sum(state in FINAL for state in states) == (row.state in FINAL)

    def _check_attempts(self, attempts, job: Expected) -> None:
        assert [attempt.epoch for attempt in attempts] == job.attempts
        assert job.attempts == sorted(set(job.attempts))
        still_open = [attempt.epoch for attempt in attempts if attempt.outcome is None]
        assert still_open == ([job.epoch] if job.state in HELD else [])
        assert not (job.canceled_before_claim and job.attempts)


def test_every_job_ends_exactly_once_whatever_happens(database: Database) -> None:
    run_state_machine_as_test(
        lambda: JobLife(database),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
