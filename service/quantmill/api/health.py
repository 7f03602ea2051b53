"""Whether the process lives, whether it can serve, and numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from quantmill.api.context import ServicesOf, TrafficOf
from quantmill.api.schemas import Health
from quantmill.jobs.installation import broker_answers, schema_problem
from quantmill.jobs.numbers import NUMBERS
from quantmill.services import Services

router = APIRouter(tags=["health"])

FAMILIES: dict[str, Any] = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}


@router.get("/livez")
def livez() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz")
def readyz(services: ServicesOf) -> Health:
    """The database answers and has a schema that this version can work with. `degraded` while the broker is away: jobs
    are taken in, and sent to workers when it is back."""
    if (problem := schema_problem(services)) is not None:
        raise HTTPException(503, problem)
    return Health(status="ok" if broker_answers(services) else "degraded")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(services: ServicesOf, traffic: TrafficOf) -> Response:
    """Numbers in Prometheus' text format. Those of the installation are read from the database, so that every replica
    tells the same; `quantmill_http_...` are of the process that answers."""
    registry = CollectorRegistry()
    registry.register(_Numbers(services))
    return Response(generate_latest(registry) + generate_latest(traffic.registry), media_type=CONTENT_TYPE_LATEST)


class _Numbers:
    """Reads every number anew when Prometheus asks."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        yield InfoMetricFamily("quantmill_build", "The version that answers", {"version": version("quantmill")})
        for number in NUMBERS:
            family = FAMILIES[number.kind](f"quantmill_{number.name}", number.says, labels=number.labels)
            for labels, value in number.read(self.services).items():
                family.add_metric(labels, value)
            yield family
