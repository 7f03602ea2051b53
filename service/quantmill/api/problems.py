"""Errors as RFC 9457 problem documents. Nothing else in the API knows a status code of an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from quantmill.contract.errors import (
    Conflict,
    DatabaseUnavailable,
    NonFiniteTensor,
    NotFound,
    ParamsRejected,
    PolicyRefused,
    QuantmillError,
    RequestRejected,
    ResourceExhausted,
    SourceRejected,
    TextRejected,
    UnknownMethod,
    describe,
)
from quantmill.jobs.params import pointer

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

# The nearest class in an error's ancestry decides.
STATUS: dict[type[QuantmillError], int] = {
    NotFound: 404,
    UnknownMethod: 422,
    Conflict: 409,
    RequestRejected: 422,
    ParamsRejected: 422,
    SourceRejected: 422,
    TextRejected: 422,
    NonFiniteTensor: 422,
    PolicyRefused: 403,
    ResourceExhausted: 507,
    QuantmillError: 500,
}


class Problem(JSONResponse):
    """A problem document; `type` is about:blank where the status says all there is to say."""

    media_type = MEDIA_TYPE

    def __init__(
        self, request: Request, status: int, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, **members}
        super().__init__({**document, "instance": request.url.path}, status, headers)


class PageTokenRejected(RequestRejected):
    """The page token is not one that this listing gave out."""


class ParameterUnreadable(RequestRejected):
    """A parameter of the request cannot be read."""


STATUS |= {PageTokenRejected: 400, ParameterUnreadable: 422}


def status_of(error: QuantmillError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def install(app: FastAPI) -> None:
    """Make every error response of `app` a problem document."""
    app.add_exception_handler(QuantmillError, _quantmill_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(DatabaseUnavailable, _database_away)
    app.add_exception_handler(Exception, _unexpected)


async def _quantmill_error(request: Request, error: Any) -> Problem:
    return Problem(request, status_of(error), **describe(error))


async def _invalid_request(request: Request, error: Any) -> Problem:
    problems = error.errors()
    unreadable = any(problem["type"] == "json_invalid" for problem in problems)
    detail = "the body is not JSON" if unreadable else "; ".join(_said(problem) for problem in problems)
    return Problem(request, 400 if unreadable else 422, detail=detail, errors=list(_places(problems)))


def _said(problem: Mapping[str, Any]) -> str:
    return f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"


def _places(problems: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, str]]:
    """A pointer for what stands in the body, a parameter's name for what stands anywhere else."""
    for problem in problems:
        where, *steps = problem["loc"]
        place = {"pointer": pointer(*steps)} if where == "body" else {"parameter": ".".join(map(str, steps))}
        yield {**place, "code": problem["type"], "message": problem["msg"]}


async def _http_error(request: Request, error: Any) -> Problem:
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_allowed_methods(request))
        detail = f"{request.url.path} takes {allowed}, not {request.method}"
        return Problem(request, 405, headers={"Allow": allowed}, detail=detail)
    return Problem(request, error.status_code, headers=error.headers, detail=str(error.detail))


def _allowed_methods(request: Request) -> list[str]:
    """The methods of all routes of this path; Starlette names those of the first one only."""
    scopes = {method: {**request.scope, "method": method} for method in ("GET", "POST", "PUT", "PATCH", "DELETE")}
    routes = request.app.routes
    return [name for name, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _database_away(request: Request, error: Any) -> Problem:
    """What the error says names hosts and files, and is for the log."""
    log.error("database_unavailable", detail=error.detail)
    told = {**describe(error), "detail": "the database does not answer; try again in a moment"}
    return Problem(request, 503, headers={"Retry-After": "5"}, **told)


async def _unexpected(request: Request, error: Any) -> Problem:
    return Problem(request, 500, detail="the service made a mistake; its log has the details")
