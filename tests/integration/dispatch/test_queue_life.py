"""Workers that come and go, and jobs meanwhile, in any order: what queues are known by, what autoscalers are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import update

from quantmill.dispatch.scheduler import Scheduler
from quantmill.domain.jobs import JobRequest, Outcome, State
from quantmill.files.blobs import BlobStore
from quantmill.hardware.routing import WorkerNeed
from quantmill.jobs import autoscaling
from quantmill.plugins import load_plugins
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import jobs, tables, workers

EXAMPLES = 5
STEPS = 25
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
QUEUES = {"a": {"gguf": "1"}, "b": {"gguf": "1", "hqq": "1"}, "c": {"hqq": "1"}}  # what their workers have
METHODS = ("gguf", "hqq", "awq")  # nobody has awq

Draw = Callable[..., Any]
HAPPENINGS = (
    "submit",
    "submit",
    "come",
    "come",
    "go",
    "fall silent",
    "take",
    "take",
    "give back",
    "end",
    "round",
    "round",
)


class QueueLife(RuleBasedStateMachine):
    def __init__(self, services: Services) -> None:
        super().__init__()
        self.services = services
        self.sent: list[tuple[str, UUID, int]] = []
        self.live: dict[str, str] = {}  # queue by worker
        self.known: set[str] = set()
        self.need: dict[UUID, str] = {}  # method by job that is not over
        self.held: dict[UUID, int] = {}  # epoch by job
        self.names = iter(range(1000))
        with services.database.write() as tx:
            for table in reversed(tables.metadata.sorted_tables):
                tx.execute(table.delete())
        self.scheduler = Scheduler(services, self)

    def send(self, queue: str, job_id: UUID, epoch: int) -> None:
        assert queue in self.live.values()
        assert self.need[job_id] in QUEUES[queue]
        self.sent.append((queue, job_id, epoch))

    @rule(what=st.sampled_from(HAPPENINGS), data=st.data())
    def happen(self, what: str, data: st.DataObject) -> None:
        getattr(self, what.replace(" ", "_"))(data.draw)

    def submit(self, draw: Draw) -> None:
        method = draw(st.sampled_from(METHODS))
        request = JobRequest(source="/models/any", method=method, params={})
        need = WorkerNeed(method, "1").to_text()
        with self.services.database.write() as tx:
            job = jobs.insert_job(tx, request, method_version="1", plan={}, timeout_seconds=3600, need=need)
        self.need[job.id] = method

    def come(self, draw: Draw) -> None:
        queue, name = draw(st.sampled_from(sorted(QUEUES))), f"w{next(self.names)}"
        has = {"machine": {}, "methods": QUEUES[queue]}
        with self.services.database.write() as tx:
            workers.register(tx, name, queue, 2, "here", versions={}, plugin_failures=[], **has)
        self.live[name] = queue
        self.known.add(queue)

    def go(self, draw: Draw) -> None:
        if self.live:
            name = draw(st.sampled_from(sorted(self.live)))
            with self.services.database.write() as tx:
                workers.deregister(tx, name)
            del self.live[name]

    def fall_silent(self, draw: Draw) -> None:
        if self.live:
            name = draw(st.sampled_from(sorted(self.live)))
            with self.services.database.write() as tx:
                tx.execute(update(tables.worker).where(tables.worker.c.name == name).values(seen_at=LONG_AGO))
            del self.live[name]

    def take(self, draw: Draw) -> None:
        """Any message, also one of long ago, reaches a worker."""
        if self.sent:
            _, job_id, epoch = draw(st.sampled_from(self.sent))
            with self.services.database.write() as tx:
                if jobs.claim(tx, job_id, epoch, "w", 3600) is not None:
                    self.held[job_id] = epoch

    def give_back(self, draw: Draw) -> None:
        if self.held:
            job_id = draw(st.sampled_from(sorted(self.held)))
            with self.services.database.write() as tx:
                jobs.release(tx, job_id, self.held.pop(job_id))

    def end(self, draw: Draw) -> None:
        if self.held:
            job_id = draw(st.sampled_from(sorted(self.held)))
            epoch = self.held.pop(job_id)
            with self.services.database.write() as tx:
                jobs.end_attempt(tx, job_id, epoch, Outcome.FAILED)
                jobs.transition(tx, job_id, epoch=epoch, to=State.FAILED, error={"type": "x"})
            del self.need[job_id]

    def round(self, draw: Draw) -> None:
        self.scheduler.round()
        for job_id, method in self.need.items():
            with self.services.database.read() as tx:
                waiting = jobs.get_job(tx, job_id).waiting
            able = {queue for queue in self.known if method in QUEUES[queue]}
            if waiting is not None:
                assert (waiting.reason == "no_eligible_worker") == (not able)
                assert waiting.queue in able or not able

    @invariant()
    def every_job_that_a_known_queue_can_run_counts_for_one(self) -> None:
        loads = autoscaling.Fleet.now(self.services).loads

        placed = [method for method in self.need.values() if any(method in QUEUES[queue] for queue in self.known)]
        assert set(loads) == self.known
        assert sum(load.jobs for load in loads.values()) == len(placed)
        assert sum(load.running for load in loads.values()) == len(self.held)

    @invariant()
    def a_queue_that_nobody_knows_is_asked_for_a_worker_where_jobs_have_no_other(self) -> None:
        homeless = any(not any(method in QUEUES[queue] for queue in self.known) for method in self.need.values())

        assert autoscaling.load_of(self.services, "new").jobs == int(homeless)


def test_no_job_is_forgotten_and_none_is_sent_to_nobody(database, tmp_path):
    quick = Settings(data_dir=tmp_path, redispatch_seconds=0.001)
    services = Services(quick, database, BlobStore(quick.blobs_dir), load_plugins(points=[]))

    run_state_machine_as_test(
        lambda: QueueLife(services),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
