"""Comparisons over the API: all variants or none, one state, one report."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from uuid import uuid4

import pytest

from quantmill.contract.errors import describe
from quantmill.domain.artifacts import Metric
from quantmill.domain.gates import judge, refusal
from quantmill.domain.jobs import State
from quantmill.store import jobs

DATA = Path(__file__).parents[2] / "data"
REQUEST = {
    "source": "millstone-4m",
    "evaluation_text": "text/evaluation.txt",
    "variants": [
        {"method": "gguf", "params": {"type": "Q8_0"}},
        {"method": "gguf", "params": {"type": "Q4_K_M", "pure": True}},
    ],
}


@pytest.fixture
def served_database_url(database_url):
    """Each test of this module runs on either kind of database."""
    return database_url


def submit(api, **changes):
    response = api.post("/v1/comparisons", json={**REQUEST, **changes})
    assert response.status_code == 202, response.text
    return response.json()


def test_a_comparison_is_accepted_with_a_job_for_each_variant(api):
    response = api.post("/v1/comparisons", json={**REQUEST, "seed": 7, "labels": {"team": "search"}})

    made = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/comparisons/{made['id']}"
    assert response.headers["ETag"] == '"0"'
    assert (made["state"], made["source_bytes"], made["report"]) == ("queued", 8393216, None)
    assert [each["name"] for each in made["variants"]] == ["gguf type=Q8_0", "gguf type=Q4_K_M pure=true"]
    compared = [api.get(f"/v1/jobs/{each['job_id']}").json() for each in made["variants"]]
    assert [(job["params"]["type"], job["seed"], job["labels"]) for job in compared] == [
        ("Q8_0", 7, {"team": "search"}),
        ("Q4_K_M", 7, {"team": "search"}),
    ]
    assert {job["evaluation_text"].rpartition("/")[2] for job in compared} == {"evaluation.txt"}


def test_every_job_of_a_comparison_is_measured_as_it_asks(api):
    made = submit(api, evaluation={"window": 128, "stride": 64, "prompts": 0})

    jobs_ = [api.get(f"/v1/jobs/{each['job_id']}").json() for each in made["variants"]]

    asked = [{name: job["evaluation"][name] for name in ("window", "stride", "prompts", "dtype")} for job in jobs_]
    assert asked == [{"window": 128, "stride": 64, "prompts": 0, "dtype": "float32"}] * 2


# All or none


@pytest.mark.parametrize(
    ("changes", "status", "pointers"),
    [
        ({"source": "nowhere"}, 422, ["/source"]),
        ({"evaluation_text": "nowhere"}, 422, ["/evaluation_text"]),
        ({"source": "/etc"}, 403, ["/source"]),
        ({"variants": []}, 422, ["/variants"]),
        ({"variants": [{"method": "gguf"}] * 33}, 422, ["/variants"]),
        ({"variants": [{"method": "gguf", "parms": {}}]}, 422, ["/variants/0/parms"]),
        ({"variants": [*REQUEST["variants"], {"method": "nil"}]}, 422, ["/variants/2/method"]),
        (
            {
                "variants": [
                    {"method": "gguf", "params": {"typ": 1}},
                    REQUEST["variants"][0],
                    {"method": "gguf", "params": {"type": "Q9", "pure": "so"}},
                ]
            },
            422,
            ["/variants/0/params/typ", "/variants/2/params/type", "/variants/2/params/pure"],
        ),
        (
            {"variants": [REQUEST["variants"][0], {"method": "gguf", "params": {"type": "Q8_0", "pure": False}}]},
            422,
            ["/variants/1"],
        ),
        ({"gates": ["size_mb <= 4", "quality >= 1"]}, 422, ["/gates/1"]),
        ({"timeout_seconds": 31_536_000}, 422, ["/timeout_seconds"]),
        ({"evaluation": {"window": 1, "dtype": "int8"}}, 422, ["/evaluation/window", "/evaluation/dtype"]),
        ({"escalation": {"attempts": 3}}, 422, ["/escalation"]),
        ({"gates": ["rmse <= 1"], "escalation": {"attempts": 1}}, 422, ["/escalation/attempts"]),
        ({"surprise": 1}, 422, ["/surprise"]),
    ],
)
def test_what_cannot_be_compared_is_refused_whole_and_says_where(api, changes, status, pointers):
    response = api.post("/v1/comparisons", json={**REQUEST, **changes})

    assert response.status_code == status, response.text
    assert [error["pointer"] for error in response.json()["errors"]] == pointers
    assert api.get("/v1/jobs").json()["items"] == []
    assert api.get("/v1/comparisons").json()["items"] == []


# Idempotency


def test_the_same_key_and_body_give_the_same_comparison(api):
    first, second = (
        api.post("/v1/comparisons", json=REQUEST, headers={"Idempotency-Key": "release-7"}) for _ in range(2)
    )

    assert (second.status_code, second.headers["Location"]) == (202, first.headers["Location"])
    assert len(api.get("/v1/jobs").json()["items"]) == 2


def test_the_same_key_with_another_body_is_refused(api):
    api.post("/v1/comparisons", json=REQUEST, headers={"Idempotency-Key": "k"})

    other = api.post("/v1/comparisons", json={**REQUEST, "seed": 1}, headers={"Idempotency-Key": "k"})
    job = {"source": REQUEST["source"], **REQUEST["variants"][0]}
    as_a_job = api.post("/v1/jobs", json=job, headers={"Idempotency-Key": "k"})

    assert [each.json()["type"] for each in (other, as_a_job)] == ["/problems/IdempotencyMismatch"] * 2


def test_a_refused_comparison_does_not_use_up_its_key(api):
    refused = api.post("/v1/comparisons", json={**REQUEST, "source": "no"}, headers={"Idempotency-Key": "k"})
    accepted = api.post("/v1/comparisons", json=REQUEST, headers={"Idempotency-Key": "k"})

    assert (refused.status_code, accepted.status_code) == (422, 202)


# Looking, waiting, canceling


def test_an_unchanged_comparison_is_not_sent_twice(api, claimed):
    made = submit(api)
    url = f"/v1/comparisons/{made['id']}"
    etag = api.get(url).headers["ETag"]

    unchanged = api.get(url, headers={"If-None-Match": etag})
    claimed(made["variants"][1]["job_id"])
    changed = api.get(url, headers={"If-None-Match": etag})

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (changed.status_code, changed.json()["state"]) == (200, "running")
    assert [each["state"] for each in changed.json()["variants"]] == ["queued", "running"]


def test_pages_hold_every_comparison_once_newest_first(api):
    made = [submit(api, seed=seed)["id"] for seed in range(3)]

    first = api.get("/v1/comparisons", params={"page_size": 2}).json()
    rest = api.get("/v1/comparisons", params={"page_size": 2, "page_token": first["next_page_token"]}).json()

    assert [each["id"] for each in first["items"] + rest["items"]] == made[::-1]
    assert rest["next_page_token"] is None


def test_waiting_ends_with_the_time_or_with_the_last_job(api):
    made = submit(api)
    url = f"/v1/comparisons/{made['id']}"
    started = time.monotonic()

    as_it_is = api.get(f"{url}:wait", params={"timeout": 0.3}).json()
    api.post(f"{url}:cancel")
    ended = api.get(f"{url}:wait", params={"timeout": 30}).json()

    assert (as_it_is["state"], ended["state"]) == ("queued", "canceled")
    assert ended["ended_at"] is not None
    assert time.monotonic() - started < 20


def test_canceling_stops_what_has_not_ended_and_may_be_repeated(api, claimed):
    made = submit(api)
    claimed(made["variants"][0]["job_id"])
    url = f"/v1/comparisons/{made['id']}:cancel"

    answers = [api.post(url).json() for _ in range(2)]

    assert [answer["state"] for answer in answers] == ["canceling", "canceling"]
    assert [each["state"] for each in answers[1]["variants"]] == ["canceling", "canceled"]


def test_a_comparison_that_has_failed_cannot_be_canceled(api, ended):
    made = submit(api, variants=REQUEST["variants"][:1])
    ended(made["variants"][0]["job_id"], State.FAILED)

    response = api.post(f"/v1/comparisons/{made['id']}:cancel")

    assert (response.status_code, response.json()["type"]) == (409, "/problems/IllegalTransition")


@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("GET", ":wait"), ("GET", "/report.html"), ("POST", ":cancel")]
)
def test_a_comparison_that_does_not_exist_is_not_found(api, method, suffix):
    unknown = api.request(method, f"/v1/comparisons/{uuid4()}{suffix}")

    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/NotFound")


# The report


def test_there_is_no_report_before_all_jobs_have_ended(api, ended):
    made = submit(api)
    ended(made["variants"][0]["job_id"], State.FAILED)

    response = api.get(f"/v1/comparisons/{made['id']}/report.json")

    assert (response.status_code, response.json()["type"]) == (409, "/problems/Conflict")
    assert response.json()["state"] == "running"


def test_the_report_holds_failed_variants_with_their_reason(api, ended, publish):
    made = submit(api)
    ended(made["variants"][0]["job_id"], State.FAILED)
    publish(b"made", made["variants"][1]["job_id"])

    shown = api.get(f"/v1/comparisons/{made['id']}").json()
    report = api.get(shown["report"]["json"])
    lines = list(csv.DictReader(io.StringIO(api.get(shown["report"]["csv"]).text)))
    page = api.get(shown["report"]["html"])

    assert shown["state"] == "failed"
    failed, good = report.json()["variants"]
    assert (failed["state"], failed["error"], failed["digest"]) == ("failed", "gone", None)
    assert (good["state"], good["size"], good["error"]) == ("succeeded", 4, None)
    assert [line["state"] for line in lines] == ["failed", "succeeded"]
    assert [each.headers["Content-Type"] for each in (report, page)] == ["application/json", "text/html; charset=utf-8"]
    assert ">gone<" in page.text
    assert f"quantmill quantize {DATA / 'millstone-4m'} --method gguf --set type=Q8_0" in page.text


def test_what_a_variant_that_missed_its_gate_has_lost_is_reported(api, services, claimed):
    made = submit(api, variants=REQUEST["variants"][:1], gates=["kld.mean <= 0.01"])
    job = claimed(made["variants"][0]["job_id"])
    measured = [Metric("kld_mean", 0.5, "nat"), Metric("kld_max", float("inf"), "nat")]
    error = describe(refusal(judge(job.request.gates, measured), measured))
    with services.database.write() as tx:
        jobs.transition(tx, job.id, epoch=job.epoch, to=State.FAILED, error=error)

    (variant,) = api.get(f"/v1/comparisons/{made['id']}/report.json").json()["variants"]

    assert (variant["state"], variant["digest"]) == ("failed", None)
    assert "kld.mean <= 0.01: 0.5 was observed" in variant["error"]
    assert {each["name"]: each["value"] for each in variant["metrics"]} == {"kld_mean": 0.5, "kld_max": None}
