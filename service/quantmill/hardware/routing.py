"""Which worker may run a job: what the job needs, what each live worker has, and the queues that follow.

A queue is served by workers alike in hardware and methods. Where they are not, a worker that is sent what it cannot
run gives it back. More workers never take a queue away from a job, only add some.

A queue without workers is known by what its last one said. Nothing is sent there, but a job can wait for it, and an
autoscaler that is told so starts a worker.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, Literal

from pydantic import TypeAdapter

from quantmill.contract.facts import HardwareNeed
from quantmill.hardware.memory import gigabytes
from quantmill.hardware.profiles import Device, Machine
from quantmill.hardware.verdicts import lacks

Reason = Literal["no_eligible_worker", "waiting_capacity", "waiting_workers"]

MEMORY_STEP = 64 << 20  # needs are rounded up, so that there are few different ones
SCRATCH_STEP = 256 << 20


@dataclass(frozen=True)
class WorkerNeed:
    """What a worker must have for a job: the method in the version that planned it, bytes of RAM and of disk, and what
    the method demands of the hardware."""

    method: str = ""
    version: str = ""
    memory_bytes: int = 0
    scratch_bytes: int = 0
    hardware: HardwareNeed | None = None

    @classmethod
    def rounded(
        cls, method: str, version: str, memory_bytes: int, scratch_bytes: int, hardware: HardwareNeed | None
    ) -> WorkerNeed:
        return cls(method, version, _up(memory_bytes, MEMORY_STEP), _up(scratch_bytes, SCRATCH_STEP), hardware)

    def to_text(self) -> str:
        """Equal needs are equal texts."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> WorkerNeed:
        return _need_fields().validate_json(text)


def hardware_need(fields: Mapping[str, Any]) -> HardwareNeed:
    """A HardwareNeed that went through JSON."""
    return _hardware_fields().validate_python(dict(fields))


@functools.cache  # each takes milliseconds to make, and every round of the scheduler needs them
def _need_fields() -> TypeAdapter[WorkerNeed]:
    return TypeAdapter(WorkerNeed)


@functools.cache
def _hardware_fields() -> TypeAdapter[HardwareNeed]:
    return TypeAdapter(HardwareNeed)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


@dataclass(frozen=True)
class Worker:
    """A worker by its own word. `methods` are versions by name, `memory_bytes` is what one job may take there; None
    where a probe could not tell."""

    name: str
    queue: str
    slots: int
    machine: Machine
    methods: Mapping[str, str]
    memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    free_disk_bytes: int | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Worker:
        """From the fields of its row, of which there may be more."""
        named = {name: fields[name] for name in cls.__dataclass_fields__ if name != "machine"}
        return cls(**named, machine=Machine.of_json(fields["machine"]))

    @property
    def cost(self) -> tuple[int, int]:
        """Cheaper workers sort first: without accelerators, then with less of their memory, then with less RAM."""
        accelerators = sum(device.count * (device.memory_bytes or 1) for device in self.machine.accelerators)
        return accelerators, (self.machine.processor and self.machine.processor.memory_bytes) or 0


@dataclass(frozen=True)
class EmptyQueue:
    """A queue that has no worker now: what its last one was, of which nothing is known to be taken. `overdue`: jobs
    have waited for a worker of it for so long that it may never have one again."""

    last: Worker
    overdue: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> EmptyQueue:
        """From the fields of its row, of which there may be more."""
        last = Worker(
            name=fields["queue"],
            queue=fields["queue"],
            slots=fields["slots"],
            machine=Machine.of_json(fields["machine"]),
            methods=fields["methods"],
            memory_bytes=fields["memory_bytes"],
        )
        return cls(last, fields["overdue"])

    @property
    def name(self) -> str:
        return self.last.queue


def queue_name(machine: Machine, methods: Mapping[str, str]) -> str:
    """The queue of workers with such hardware and these methods: hardware class and a digest of the environment."""
    environment = sha256(json.dumps(dict(methods), sort_keys=True).encode()).hexdigest()[:8]
    return f"{hardware_class(machine)}-{environment}"


def hardware_class(machine: Machine) -> str:
    """`cpu`, or the best accelerator's vendor with its architecture: nvidia-9.0, amd-gfx942."""
    if not machine.accelerators:
        return "cpu"
    best = max(machine.accelerators, key=lambda each: (each.compute_capability or 0, each.memory_bytes or 0))
    return "-".join(filter(None, [best.vendor or "unknown", _generation(best)]))


def _generation(device: Device) -> str:
    return f"{device.compute_capability:.1f}" if device.compute_capability else device.architecture.lower()


# What is missing


def _method(need: WorkerNeed, worker: Worker) -> Iterator[str]:
    has = worker.methods.get(need.method)
    if need.method and has is None:
        yield f"method {need.method} is not installed there"
    elif need.method and has != need.version:
        yield f"it has {need.method} {has}, the job was planned with {need.version}: submit it again to use that"


