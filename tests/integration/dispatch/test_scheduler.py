"""The scheduler's rounds, on both databases, with a dispatcher that only writes down what it was told."""

from __future__ import annotations

import threading
import types
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import update

from quantmill.contract.hookspecs import hookimpl
from quantmill.dispatch.scheduler import Scheduler
from quantmill.domain.jobs import JobRequest, State, Waiting
from quantmill.files.blobs import BlobStore
from quantmill.hardware.routing import WorkerNeed
from quantmill.plugins import load_plugins
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import events, jobs, queues, tables, workers


class Notebook:
    def __init__(self):
        self.sent: list[tuple[str, UUID, int]] = []

    def send(self, queue, job_id, epoch):
        self.sent.append((queue, job_id, epoch))


@pytest.fixture
def services(database, tmp_path):
    settings = Settings(data_dir=tmp_path, redispatch_seconds=0.001, retry_backoff_seconds=0.001, max_attempts=2)
    return Services(settings, database, BlobStore(settings.blobs_dir), load_plugins(points=[]))


@pytest.fixture
def notebook():
    return Notebook()


@pytest.fixture
def scheduler(services, notebook):
    return Scheduler(services, notebook)


def submit(services, need=WorkerNeed()):
    request = JobRequest(source="/models/any", method="gguf", params={})
    with services.database.write() as tx:
        return jobs.insert_job(tx, request, method_version="1", plan={}, timeout_seconds=60, need=need.to_text())


def register(services, name, slots, queue="cpu", **has):
    has = {"machine": {}, "methods": {}} | has
    with services.database.write() as tx:
        workers.register(tx, name, queue, slots, "here", versions={}, plugin_failures=[], **has)


def test_a_queued_job_is_sent_with_a_new_epoch(services, scheduler, notebook):
    register(services, "w", slots=1)
    job = submit(services)

    scheduler.round()

    assert notebook.sent == [("cpu", job.id, job.epoch + 1)]


def test_no_more_is_sent_than_workers_have_slots_and_one(services, scheduler, notebook):
    register(services, "a", slots=2)
    register(services, "b", slots=1)
    submitted = [submit(services).id for _ in range(9)]

    scheduler.round()

    assert [job_id for _, job_id, _ in notebook.sent] == submitted[:4]


def test_a_message_that_nobody_claimed_is_sent_again_with_the_same_epoch(services, scheduler, notebook):
    register(services, "w", slots=1)
    submit(services)

    scheduler.round()
    scheduler.round()

    assert len(notebook.sent) == 2
    assert notebook.sent[0] == notebook.sent[1]


def test_a_broker_that_is_away_delays_a_job_and_no_more(services, notebook):
    class Away:
        def send(self, queue, job_id, epoch):
            raise ConnectionError("no route")

    register(services, "w", slots=1)
    job = submit(services)
    scheduler = Scheduler(services, Away())
    with pytest.raises(ConnectionError):
        scheduler.round()

    scheduler._dispatcher = notebook
    scheduler.round()

    assert [job_id for _, job_id, _ in notebook.sent] == [job.id]


def test_a_job_whose_worker_died_goes_back_to_the_queue_and_at_last_fails(services, scheduler, notebook):
    register(services, "w", slots=1)
    job = submit(services)
    ends = []
    for _ in range(2):
        while not notebook.sent:
            scheduler.round()
        _, job_id, epoch = notebook.sent.pop()
        with services.database.write() as tx:
            assert jobs.claim(tx, job_id, epoch, "w", lease_seconds=-1) is not None
        scheduler.round()
        with services.database.read() as tx:
            ends.append(jobs.get_job(tx, job.id).state)
        notebook.sent.clear()

    assert ends == [State.QUEUED, State.FAILED]


def test_a_scheduler_touches_its_file_round_for_round_until_it_fails(services, notebook, tmp_path):
    file, stop = tmp_path / "heartbeat", threading.Event()
    settings = services.settings.model_copy(update={"heartbeat_file": file, "scheduler_seconds": 0.01})
    scheduler = Scheduler(replace(services, settings=settings), notebook)
    thread = threading.Thread(target=scheduler.run, args=(stop,))
    thread.start()
    while not file.exists():
        thread.join(0.01)
    scheduler.round = lambda: 1 / 0  # what a database that is away does to it
    thread.join(0.05)
    touched = file.stat().st_mtime_ns
    thread.join(0.1)
    stop.set()
    thread.join()

    assert file.stat().st_mtime_ns == touched


