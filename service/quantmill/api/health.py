"""Whether the process lives, whether it can serve, and numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from quantmill.api.context import ServicesOf
from quantmill.api.schemas import Health
from quantmill.jobs.installation import jobs_by_state, jobs_waiting, schema_is_current, workers_by_queue
from quantmill.services import Services

router = APIRouter(tags=["health"])


@router.get("/livez")
def livez() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz")
def readyz(services: ServicesOf) -> Health:
    """The database answers and its schema is this version's."""
    if not schema_is_current(services):
        raise HTTPException(503, "the database schema is not this version's; run `quantmill migrate`")
    return Health(status="ok")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(services: ServicesOf) -> Response:
    """Numbers in Prometheus' text format, read from the database: every replica tells the same."""
    registry = CollectorRegistry()
    registry.register(_Numbers(services))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Numbers:
    def __init__(self, services: Services) -> None:
        self.services = services

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        yield InfoMetricFamily("quantmill_build", "The version that answers", {"version": version("quantmill")})
        jobs = GaugeMetricFamily("quantmill_jobs", "Jobs by state", labels=["state"])
        for state, count in jobs_by_state(self.services).items():
            jobs.add_metric([state.value], count)
        yield jobs
        waiting = GaugeMetricFamily("quantmill_jobs_waiting", "Queued jobs that say why they wait", labels=["reason"])
        for reason, count in jobs_waiting(self.services).items():
            waiting.add_metric([reason], count)
        yield waiting
        workers = GaugeMetricFamily("quantmill_workers", "Live workers by queue", labels=["queue"])
        for queue, count in workers_by_queue(self.services).items():
            workers.add_metric([queue], count)
        yield workers
