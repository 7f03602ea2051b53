"""Where a job may run: every check by a worker that fails it alone, and what holds for all needs and workers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmill.contract.facts import HardwareNeed
from quantmill.hardware.profiles import Device, Machine
from quantmill.hardware.routing import (
    EmptyQueue,
    Route,
    Worker,
    WorkerNeed,
    awaited,
    may_have_changed,
    queue_name,
    route,
)

GIB = 1 << 30
CPU = Device("Xeon", "cpu", "intel", features=frozenset({"avx2"}), memory_bytes=64 * GIB)
L4 = Device("L4", "gpu", "nvidia", "Ada", compute_capability=8.9, memory_bytes=24 * GIB)
H100 = Device("H100", "gpu", "nvidia", "Hopper", compute_capability=9.0, memory_bytes=80 * GIB)
MI300 = Device("gfx942", "gpu", "amd", "gfx942", memory_bytes=192 * GIB)
LAPTOP, SERVER = Machine(replace(CPU, memory_bytes=16 * GIB)), Machine(CPU)
WITH_L4, WITH_H100, WITH_MI300 = (Machine(CPU, (device,)) for device in (L4, H100, MI300))

W = Worker("w", "cpu", 1, SERVER, {"gptq": "1.0"}, 60 * GIB, 50 * GIB, 100 * GIB)
NEED = WorkerNeed("gptq", "1.0", 8 * GIB, 20 * GIB)
HOPPER = HardwareNeed("gpu", vendors=("nvidia",), compute_capability=9.0)


def test_a_worker_that_has_all_is_sent_the_job():
    assert route(NEED, [W]) == Route(("cpu",), home="cpu")


@pytest.mark.parametrize(
    ("has", "needs", "reason", "missing"),
    [
        ({"methods": {}}, {}, "no_eligible_worker", "w: method gptq is not installed there"),
        ({}, {"version": "1.1"}, "no_eligible_worker", "w: it has gptq 1.0, the job was planned with 1.1"),
        ({"memory_bytes": 4 * GIB}, {}, "no_eligible_worker", "w: the job needs 8.6 GB of memory, it allows 4.3 GB"),
        ({}, {"hardware": HOPPER}, "no_eligible_worker", "w: needs a gpu, Xeon is a cpu"),
        (
            {"machine": WITH_L4},
            {"hardware": HOPPER},
            "no_eligible_worker",
            "w: needs compute capability 9.0, L4 has 8.9",
        ),
        ({"machine": WITH_MI300}, {"hardware": HOPPER}, "no_eligible_worker", "w: runs on nvidia, not on amd's gfx942"),
        ({"machine": Machine()}, {"hardware": HOPPER}, "no_eligible_worker", "w: method gptq needs a gpu, no device"),
        ({"free_memory_bytes": 7 * GIB}, {}, "waiting_capacity", "w: 8.6 GB of memory are not free there now"),
        ({"free_disk_bytes": 19 * GIB}, {}, "waiting_capacity", "w: 21.5 GB of disk are not free there now"),
    ],
)
def test_what_a_worker_lacks_is_told(has, needs, reason, missing):
    found = route(replace(NEED, **needs), [replace(W, **has)])

    assert (found.queues, found.reason) == ((), reason)
    assert len(found.missing) == 1
    assert found.missing[0].startswith(missing)


def test_what_a_probe_could_not_tell_stands_in_no_way():
    unknown = replace(W, machine=Machine(), memory_bytes=None, free_memory_bytes=None, free_disk_bytes=None)

    assert route(NEED, [unknown]).queues == ("cpu",)


def test_without_workers_the_job_waits_for_one():
    assert route(NEED, []) == Route((), "no_eligible_worker", ("no worker is running",))


def test_the_worker_that_lacks_least_is_the_one_that_is_named():
    far, near = replace(W, name="far", methods={}, memory_bytes=GIB), replace(W, name="near", memory_bytes=GIB)

    assert [each.partition(":")[0] for each in route(NEED, [far, near]).missing] == ["near"]


def test_cheaper_hardware_comes_first():
    machines = {"h100": WITH_H100, "l4": WITH_L4, "server": SERVER, "laptop": LAPTOP}
    fleet = [replace(W, queue=name, machine=machine) for name, machine in machines.items()]

    assert route(NEED, fleet).queues == ("laptop", "server", "l4", "h100")
    assert route(replace(NEED, hardware=HOPPER), fleet).queues == ("h100",)


@pytest.mark.parametrize(
    ("machine", "start"),
    [(SERVER, "cpu-"), (WITH_L4, "nvidia-8.9-"), (WITH_MI300, "amd-gfx942-"), (Machine(), "cpu-")],
)
def test_queues_are_named_after_hardware_and_methods(machine, start):
    name = queue_name(machine, {"gptq": "1.0", "awq": "1.0"})

    assert name.startswith(start)
    assert name == queue_name(machine, {"awq": "1.0", "gptq": "1.0"})
    assert name != queue_name(machine, {"gptq": "1.1", "awq": "1.0"})


def test_needs_are_rounded_so_that_there_are_few_of_them():
    need = WorkerNeed.rounded("hqq", "1.0", 100_000_001, 1, None)

    assert need == WorkerNeed("hqq", "1.0", 128 << 20, 256 << 20)
    assert WorkerNeed.of_text(need.to_text()) == need


# Queues without workers


def test_a_job_waits_for_the_cheapest_queue_that_could_run_it_whether_it_has_workers_or_not():
    dear, cheap = replace(W, queue="gpu", machine=WITH_L4), EmptyQueue(replace(W, queue="cpu"))

    assert route(NEED, [dear], [cheap]) == Route(("gpu",), home="cpu")
    assert route(NEED, [], [cheap, EmptyQueue(dear)]).home == "cpu"
    assert route(NEED, [dear], [replace(cheap, overdue=True)]).home == "gpu"
    assert route(NEED, [], [replace(cheap, overdue=True)]).home == "cpu"


def test_where_only_a_queue_without_workers_could_run_it_that_is_said():
    found = route(NEED, [replace(W, methods={})], [EmptyQueue(replace(W, queue="big"))])

    assert found == Route((), "waiting_workers", ("queue big: none of its workers is running",), "big")


def test_what_the_last_worker_of_a_queue_lacked_is_told_where_none_is_running():
    last = EmptyQueue(replace(W, memory_bytes=4 * GIB))

    assert route(NEED, [], [last]).missing == ("queue cpu: the job needs 8.6 GB of memory, it allows 4.3 GB",)


@pytest.mark.parametrize(
    ("has", "may"),
    [({"methods": {}}, True), ({"methods": {"gptq": "0.9"}}, True), ({"memory_bytes": GIB}, False), ({}, False)],
)
def test_only_the_methods_of_a_queue_may_change(has, may):
    assert may_have_changed(NEED, EmptyQueue(replace(W, **has))) is may


SIZES = st.sampled_from([None, 0, GIB, 8 * GIB, 2**50])
MACHINES = st.sampled_from([Machine(), LAPTOP, SERVER, WITH_L4, WITH_H100, WITH_MI300])
WORKERS = st.builds(
    Worker,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["q1", "q2", "q3"]),
    st.integers(1, 3),
    MACHINES,
    st.dictionaries(st.sampled_from(["gptq", "awq"]), st.sampled_from(["1.0", "1.1"])),
    SIZES,
    SIZES,
    SIZES,
)
NEEDS = st.builds(
    WorkerNeed,
    st.sampled_from(["", "gptq", "awq"]),
    st.sampled_from(["1.0", "1.1"]),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.sampled_from([None, HOPPER, HardwareNeed("cpu", features=("avx2",)), HardwareNeed("npu")]),
)


@given(NEEDS, st.lists(WORKERS, max_size=4), WORKERS)
def test_one_more_worker_takes_no_queue_away(need, fleet, another):
    assert set(route(need, fleet).queues) <= set(route(need, [*fleet, another]).queues)


@given(NEEDS, st.lists(WORKERS, max_size=4))
def test_there_is_a_queue_or_a_reason_whatever_comes(need, fleet):
    found = route(need, fleet)

    assert bool(found.queues) != bool(found.reason)
    assert bool(found.missing) == bool(found.reason)
    assert found == route(need, fleet[::-1])
    assert WorkerNeed.of_text(need.to_text()) == need


EMPTY = st.lists(st.builds(EmptyQueue, WORKERS, st.booleans()), max_size=3)


@given(NEEDS, st.lists(WORKERS, max_size=3), EMPTY)
def test_a_queue_without_workers_is_sent_nothing_and_takes_nothing_away(need, fleet, empty):
    found = route(need, fleet, empty)

    assert found.queues == route(need, fleet).queues
    assert bool(found.queues) != bool(found.reason)
    assert (found.home is None) == (found.reason == "no_eligible_worker")
    assert found.home in {None} | {worker.queue for worker in fleet} | {queue.name for queue in empty}
    assert found == route(need, fleet[::-1], empty[::-1])
    if found.reason == "waiting_workers":
        assert found.home in awaited([need], empty)


@given(MACHINES)
def test_a_machine_survives_its_json(machine):
    assert Machine.of_json(machine.to_json() | {"of": "a newer version"}) == machine
