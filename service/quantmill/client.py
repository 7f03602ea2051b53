"""A typed HTTP client of the REST API.

Values are the API's own schemas. A problem document comes back as the error that the service raised; anything else
that goes wrong between here and there is ServiceUnreachable or ClientError.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel

from quantmill.api.schemas import (
    ArtifactSummary,
    ArtifactView,
    ComparisonView,
    EventView,
    FileView,
    JobSummary,
    JobView,
    LineageView,
    MethodView,
    Page,
    PlanView,
    ReportForm,
    WorkerList,
)
from quantmill.contract import errors
from quantmill.contract.errors import ArtifactDamaged, ErrorKind, QuantmillError, RequestRejected
from quantmill.domain.jobs import FINAL, State

WAIT_SECONDS = 30.0
RECONNECT_SECONDS = 1.0
RECONNECTS = 30  # in a row, without one event between them

View = TypeVar("View", bound=BaseModel)
Ending = TypeVar("Ending", JobView, ComparisonView)


class ClientError(QuantmillError):
    """The service refused the request."""


class ServiceUnreachable(QuantmillError):
    """The service does not answer."""


class Client:
    """One installation, by its URL. Close it, or use it as a context manager."""

    def __init__(
        self, server: str, *, timeout_seconds: float = 30, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.server = server.rstrip("/")
        self._http = httpx.Client(base_url=self.server, timeout=timeout_seconds, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Jobs

    def submit(
        self,
        source: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> JobView:
        """Queue a job. `more` are the other fields of SubmitJob: evaluation_text, evaluation, seed, timeout_seconds,
        labels, gates, escalation, calibration."""
        body = {"source": source, "method": method, "params": dict(params or {}), **more}
        return self._view(JobView, "POST", "/v1/jobs", json=body, headers=_key(idempotency_key))

    def plan(self, source: str, method: str, params: Mapping[str, Any] | None = None) -> PlanView:
        body = {"source": source, "method": method, "params": dict(params or {})}
        return self._view(PlanView, "POST", "/v1/plans", json=body)

    def get(self, job_id: UUID) -> JobView:
        return self._view(JobView, "GET", f"/v1/jobs/{job_id}")

    def list(
        self,
        *,
        state: State | None = None,
        method: str | None = None,
        label: str | None = None,
        page_size: int = 50,
        page_token: str | None = None,
    ) -> Page[JobSummary]:
        """One page, newest first."""
        filters = {"state": state, "method": method, "label": label, "page_size": page_size, "page_token": page_token}
        return self._view(Page[JobSummary], "GET", "/v1/jobs", params=_given(filters))

    def cancel(self, job_id: UUID) -> JobView:
        return self._view(JobView, "POST", f"/v1/jobs/{job_id}:cancel")

    def retry(self, job_id: UUID, *, idempotency_key: str | None = None) -> JobView:
        return self._view(JobView, "POST", f"/v1/jobs/{job_id}:retry", headers=_key(idempotency_key))

    def wait(self, job_id: UUID, timeout_seconds: float | None = None) -> JobView:
        """The job once it has ended, or as it is when the time is up; without a limit, however long it takes."""
        return self._wait(JobView, f"/v1/jobs/{job_id}", timeout_seconds)

    def events(self, job_id: UUID, after_seq: int = 0) -> Iterator[EventView]:
        """A job's events as they happen, until its last. A broken stream is resumed where it stopped."""
        failures = 0
        while True:
            try:
                for name, data in self._stream_events(job_id, after_seq):
                    if name == "end":
                        return
                    event = EventView.model_validate_json(data)
                    after_seq, failures = event.seq, 0
                    yield event
            except httpx.TransportError as error:
                failures += 1
                if failures > RECONNECTS:
                    raise self._unreachable(error) from error
            time.sleep(RECONNECT_SECONDS)

    # Comparisons

    def compare(
        self,
        source: str,
        evaluation_text: str,
        variants: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> ComparisonView:
        """Queue a job for each variant (method, params). `more` are the other fields of SubmitComparison: seed,
        timeout_seconds, labels, gates, evaluation, escalation, calibration."""
        asked = [{"method": method, "params": dict(params)} for method, params in variants]
        body = {"source": source, "evaluation_text": evaluation_text, "variants": asked, **more}
        return self._view(ComparisonView, "POST", "/v1/comparisons", json=body, headers=_key(idempotency_key))

    def comparison(self, comparison_id: UUID) -> ComparisonView:
        return self._view(ComparisonView, "GET", f"/v1/comparisons/{comparison_id}")

    def comparisons(self, *, page_size: int = 50, page_token: str | None = None) -> Page[ComparisonView]:
        """One page, newest first."""
        query = _given({"page_size": page_size, "page_token": page_token})
        return self._view(Page[ComparisonView], "GET", "/v1/comparisons", params=query)

    def cancel_comparison(self, comparison_id: UUID) -> ComparisonView:
        return self._view(ComparisonView, "POST", f"/v1/comparisons/{comparison_id}:cancel")

    def wait_for_comparison(self, comparison_id: UUID, timeout_seconds: float | None = None) -> ComparisonView:
        """The comparison once all its jobs have ended, or as it is when the time is up."""
        return self._wait(ComparisonView, f"/v1/comparisons/{comparison_id}", timeout_seconds)

    def report(self, comparison_id: UUID, form: ReportForm = "json") -> str:
        """The report of a comparison that has ended, as the text of a file. Raises Conflict before that."""
        return self._response("GET", f"/v1/comparisons/{comparison_id}/report.{form}").text

    # Methods and workers

    def methods(self) -> Sequence[MethodView]:
        return [MethodView(**row) for row in self._json("GET", "/v1/methods")["items"]]

    def workers(self) -> WorkerList:
        return self._view(WorkerList, "GET", "/v1/workers")

    # Artifacts

    def artifacts(self, *, page_size: int = 50, page_token: str | None = None) -> Page[ArtifactSummary]:
        query = _given({"page_size": page_size, "page_token": page_token})
        return self._view(Page[ArtifactSummary], "GET", "/v1/artifacts", params=query)

    def artifact(self, digest: str) -> ArtifactView:
        return self._view(ArtifactView, "GET", f"/v1/artifacts/{digest}")

    def lineage(
        self, digest: str, *, direction: Literal["up", "down"] = "up", depth: int = 10
    ) -> Sequence[LineageView]:
        query = {"direction": direction, "depth": depth}
        rows = self._json("GET", f"/v1/artifacts/{digest}/lineage", params=query)["items"]
        return [LineageView(**row) for row in rows]

    def download(self, digest: str, folder: Path) -> ArtifactView:
        """Fetch an artifact into `folder`, checking every file against its digest.

        What an interrupted download left in `folder` is continued. Raises RequestRejected where `folder` holds another
        file under a name of the artifact's, and ArtifactDamaged when the bytes that came are not the promised ones.
        """
        artifact = self.artifact(digest)
        for file in artifact.files:
            self._download_file(digest, file, _place(folder, file.path))
        return artifact

    def _download_file(self, digest: str, file: FileView, path: Path) -> None:
        if path.exists():
            if _digest(path) != file.digest:
                raise RequestRejected(f"{path} exists and is another file; choose an empty folder", path=str(path))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        self._fetch(f"/v1/artifacts/{digest}/files/{file.path}", file, part)
        if (found := _digest(part)) != file.digest:
            part.unlink()
            raise ArtifactDamaged(f"{file.path} came as {found}, not as {file.digest}; download it again")
        part.replace(path)

    def _fetch(self, url: str, file: FileView, part: Path) -> None:
        """Append to `part` what is missing of it."""
        have = part.stat().st_size if part.exists() else 0
        if have >= file.size > 0:
            return
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{file.digest}"'} if have else {}
        try:
            with self._http.stream("GET", url, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise _error(response)
                with part.open("ab" if response.status_code == 206 else "wb") as out:
                    for chunk in response.iter_raw():
                        out.write(chunk)
                    out.flush()
                    os.fsync(out.fileno())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    # The wire

    def _wait(self, kind: type[Ending], url: str, timeout_seconds: float | None) -> Ending:
        """What is at `url` once its state is final, by as many long polls as that takes."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            left = WAIT_SECONDS if end is None else max(0.0, min(WAIT_SECONDS, end - time.monotonic()))
            query = {"timeout": left}
            found = self._view(kind, "GET", f"{url}:wait", params=query, timeout=left + WAIT_SECONDS)
            if found.state in FINAL or (end is not None and time.monotonic() >= end):
                return found

    def _view(self, kind: type[View], method: str, url: str, **request: Any) -> View:
        return kind.model_validate(self._json(method, url, **request))

    def _json(self, method: str, url: str, **request: Any) -> Any:
        return self._response(method, url, **request).json()

    def _response(self, method: str, url: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, url, **request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _error(response)
        return response

    def _stream_events(self, job_id: UUID, after_seq: int) -> Iterator[tuple[str, str]]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after_seq)} if after_seq else {})
        with self._http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=60) as response:
            if response.is_error:
                response.read()
                raise _error(response)
            if response.status_code == 204:
                yield "end", "{}"
            yield from server_sent_events(response.iter_raw())

    def _unreachable(self, error: Exception) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"{self.server} does not answer ({error}); start `quantmill serve`, or name another with --server"
        )


def server_sent_events(chunks: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """(event name, data) of each event with data in a text/event-stream whose lines end in \\n."""
    name, data = "message", list[str]()
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode()


_KINDS: dict[str, type[QuantmillError]] = {
    f"/problems/{name}": kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, QuantmillError)
}


def _error(response: httpx.Response) -> QuantmillError:
    """The error that the service raised, or ClientError for a problem that has no class of ours."""
    try:
        document = response.json()
    except json.JSONDecodeError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    detail = str(document.pop("detail", None) or f"{response.request.url} answered {response.status_code}")
    kind = _KINDS.get(str(document.get("type")), ClientError)
    error = kind.__new__(kind)
    QuantmillError.__init__(error, detail, **{key: document[key] for key in document.keys() - _OWN_MEMBERS})
    if kind is ClientError and response.is_client_error:
        error.kind = ErrorKind.USER  # type: ignore[misc]
    return error


_OWN_MEMBERS = {"type", "title", "kind"}  # `describe` says them again


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key} if idempotency_key else {}


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _place(folder: Path, name: str) -> Path:
    """Where a file of an artifact belongs. A service is not trusted with names that lead elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ArtifactDamaged(f"the service names a file {name!r}, which does not lie inside the artifact")
    return folder / path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
