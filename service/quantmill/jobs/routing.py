"""What a job needs of a worker, and which live workers have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantmill.domain.estimates import Estimate
from quantmill.hardware.routing import EmptyQueue, Route, Worker, WorkerNeed, hardware_need, route
from quantmill.services import Services
from quantmill.store.queues import empty_queues
from quantmill.store.workers import live_workers


def worker_need(description: Mapping[str, Any], estimate: Estimate | None) -> WorkerNeed:
    """For a job of the described method. The memory is the plan's own bound, not what the history expects: a worker
    that has it can finish the job. Without an estimate its worker plans the job, and only the method is sure.
    """
    requires = description.get("requires")
    return WorkerNeed.rounded(
        description["name"],
        description["version"],
        memory_bytes=estimate.features.memory_bytes if estimate else 0,
        scratch_bytes=estimate.scratch_bytes if estimate else 0,
        hardware=hardware_need(requires) if requires else None,
    )


def route_now(services: Services, need: WorkerNeed) -> Route:
    """Where a job with this need would be sent now."""
    limits = services.settings
    with services.database.read() as tx:
        alive = live_workers(tx, limits.lease_seconds)
        empty = empty_queues(tx, limits.lease_seconds, limits.queue_memory_seconds, limits.worker_start_seconds)
    return route(need, [Worker.of(vars(row)) for row in alive], [EmptyQueue.of(vars(row)) for row in empty])
