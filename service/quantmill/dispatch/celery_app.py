"""Celery with Redis as the wake-up channel.

Only delivery is asked of Celery. Messages are acknowledged early and never prefetched: recovery is the lease in the
database, not redelivery, so neither a visibility timeout nor a result backend has any say (celery 5.7,
`worker_disable_prefetch` works with Redis only). Slots are threads; the work itself is in a child process.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from celery.signals import worker_shutting_down

from quantmill.contract.errors import RequestRejected
from quantmill.dispatch.registration import Registration, worker_name
from quantmill.dispatch.retirement import Retirement
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.worker.capacity import Capacity
from quantmill.worker.supervisor import Supervisor

log = structlog.get_logger()

TASK = "quantmill.run_attempt"

CONFIG: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_acks_late": False,
    "task_ignore_result": True,
    "task_default_queue": "cpu",
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    "worker_hijack_root_logger": False,
    "worker_soft_shutdown_timeout": 30,
    "broker_connection_retry_on_startup": True,
    "broker_transport_options": {
        "visibility_timeout": 3600,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": True,
        "global_keyprefix": "quantmill:",
        "queue_order_strategy": "priority",
    },
}


def make_app(settings: Settings) -> Celery:
    """The Celery application; raises RequestRejected when no broker is set."""
    if settings.broker_url is None:
        raise RequestRejected("no broker is set; give QUANTMILL_BROKER_URL, or run `quantmill serve` without workers")
    app = Celery("quantmill", broker=settings.broker_url.get_secret_value())
    app.conf.update(CONFIG)
    return app


class CeleryDispatcher:
    """Publishes (job_id, epoch) and nothing else; parameters and paths stay in the database."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)

    def send(self, queue: str, job_id: UUID, epoch: int) -> None:
        self._app.send_task(TASK, kwargs={"job_id": str(job_id), "epoch": epoch}, queue=queue, retry=False)


def run_worker(services: Services, retirement: Retirement) -> int:
    """Serve a queue until SIGTERM, or until `retirement`; running jobs are then handed back with their units kept."""
    settings = services.settings
    app = make_app(settings)
    capacity = Capacity(services, worker_name())
    supervisor = Supervisor(services, capacity)

    def run_attempt(job_id: str, epoch: int, **later: Any) -> None:
        """`later` takes arguments that a newer scheduler may send."""
        with retirement.postponed() as at_work:
            at_work.claimed = supervisor.run_attempt(UUID(job_id), epoch)

    app.task(run_attempt, name=TASK)
    worker_shutting_down.connect(lambda **_: supervisor.stop(), weak=False)
    with Registration(services, capacity), retirement:
        worker = app.Worker(
            pool="threads",
            concurrency=settings.slots,
            queues=[capacity.worker.queue],
            hostname=capacity.name,
            without_gossip=True,
            without_mingle=True,
            loglevel="WARNING",
            quiet=True,
        )
        worker.start()
        return int(worker.exitcode or 0)