def test_only_one_of_two_schedulers_works(services, notebook):
    first, second = Scheduler(services, notebook), Scheduler(services, notebook)
    register(services, "w", slots=5)
    first.round()
    submit(services)

    second.round()
    assert notebook.sent == []

    first.round()
    assert len(notebook.sent) == 1


def test_every_event_reaches_every_plugin_though_one_of_them_raises(services, scheduler, notebook):
    seen = []

    @hookimpl(specname="quantmill_job_event")
    def broken(event):
        raise RuntimeError("plugin")

    @hookimpl(specname="quantmill_job_event")
    def watching(event):
        seen.append((event["type"], event["seq"]))

    manager = services.plugins.manager
    manager.register(types.SimpleNamespace(watch=watching), name="watching")
    manager.register(types.SimpleNamespace(explode=broken), name="broken")
    job = submit(services)
    with services.database.write() as tx:
        jobs.request_cancel(tx, job.id)

    scheduler.round()
    scheduler.round()

    assert seen == [("job.queued", 1), ("job.canceled", 2)]


def test_staging_of_jobs_that_are_over_is_swept(services, scheduler):
    over, waiting = submit(services), submit(services)
    with services.database.write() as tx:
        jobs.request_cancel(tx, over.id)
    for job in (over, waiting):
        (services.settings.staging_dir / str(job.id) / "units").mkdir(parents=True)
    (services.settings.staging_dir / "something else").mkdir()

    scheduler.round()

    left = {path.name for path in services.settings.staging_dir.iterdir()}
    assert left == {str(waiting.id), "something else"}


# Where jobs go

NEED = WorkerNeed("gguf", "1", memory_bytes=4 << 30)
SMALL, LARGE = 2 << 30, 64 << 30


def waiting(services, job):
    with services.database.read() as tx:
        return jobs.get_job(tx, job.id).waiting


@pytest.mark.parametrize(
    ("has", "missing"),
    [
        ({"methods": {}}, "w: method gguf is not installed there"),
        ({"methods": {"gguf": "2"}}, "w: it has gguf 2, the job was planned with 1: submit it again to use that"),
        ({"memory_bytes": SMALL}, "w: the job needs 4.3 GB of memory, it allows 2.1 GB"),
    ],
)
def test_a_job_that_no_worker_can_run_waits_with_what_is_missing(services, scheduler, notebook, has, missing):
    register(services, "w", slots=1, **{"methods": {"gguf": "1"}, "memory_bytes": LARGE} | has)
    job = submit(services, NEED)

    scheduler.round()

    assert notebook.sent == []
    assert waiting(services, job) == Waiting("no_eligible_worker", (missing,))


def test_it_is_sent_as_soon_as_a_worker_appears_that_can(services, scheduler, notebook):
    job = submit(services, NEED)
    scheduler.round()
    assert waiting(services, job) == Waiting("no_eligible_worker", ("no worker is running",))

    register(services, "w", slots=1, methods={"gguf": "1"}, memory_bytes=LARGE)
    scheduler.round()

    assert [job_id for _, job_id, _ in notebook.sent] == [job.id]
    assert waiting(services, job) is None


def test_a_worker_whose_memory_is_taken_is_waited_for(services, scheduler, notebook):
    register(services, "w", slots=2, methods={"gguf": "1"}, memory_bytes=LARGE, free_memory_bytes=SMALL)
    job = submit(services, NEED)
    scheduler.round()
    assert waiting(services, job) == Waiting("waiting_capacity", ("w: 4.3 GB of memory are not free there now",), "cpu")

    with services.database.write() as tx:
        workers.beat(tx, "w", LARGE, None)
    scheduler.round()

    assert len(notebook.sent) == 1


def test_jobs_go_to_the_cheapest_queue_that_has_a_free_slot(services, scheduler, notebook):
    gpu = {"accelerators": [{"name": "L4", "kind": "gpu", "vendor": "nvidia", "memory_bytes": 24 << 30}]}
    register(services, "dear", slots=1, queue="gpu", machine=gpu, methods={"gguf": "1"})
    register(services, "cheap", slots=2, queue="cpu", methods={"gguf": "1"})
    for _ in range(6):
        submit(services, NEED)

    scheduler.round()

    assert [queue for queue, _, _ in notebook.sent] == ["cpu", "cpu", "gpu", "cpu", "gpu"]


def test_jobs_that_must_wait_hold_up_no_others(services, scheduler, notebook):
    register(services, "a", slots=1, queue="a", methods={"gguf": "1"})
    register(services, "b", slots=1, queue="b", methods={"hqq": "1"})
    for _ in range(5):
        submit(services, WorkerNeed("awq", "1"))
        submit(services, NEED)
    late = submit(services, WorkerNeed("hqq", "1"))

    scheduler.round()
    scheduler.round()

    assert notebook.sent[-1][:2] == ("b", late.id)
    assert [queue for queue, _, _ in notebook.sent[:2]] == ["a", "a"]


