"""The whole way over real HTTP: submit, follow, fetch, check, and know where it came from."""

from __future__ import annotations

import hashlib
import json
from uuid import uuid4

import httpx
import pytest
from tests.installed import METHODS

from quantmill.client import Client, ClientError, ServiceUnreachable, server_sent_events
from quantmill.contract.errors import (
    ArtifactDamaged,
    Conflict,
    IdempotencyMismatch,
    NotFound,
    ParamsRejected,
    PolicyRefused,
    QuantmillError,
    RequestRejected,
)
from quantmill.domain.jobs import State


class CutOff(httpx.HTTPTransport):
    """The network to a service, which breaks off each of the first `cuts` response bodies after `size` bytes."""

    def __init__(self, size: int, cuts: int) -> None:
        super().__init__()
        self.size = size
        self.cuts = cuts
        self.headers: list[httpx.Headers] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self.headers.append(request.headers)
        if self.cuts and ("/events" in request.url.path or "/files/" in request.url.path):
            self.cuts -= 1
            response.stream = _CutStream(response.stream, self.size)
        return response


class _CutStream(httpx.SyncByteStream):
    def __init__(self, stream, size):
        self.stream = stream
        self.size = size

    def __iter__(self):
        for chunk in self.stream:
            yield chunk[: self.size]
            raise httpx.ReadError("cut off")

    def close(self):
        self.stream.close()


def test_a_job_is_followed_from_submit_to_verified_artifact(client, tmp_path):
    job = client.submit("millstone-4m", "gguf", {"type": "Q8_0"}, labels={"team": "search"})
    events = list(client.events(job.id))
    done = client.get(job.id)

    assert events[0].type == "job.queued"
    assert events[-1].type == "job.succeeded"
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {"quantize", "export", "verify"} <= {event.payload.get("phase") for event in events}
    assert (done.state, done.artifact_digest) == (State.SUCCEEDED, events[-1].payload["artifact"])
    assert [attempt.outcome for attempt in done.attempts] == ["succeeded"]

    artifact = client.download(done.artifact_digest, tmp_path / "out")
    for file in artifact.files:
        content = (tmp_path / "out" / file.path).read_bytes()
        assert (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") == (file.size, file.digest)
    description = json.loads((tmp_path / "out" / "quantmill.json").read_bytes())
    assert description["digest"] == artifact.digest
    assert description["verification"]["passed"] is True


def test_lineage_leads_from_the_artifact_to_its_source(client, finished):
    steps = {step.job_id: step for step in client.lineage(finished.artifact_digest)}

    step = steps[finished.id]
    assert (step.child, step.parent) == (finished.artifact_digest, finished.source_digest)
    assert (step.method, step.params["type"], step.depth) == ("gguf", "Q4_0", 1)


def test_the_same_job_twice_gives_the_same_artifact(client, finished):
    again = client.wait(client.submit("millstone-4m", "gguf", {"type": "Q4_0"}).id)

    assert again.id != finished.id
    assert again.artifact_digest == finished.artifact_digest


def test_jobs_are_listed_by_label(client, finished):
    assert [job.id for job in client.list(label="made=once").items] == [finished.id]


def test_waiting_without_a_limit_ends_with_the_job(client, finished):
    assert client.wait(finished.id) == finished


def test_a_plan_and_the_methods_come_as_values(client):
    plan = client.plan("millstone-4m", "gguf", {"type": "Q4_K_M"})

    assert plan.summary.schemes == {"Q4_K": 24, "Q6_K": 5, "F32": 9}
    assert [method.name for method in client.methods()] == METHODS


def test_the_services_own_worker_is_listed(client):
    assert [worker.slots for worker in client.workers().items] == [1]


# Comparisons


def test_variants_are_compared_from_submit_to_report(client, compared):
    good, missed = compared.variants
    report = json.loads(client.report(compared.id))

    assert [(each.name, each.state) for each in (good, missed)] == [
        ("gguf type=Q8_0", State.SUCCEEDED),
        ("gguf type=Q4_0", State.FAILED),
    ]
    assert compared.state is State.FAILED
    assert report["recommendation"]["variant"] == "gguf type=Q8_0"
    assert "bpw >= 8" in report["variants"][1]["error"]
    assert "<svg" in client.report(compared.id, "html")
    assert len(client.report(compared.id, "csv").splitlines()) == 3


def test_what_a_comparison_made_has_its_lineage(client, compared):
    made = compared.variants[0]

    steps = client.lineage(made.artifact_digest)

    assert (made.job_id, "quantized") in [(step.job_id, step.relation) for step in steps]


def test_the_same_key_gives_the_same_comparison(client, service, compared):
    variants = [("gguf", {"type": "Q8_0"}), ("gguf", {"type": "Q4_0"})]
    again = client.compare("millstone-4m", str(service.text), variants, gates=["bpw >= 8"], idempotency_key="compared")

    assert again == compared
    assert client.comparison(compared.id) == compared
    assert compared in client.comparisons().items


# Errors


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda client, job: client.get(uuid4()), NotFound),
        (lambda client, job: client.artifact("sha256:" + "0" * 64), NotFound),
        (lambda client, job: client.submit("millstone-4m", "gguf", {"typ": 1}), ParamsRejected),
        (lambda client, job: client.submit("/etc", "gguf"), PolicyRefused),
        (lambda client, job: client.cancel(job.id), Conflict),
        (lambda client, job: client.report(uuid4()), NotFound),
        (lambda client, job: client.cancel_comparison(uuid4()), NotFound),
        (lambda client, job: client.retry(job.id), Conflict),
        (lambda client, job: client.list(page_size=0), ClientError),
    ],
)
def test_a_refusal_comes_back_as_the_error_that_it_was(client, finished, act, kind):
    with pytest.raises(kind) as refused:
        act(client, finished)

    assert refused.value.detail
    assert refused.value.kind in ("user", "policy")
    assert refused.value.fields["status"] >= 400


