"""What a worker says it has, and what it keeps for the jobs that it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from quantmill.hardware.profiles import Device, Machine
from quantmill.hardware.routing import WorkerNeed
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.worker import capacity
from quantmill.worker.capacity import Capacity

GIB = 1 << 30


@pytest.fixture
def services(tmp_path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path, runner_memory_bytes=12 * GIB))
    yield opened
    opened.close()


@pytest.fixture
def made(services, monkeypatch) -> Capacity:
    """Of a machine with 16 GiB, 15 of which are free, on which a job may take 12."""
    machine = Machine(Device("Xeon", "cpu", "intel", memory_bytes=16 * GIB))
    monkeypatch.setattr(capacity, "this_machine", lambda: machine)
    monkeypatch.setattr(capacity, "free_memory", lambda: 15 * GIB)
    return Capacity(services, "w")


def need(gib: int) -> WorkerNeed:
    return WorkerNeed(memory_bytes=gib * GIB)


def test_a_worker_has_the_methods_of_its_plugins_and_the_memory_that_it_may_use(made, services):
    worker = made.worker

    assert worker.methods == {name: method.version for name, method in services.plugins.methods.items()}
    assert (worker.memory_bytes, worker.free_memory_bytes) == (12 * GIB, 15 * GIB)
    assert worker.free_disk_bytes > 0


def test_what_a_running_job_was_promised_is_not_free_though_nobody_holds_it_yet(made):
    with made.promised(need(10)) as unmet:
        assert unmet == ()
        assert made.worker.free_memory_bytes == 6 * GIB
        with made.promised(need(7)) as refused:
            assert refused == ("w: 7.5 GB of memory are not free there now",)
            assert made.worker.free_memory_bytes == 6 * GIB
        with made.promised(need(6)) as beside:
            assert beside == ()

    assert made.worker.free_memory_bytes == 15 * GIB


def test_more_than_a_job_may_take_is_refused_for_good(made):
    with made.promised(need(13)) as unmet:
        assert unmet == ("w: the job needs 14.0 GB of memory, it allows 12.9 GB",)


def test_the_queue_of_the_settings_wins(made, services):
    assert made.worker.queue.startswith("cpu-")

    named = replace(services, settings=services.settings.model_copy(update={"queue": "big"}))

    assert Capacity(named, "w").worker.queue == "big"