def test_a_message_to_workers_that_are_gone_is_taken_back(services, scheduler, notebook):
    register(services, "w", slots=1, methods={"gguf": "1"})
    job = submit(services, NEED)
    scheduler.round()
    with services.database.write() as tx:
        workers.deregister(tx, "w")

    scheduler.round()
    scheduler.round()
    assert waiting(services, job).reason == "waiting_workers"
    register(services, "other", slots=1, queue="other", methods={"gguf": "1"})
    scheduler.round()

    assert [(queue, epoch) for queue, _, epoch in notebook.sent] == [("cpu", 1), ("other", 2)]


# Queues without workers


def come_and_go(services, name, **has):
    """A worker that can run what needs NEED."""
    register(services, name, slots=1, methods={"gguf": "1"}, memory_bytes=LARGE, **has)
    with services.database.write() as tx:
        workers.deregister(tx, name)


@pytest.fixture
def emptied(services):
    """A queue that had a worker with the method of NEED, and has none now."""
    come_and_go(services, "gone")


def test_a_job_waits_for_workers_of_the_queue_that_could_run_it(services, scheduler, notebook, emptied):
    job = submit(services, NEED)

    scheduler.round()

    assert notebook.sent == []
    expected = Waiting("waiting_workers", ("queue cpu: none of its workers is running",), "cpu")
    assert waiting(services, job) == expected
    with services.database.read() as tx:
        told = [event.payload for event in events.list_events(tx, job.id, after=0, limit=9)]
    assert told[-1] == expected.to_json()


def test_it_is_sent_to_the_first_worker_of_that_queue(services, scheduler, notebook, emptied):
    job = submit(services, NEED)
    scheduler.round()

    register(services, "new", slots=1, methods={"gguf": "1"}, memory_bytes=LARGE)
    scheduler.round()

    assert [sent[:2] for sent in notebook.sent] == [("cpu", job.id)]
    assert waiting(services, job) is None


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def set_queues(services, **values):
    with services.database.write() as tx:
        tx.execute(update(tables.queue_profile).values(values))


def test_a_queue_that_nobody_has_served_for_long_is_forgotten(services, scheduler, emptied):
    set_queues(services, seen_at=LONG_AGO)
    job = submit(services, NEED)

    scheduler.round()

    assert waiting(services, job) == Waiting("no_eligible_worker", ("no worker is running",))
    with services.database.read() as tx:
        assert queues.empty_queues(tx, 60, 1e10, 60) == []


def test_a_queue_is_remembered_from_when_its_workers_ended_not_from_their_start(services, scheduler):
    register(services, "w", slots=1)
    set_queues(services, seen_at=LONG_AGO)

    scheduler.round()
    with services.database.write() as tx:
        workers.deregister(tx, "w")

    with services.database.read() as tx:
        assert [row.queue for row in queues.empty_queues(tx, 60, 600, 60)] == ["cpu"]


def test_a_queue_whose_workers_do_not_come_is_the_last_choice(services, scheduler, emptied):
    job = submit(services, NEED)
    scheduler.round()
    assert waiting(services, job).queue == "cpu"
    set_queues(services, awaited_since=LONG_AGO)
    scheduler.round()
    assert waiting(services, job).queue == "cpu"  # there is no other

    gpu = {"accelerators": [{"name": "L4", "kind": "gpu", "vendor": "nvidia", "memory_bytes": 24 << 30}]}
    come_and_go(services, "dear", queue="gpu", machine=gpu)
    scheduler.round()

    assert waiting(services, job).queue == "gpu"


def test_a_worker_that_came_takes_its_queue_out_of_the_waiting(services, scheduler, emptied):
    submit(services, NEED)
    scheduler.round()
    set_queues(services, awaited_since=LONG_AGO)

    come_and_go(services, "w")

    with services.database.read() as tx:
        assert [row.overdue for row in queues.empty_queues(tx, 60, 600, 60)] == [False]


def test_a_queue_whose_worker_came_and_went_between_two_rounds_is_waited_for_again(services, scheduler, emptied):
    submit(services, NEED)
    scheduler.round()
    come_and_go(services, "w")

    scheduler.round()

    with services.database.read() as tx:
        assert [row.awaited for row in queues.empty_queues(tx, 60, 600, 60)] == [True]
