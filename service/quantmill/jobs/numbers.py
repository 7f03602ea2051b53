"""The installation in numbers, for those who watch it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from quantmill.domain.jobs import Outcome, State
from quantmill.hardware.routing import Reason
from quantmill.jobs.autoscaling import loads
from quantmill.services import Services
from quantmill.store import leader, numbers
from quantmill.store.jobs import count_jobs, count_waiting
from quantmill.store.numbers import Counted
from quantmill.store.workers import live_workers

Read = Callable[[Services], Counted]


@dataclass(frozen=True)
class Number:
    """A metric: its name without the prefix, what it says, the labels that its values have, and how to read it."""

    name: str
    kind: Literal["gauge", "counter"]
    says: str
    labels: tuple[str, ...]
    read: Read


def _jobs(services: Services) -> Counted:
    with services.database.read() as tx:
        counted = dict.fromkeys(State, 0) | count_jobs(tx)
    return _labelled({state.value: count for state, count in counted.items()})


def _waiting(services: Services) -> Counted:
    with services.database.read() as tx:
        return _labelled(dict.fromkeys(get_args(Reason), 0) | count_waiting(tx))


def _queue_jobs(services: Services) -> Counted:
    with services.database.read() as tx:
        return numbers.jobs_by_queue(tx)


def _queue_load(services: Services) -> Counted:
    return _labelled({queue: load.jobs for queue, load in loads(services).items()})


def _attempts(services: Services) -> Counted:
    """From 0 on: of a series that begins with 1, Prometheus sees no increase."""
    with services.database.read() as tx:
        return dict.fromkeys(product(services.plugins.methods, Outcome), 0.0) | numbers.attempts_by_outcome(tx)


def _oldest_queued(services: Services) -> Counted:
    with services.database.read() as tx:
        return {(): numbers.oldest_queued_seconds(tx)}


def _outbox(services: Services) -> Counted:
    with services.database.read() as tx:
        return {(): numbers.outbox_seconds(tx)}


def _workers(services: Services) -> Counted:
    with services.database.read() as tx:
        return _labelled(Counter(row.queue for row in live_workers(tx, services.settings.lease_seconds)))


def _slots(services: Services) -> Counted:
    slots: Counter[str] = Counter()
    with services.database.read() as tx:
        for row in live_workers(tx, services.settings.lease_seconds):
            slots[row.queue] += row.slots
    return _labelled(slots)


def _leaders(services: Services) -> Counted:
    with services.database.read() as tx:
        return {(): float(leader.is_held(tx, leader.SCHEDULER))}


def _data_size(services: Services) -> Counted:
    return {(): float(shutil.disk_usage(services.settings.data_dir).total)}


def _data_free(services: Services) -> Counted:
    return {(): float(shutil.disk_usage(services.settings.data_dir).free)}


def _plugin_failures(services: Services) -> Counted:
    return {(): float(len(services.plugins.failures))}


def _labelled(counted: Mapping[str, int]) -> Counted:
    return {(label,): float(count) for label, count in counted.items()}


NUMBERS = (
    Number("jobs", "gauge", "Jobs by state", ("state",), _jobs),
    Number("jobs_waiting", "gauge", "Queued jobs that say why they wait", ("reason",), _waiting),
    Number(
        "queue_jobs", "gauge", "Jobs that the workers of a queue were told of or hold", ("queue", "state"), _queue_jobs
    ),
    Number("queue_load", "gauge", "Jobs that a queue's workers hold or that wait for them", ("queue",), _queue_load),
    Number("oldest_queued_age_seconds", "gauge", "Age of the oldest job in the queue", (), _oldest_queued),
    Number("attempts", "counter", "Attempts that have ended", ("method", "outcome"), _attempts),
    Number("workers", "gauge", "Live workers", ("queue",), _workers),
    Number("worker_slots", "gauge", "Jobs that live workers can run at a time", ("queue",), _slots),
    Number("scheduler_leaders", "gauge", "Schedulers that lead: 1, or 0 while none works", (), _leaders),
    Number("data_size_bytes", "gauge", "Size of the file system that holds the data folder", (), _data_size),
    Number("data_free_bytes", "gauge", "What is free there", (), _data_free),
    Number("outbox_age_seconds", "gauge", "Age of the oldest event that plugins were not told of", (), _outbox),
    Number("plugin_load_failures", "gauge", "Plugins that this process could not load", (), _plugin_failures),
)
