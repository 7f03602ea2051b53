"""What a route is handed: the services of its process and the parts of a request that several routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request, Response
from pydantic import AfterValidator

from quantmill.api.pages import DEFAULT_SIZE, LARGEST_SIZE, Cursors
from quantmill.api.schemas import printable
from quantmill.api.traffic import Traffic
from quantmill.services import Services


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _cursors(request: Request) -> Cursors:
    cursors: Cursors = request.app.state.cursors
    return cursors


def _traffic(request: Request) -> Traffic:
    traffic: Traffic = request.app.state.traffic
    return traffic


ServicesOf = Annotated[Services, Depends(_services)]
CursorsOf = Annotated[Cursors, Depends(_cursors)]
TrafficOf = Annotated[Traffic, Depends(_traffic)]
PageSize = Annotated[int, Query(ge=1, le=LARGEST_SIZE, description=f"rows of a page; default {DEFAULT_SIZE}")]
PageToken = Annotated[
    str | None, Query(max_length=1024, description="next_page_token of the page before, with the same filters")
]
Filter = Annotated[str | None, AfterValidator(lambda text: text and printable(text)), Query(max_length=320)]
IfNoneMatch = Annotated[str | None, Header(description="answers 304 when the ETag still is one of these")]
ArtifactDigest = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="repeats of a request with this key and the same body give the job that the first one made",
    ),
]


def unchanged(etag: str, if_none_match: str | None, response: Response) -> Response | None:
    """Set the ETag on `response`; give the bodiless 304 to send instead when the caller has this version already."""
    quoted = f'"{etag}"'
    response.headers["ETag"] = quoted
    if if_none_match is None:
        return None
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return Response(status_code=304, headers={"ETag": quoted}) if known & {quoted, "*"} else None
