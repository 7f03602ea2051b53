"""Requests that this process answered, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"  # what is no route or method of ours: callers must not be able to make up labels
REQUESTS = ("quantmill_http_requests", "Requests answered, by the route's pattern", ("route", "method", "code"))
DURATION = (
    "quantmill_http_request_duration_seconds",
    "Seconds until an answer begins: of an event stream, until its first byte",
    ("route", "method"),
)
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Traffic:
    """Counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answered = Counter(*REQUESTS, registry=self.registry)
        self._seconds = Histogram(*DURATION, buckets=BUCKETS, registry=self.registry)

    def count(self, scope: Scope, code: int, seconds: float) -> None:
        """One answer to the request of `scope`."""
        route = getattr(scope.get("route"), "path", OTHER)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._answered.labels(route, method, str(code)).inc()
        self._seconds.labels(route, method).observe(seconds)


class CountTraffic:
    """Counts every answer as it begins; a request that raises out of the application counts as a 500."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app = app
        self.traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answered = time.perf_counter(), False

        def count(code: int) -> None:
            nonlocal answered
            if not answered:
                self.traffic.count(scope, code, time.perf_counter() - began)
            answered = True

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            count(500)  # that answer is given outside of every middleware
            raise
