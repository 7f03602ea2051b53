"""A job's events: pages, and streams that end and resume."""

from __future__ import annotations

import json
import threading

import pytest

from quantmill.api import events
from quantmill.domain.jobs import Phase, Progress
from quantmill.store import jobs


def stream(api, job_id, **headers):
    return api.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream", **headers})


def parsed(text):
    """(event, id, data) of each server-sent event; comments are left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields.get("event"), fields.get("id"), json.loads(fields["data"])))
    return found


def test_events_are_numbered_from_one(api, submitted):
    job_id = submitted()
    api.post(f"/v1/jobs/{job_id}:cancel")

    page = api.get(f"/v1/jobs/{job_id}/events").json()

    assert [(event["seq"], event["type"]) for event in page["items"]] == [(1, "job.queued"), (2, "job.canceled")]
    assert (page["last_seq"], page["ended"]) == (2, True)


def test_a_page_begins_after_the_number_that_was_asked_for(api, submitted):
    job_id = submitted()
    api.post(f"/v1/jobs/{job_id}:cancel")

    page = api.get(f"/v1/jobs/{job_id}/events", params={"after_seq": 1, "page_size": 1}).json()

    assert [event["seq"] for event in page["items"]] == [2]
    assert page["ended"] is False


def test_a_stream_of_an_ended_job_tells_all_and_ends(api, submitted):
    job_id = submitted()
    api.post(f"/v1/jobs/{job_id}:cancel")

    response = stream(api, job_id)

    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-cache"
    told = parsed(response.text)
    assert [(name, id_) for name, id_, _ in told] == [("job.queued", "1"), ("job.canceled", "2"), ("end", None)]
    assert told[-1][2] == {"state": "canceled"}
    assert told[0][2] == api.get(f"/v1/jobs/{job_id}/events").json()["items"][0]


def test_a_stream_follows_the_job_to_its_end(api, submitted):
    job_id = submitted()
    timer = threading.Timer(0.5, lambda: api.post(f"/v1/jobs/{job_id}:cancel"))
    timer.start()

    told = parsed(stream(api, job_id).text)

    timer.join()
    assert [name for name, _, _ in told] == ["job.queued", "job.canceled", "end"]


def test_a_reconnect_continues_after_the_last_event_that_arrived(api, submitted):
    job_id = submitted()
    api.post(f"/v1/jobs/{job_id}:cancel")

    told = parsed(stream(api, job_id, **{"Last-Event-ID": "1"}).text)

    assert [id_ for _, id_, _ in told] == ["2", None]


def test_a_reconnect_after_the_end_is_told_to_stop(api, submitted):
    job_id = submitted()
    api.post(f"/v1/jobs/{job_id}:cancel")

    response = stream(api, job_id, **{"Last-Event-ID": "2"})

    assert (response.status_code, response.content) == (204, b"")


def test_a_stream_is_the_same_as_the_pages(api, services, submitted, claimed):
    job = claimed(submitted())
    for done in range(600):  # more than one batch
        with services.database.write() as tx:
            jobs.record_progress(tx, job.id, job.epoch, Phase.QUANTIZE, Progress(done, 600, "a\u2028b"), event=True)
    with services.database.write() as tx:
        jobs.request_cancel(tx, job.id)
        jobs.transition(tx, job.id, epoch=job.epoch, to=jobs.State.CANCELED)

    told = [data for name, _, data in parsed(stream(api, job.id).text) if name != "end"]

    pages, after, ended = [], 0, False
    while not ended:
        page = api.get(f"/v1/jobs/{job.id}/events", params={"after_seq": after, "page_size": 500}).json()
        pages, after, ended = pages + page["items"], page["last_seq"], page["ended"]
    assert told == pages
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))


def test_a_quiet_stream_says_that_it_lives(api, submitted, monkeypatch):
    monkeypatch.setattr(events, "KEEPALIVE_SECONDS", 0.1)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(events, "STREAM_SECONDS", 0.5)

    text = stream(api, submitted()).text

    assert text.count(": ping") >= 2
    assert "event: end" not in text  # the stream's life ended, not the job's


@pytest.mark.parametrize("value", ["-1", "x", "1.5"])
def test_a_last_event_id_that_we_never_sent_is_a_problem(api, submitted, value):
    response = stream(api, submitted(), **{"Last-Event-ID": value})

    assert (response.status_code, response.headers["Content-Type"]) == (422, "application/problem+json")
