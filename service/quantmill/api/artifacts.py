"""Artifacts, their files and their lineage."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Query, Response
from fastapi.responses import StreamingResponse

from quantmill.api.context import ArtifactDigest, CursorsOf, IfNoneMatch, PageSize, PageToken, ServicesOf, unchanged
from quantmill.api.pages import DEFAULT_SIZE
from quantmill.api.schemas import ArtifactSummary, ArtifactView, LineageList, LineageView, Page
from quantmill.domain.artifacts import ArtifactFile
from quantmill.jobs import artifacts

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

CHUNK_BYTES = 1 << 20
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The whole file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {
        "description": "The range that was asked for",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "Not Modified"},
}


@router.get("")
def list_artifacts(
    services: ServicesOf, cursors: CursorsOf, page_size: PageSize = DEFAULT_SIZE, page_token: PageToken = None
) -> Page[ArtifactSummary]:
    """Artifacts, newest first."""
    filters = {"list": "artifacts"}
    after = cursors.decode(page_token, filters) if page_token else None
    found = artifacts.page(services, after=after, limit=page_size + 1)
    following = cursors.encode(found[page_size - 1].digest, filters) if len(found) > page_size else None
    return Page(items=[ArtifactSummary.of(each) for each in found[:page_size]], next_page_token=following)


@router.get("/{digest}", response_model=ArtifactView, responses={304: {"description": "Not Modified"}})
def get_artifact(
    digest: ArtifactDigest, services: ServicesOf, response: Response, if_none_match: IfNoneMatch = None
) -> ArtifactView | Response:
    """One artifact: its files and what was measured on it. Content never changes under a digest."""
    artifact, metrics = artifacts.get(services, digest)
    return unchanged(digest, if_none_match, response) or ArtifactView.with_metrics(artifact, metrics)


@router.get("/{digest}/lineage")
def get_lineage(
    digest: ArtifactDigest,
    services: ServicesOf,
    direction: Annotated[Literal["up", "down"], Query(description="up: ancestors; down: descendants")] = "up",
    depth: Annotated[int, Query(ge=1, le=100)] = 10,
) -> LineageList:
    """What the artifact was made from, or what was made from it, nearest first."""
    steps = artifacts.lineage(services, digest, direction=direction, depth=depth)
    return LineageList(items=[LineageView.of(step) for step in steps])


@router.get("/{digest}/files/{path:path}", response_class=Response, responses=FILE_RESPONSES)
def get_file(
    digest: ArtifactDigest,
    path: str,
    services: ServicesOf,
    response: Response,
    range: Annotated[str | None, Header(description="bytes=first-last, bytes=first- or bytes=-length")] = None,  # noqa: A002
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One file's bytes. ETag is the file's digest, Repr-Digest (RFC 9530) lets the receiver check it."""
    file, location = artifacts.find_file(services, digest, path)
    if (same := unchanged(file.digest, if_none_match, response)) is not None:
        return same
    wanted = range if if_range in (None, f'"{file.digest}"') else None
    return _stream(file, location, byte_range(wanted, file.size))


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first and one past the last byte of a Range header; None for the whole file.

    Several ranges, other units and what cannot be parsed mean the whole file, as RFC 9110 (14.2) allows. Raises 416 for
    a range that starts past the end.
    """
    match = re.fullmatch(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
    if first and last and int(last) < int(first):
        return None
    if start >= size:
        unsatisfiable = {"Content-Range": f"bytes */{size}"}
        raise HTTPException(416, f"the file has {size} bytes; the range starts past them", unsatisfiable)
    return start, stop


def _stream(file: ArtifactFile, location: Path, part: tuple[int, int] | None) -> StreamingResponse:
    start, stop = part or (0, file.size)
    headers = {
        "ETag": f'"{file.digest}"',
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(file.digest.removeprefix('sha256:'))).decode()}:",
        "Accept-Ranges": "bytes",
        "Content-Length": str(stop - start),
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    return StreamingResponse(_chunks(location, start, stop), 206 if part else 200, headers, file.media_type)


def _chunks(location: Path, start: int, stop: int) -> Iterator[bytes]:
    with location.open("rb") as blob:
        blob.seek(start)
        while start < stop:
            chunk = blob.read(min(CHUNK_BYTES, stop - start))
            if not chunk:
                raise EOFError(f"{location} ends at {start}, {stop - start} bytes early")
            start += len(chunk)
            yield chunk