def _memory(need: WorkerNeed, worker: Worker) -> Iterator[str]:
    if worker.memory_bytes is not None and need.memory_bytes > worker.memory_bytes:
        yield f"the job needs {gigabytes(need.memory_bytes)} of memory, it allows {gigabytes(worker.memory_bytes)}"


def _hardware(need: WorkerNeed, worker: Worker) -> Iterator[str]:
    if need.hardware is None:
        return
    missing = [list(lacks(need.hardware, device)) for device in worker.machine.devices]
    if missing and all(missing):
        yield min(missing, key=len)[0]
    elif not missing:
        yield f"method {need.method} needs a {need.hardware.kind}, no device of it is known"


def _free_memory(need: WorkerNeed, worker: Worker) -> Iterator[str]:
    if worker.free_memory_bytes is not None and need.memory_bytes > worker.free_memory_bytes:
        yield f"{gigabytes(need.memory_bytes)} of memory are not free there now"


def _free_disk(need: WorkerNeed, worker: Worker) -> Iterator[str]:
    if worker.free_disk_bytes is not None and need.scratch_bytes > worker.free_disk_bytes:
        yield f"{gigabytes(need.scratch_bytes)} of disk are not free there now"


Check = Callable[[WorkerNeed, Worker], Iterator[str]]
LASTING: tuple[Check, ...] = (_method, _hardware, _memory)
PASSING: tuple[Check, ...] = (_free_memory, _free_disk)


def never_fits(need: WorkerNeed, worker: Worker) -> tuple[str, ...]:
    """What the worker lacks for good, as sentences; empty where it has all."""
    return _unmet(LASTING, need, worker)


def fits_not_now(need: WorkerNeed, worker: Worker) -> tuple[str, ...]:
    """What the worker lacks at the moment."""
    return _unmet(PASSING, need, worker)


def _unmet(checks: Iterable[Check], need: WorkerNeed, worker: Worker) -> tuple[str, ...]:
    return tuple(f"{worker.name}: {reason}" for check in checks for reason in check(need, worker))


# The queues


@dataclass(frozen=True)
class Route:
    """`queues` whose workers can run the job now, cheapest first; without one, why not. `home` is the queue that the
    job counts for while it waits: the cheapest that could ever run it, whether it has workers now or not."""

    queues: tuple[str, ...]
    reason: Reason | None = None
    missing: tuple[str, ...] = ()
    home: str | None = None


def route(need: WorkerNeed, workers: Collection[Worker], empty: Collection[EmptyQueue] = ()) -> Route:
    """Where to send a job with this need; what the nearest worker lacks where there is no place for it."""
    able = [worker for worker in workers if not never_fits(need, worker)]
    able_again = [queue for queue in empty if not never_fits(need, queue.last)]
    home = _home(able, able_again)
    if home is None:
        return Route((), "no_eligible_worker", _lacking(need, workers, empty))
    if not able:
        return Route((), "waiting_workers", (f"queue {home}: none of its workers is running",), home)
    ready = [worker for worker in able if not fits_not_now(need, worker)]
    if not ready:
        return Route((), "waiting_capacity", _nearest(fits_not_now(need, worker) for worker in able), home)
    costs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for worker in ready:
        costs[worker.queue].append(worker.cost)
    return Route(tuple(sorted(costs, key=lambda queue: (min(costs[queue]), queue))), home=home)


def _home(able: Iterable[Worker], able_again: Iterable[EmptyQueue]) -> str | None:
    """An overdue queue is waited for only where there is no other."""
    there = [(False, worker.cost, False, worker.queue) for worker in able]
    gone = [(queue.overdue, queue.last.cost, True, queue.name) for queue in able_again]
    return min(there + gone)[-1] if there or gone else None


def _lacking(need: WorkerNeed, workers: Collection[Worker], empty: Collection[EmptyQueue]) -> tuple[str, ...]:
    """Of the nearest worker; of the nearest that a queue had, where no worker is running."""
    known = workers or [replace(queue.last, name=f"queue {queue.name}") for queue in empty]
    return _nearest(never_fits(need, worker) for worker in known) if known else ("no worker is running",)


def awaited(needs: Iterable[WorkerNeed], empty: Collection[EmptyQueue]) -> frozenset[str]:
    """The queues of which a worker, were there one, could run a job with one of these needs."""
    needs = list(needs)
    return frozenset(queue.name for queue in empty if any(not never_fits(need, queue.last) for need in needs))


def may_have_changed(need: WorkerNeed, queue: EmptyQueue) -> bool:
    """Whether only the method's version stands between the job and the queue: a new worker of it may have another."""
    return bool(never_fits(need, queue.last)) and not _unmet((_hardware, _memory), need, queue.last)


def _nearest(unmet: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return min(unmet, key=lambda reasons: (len(reasons), reasons))