def test_a_refused_parameter_keeps_its_pointer(client):
    with pytest.raises(ParamsRejected) as refused:
        client.submit("millstone-4m", "gguf", {"type": "Q4_K_M", "group": 7})

    assert [error["pointer"] for error in refused.value.fields["errors"]] == ["/params/group"]


def test_a_key_that_was_used_for_another_job_comes_back_as_such(client):
    key = uuid4().hex
    client.cancel(client.submit("millstone-4m", "gguf", {"type": "Q8_0"}, idempotency_key=key).id)

    with pytest.raises(IdempotencyMismatch):
        client.submit("millstone-4m", "gguf", {"type": "Q6_K"}, idempotency_key=key)


def test_a_service_that_is_not_there_is_said_with_its_address():
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(ServiceUnreachable, match=r"127\.0\.0\.1:9"):
        nobody.get(uuid4())


def test_an_answer_that_is_no_problem_document_is_an_error_too():
    transport = httpx.MockTransport(lambda request: httpx.Response(502, text="<html>bad gateway</html>"))

    with Client("http://proxy", transport=transport) as client, pytest.raises(QuantmillError, match="502") as refused:
        client.get(uuid4())

    assert refused.value.kind == "infrastructure"


# Broken connections


def test_a_cut_stream_of_events_goes_on_where_it_stopped(service, client, finished, monkeypatch):
    monkeypatch.setattr("quantmill.client.RECONNECT_SECONDS", 0.01)
    transport = CutOff(size=400, cuts=3)

    with Client(service.url, transport=transport) as unlucky:
        events = list(unlucky.events(finished.id))

    assert events == list(client.events(finished.id))
    resumed = [headers["Last-Event-ID"] for headers in transport.headers if "Last-Event-ID" in headers]
    assert resumed
    assert resumed == sorted(resumed, key=int)


def weights_of(artifact):
    return next(file for file in artifact.files if file.path.endswith(".gguf"))


def test_a_cut_download_goes_on_where_it_stopped(service, finished, tmp_path):
    transport = CutOff(size=10, cuts=1)

    with Client(service.url, transport=transport) as unlucky:
        with pytest.raises(ServiceUnreachable):
            unlucky.download(finished.artifact_digest, tmp_path)
        (part,) = tmp_path.glob("*.part")
        left = part.stat().st_size
        unlucky.download(finished.artifact_digest, tmp_path)

    assert left == 10
    assert "bytes=10-" in [headers.get("Range") for headers in transport.headers]
    assert not list(tmp_path.glob("*.part"))


def test_a_download_that_is_not_what_was_promised_is_thrown_away(client, finished, tmp_path):
    weights = weights_of(client.artifact(finished.artifact_digest))
    (tmp_path / f"{weights.path}.part").write_bytes(b"\0" * 5000)

    with pytest.raises(ArtifactDamaged, match=weights.path):
        client.download(finished.artifact_digest, tmp_path)

    assert not list(tmp_path.glob(f"{weights.path}*"))


def test_a_download_does_not_overwrite_another_file(client, finished, tmp_path):
    weights = weights_of(client.artifact(finished.artifact_digest))
    (tmp_path / weights.path).write_bytes(b"mine")

    with pytest.raises(RequestRejected, match=weights.path):
        client.download(finished.artifact_digest, tmp_path)

    assert (tmp_path / weights.path).read_bytes() == b"mine"


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", ""])
def test_a_service_cannot_make_the_client_write_elsewhere(tmp_path, path):
    digest = "sha256:" + "0" * 64
    file = {"path": path, "digest": digest, "size": 1, "media_type": "x/y"}
    artifact = {"digest": digest, "kind": "model", "format": "gguf", "size": 1, "created_at": "2026-01-01T00:00:00Z"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={**artifact, "files": [file], "metrics": []}))

    with Client("http://evil", transport=transport) as client, pytest.raises(ArtifactDamaged):
        client.download(digest, tmp_path / "out")

    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_however_the_stream_is_cut_into_chunks(size):
    text = 'event: a\ndata: {"x": "é"}\nid: 1\n\n: ping\n\nevent: b\ndata: one\ndata: two\n\ndata: three\n\n'.encode()

    chunks = (text[start : start + size] for start in range(0, len(text), size))

    assert list(server_sent_events(chunks)) == [("a", '{"x": "é"}'), ("b", "one\ntwo"), ("message", "three")]
