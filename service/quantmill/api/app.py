"""Builds the ASGI application."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quantmill.api import artifacts, autoscaling, comparisons, events, health, jobs, match, methods, problems, texts
from quantmill.api.pages import Cursors, installation_secret
from quantmill.api.schemas import ProblemDocument
from quantmill.api.traffic import CountTraffic, Traffic
from quantmill.services import Services

LARGEST_BODY_BYTES = 1_000_000
PROBLEM_RESPONSE: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Any failure, as a problem document",
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
}


def create_app(services: Services) -> FastAPI:
    """The API over `services`, which the caller opened and closes."""
    app = FastAPI(
        title="quantmill",
        version=version("quantmill"),
        summary="Compresses models, proves the result, and remembers how it was made",
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        responses=PROBLEM_RESPONSE,
    )
    app.state.services = services
    app.state.traffic = Traffic()
    app.state.cursors = Cursors(installation_secret(services.settings.data_dir / "cursor-secret"))
    for room in (jobs, events, comparisons, methods, match, texts, artifacts, autoscaling, health):
        app.include_router(room.router)
    app.add_middleware(BodyLimit, limit=LARGEST_BODY_BYTES)
    app.add_middleware(CountTraffic, traffic=app.state.traffic)
    problems.install(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The schema, with the problem document that every route's default response refers to."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        parts = problem.pop("$defs")
        schema["components"]["schemas"] |= {"ProblemDocument": problem} | parts
        app.openapi_schema = schema
    return app.openapi_schema


class BodyLimit:
    """Stops reading a request body beyond `limit` bytes. Starlette's own limit answers in plain text."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit:
                raise HTTPException(413, f"a request body may have {self.limit} bytes")
            return message

        await self.app(scope, counted, send)
