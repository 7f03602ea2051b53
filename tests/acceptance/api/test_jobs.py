"""Jobs over the API: submitted once, listed, waited for, canceled and retried."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest
from tests.installed import METHODS

from quantmill.contract.tensors import Plan
from quantmill.domain.artifacts import Metric
from quantmill.domain.escalation import Rung, Step
from quantmill.domain.gates import judge
from quantmill.domain.jobs import State
from quantmill.store import jobs

DATA = Path(__file__).parents[2] / "data"
REQUEST = {"source": "millstone-4m", "method": "gguf", "params": {"type": "Q4_K_M"}}


@pytest.fixture
def served_database_url(database_url):
    """Each test of this module runs on either kind of database."""
    return database_url


def test_a_submitted_job_is_accepted_with_its_place_and_version(api):
    response = api.post("/v1/jobs", json=REQUEST)

    job = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert response.headers["ETag"] == '"0.0"'
    assert (job["state"], job["method"], job["params"]["type"]) == ("queued", "gguf", "Q4_K_M")
    assert job["params"]["pure"] is False  # defaults are filled in
    assert job["source"] == str(DATA / "millstone-4m")


def test_the_answer_says_what_the_job_will_do_before_it_does_it(api):
    plan = api.post("/v1/jobs", json=REQUEST).json()["plan"]

    assert plan["schemes"] == {"Q4_K": 24, "Q6_K": 5, "F32": 9}
    assert "norms stay F32" in {exception["reason"] for exception in plan["exceptions"]}
    assert 5 < plan["bits_per_weight"] < 5.5


def test_everything_asked_for_is_kept(api):
    asked = {
        **REQUEST,
        "evaluation_text": str(DATA / "text" / "evaluation.txt"),
        "evaluation": {"window": 256, "dtype": "bfloat16", "tasks": ["piqa"]},
        "seed": 7,
        "timeout_seconds": 60,
        "labels": {"team": "search"},
    }

    job = api.get(api.post("/v1/jobs", json=asked).headers["Location"]).json()

    kept = ("evaluation_text", "seed", "timeout_seconds", "labels")
    assert {name: job[name] for name in kept} == {name: asked[name] for name in kept}
    assert {name: job["evaluation"][name] for name in asked["evaluation"]} == asked["evaluation"]
    assert job["evaluation"]["prompts"] == 16  # defaults are filled in


def test_a_file_uri_names_a_source_too(api):
    response = api.post("/v1/jobs", json={**REQUEST, "source": (DATA / "millstone-4m").as_uri()})

    assert response.status_code == 202


# Escalation


def test_a_job_may_escalate_inside_a_budget(api):
    asked = {**REQUEST, "gates": ["rmse <= 0.01"], "escalation": {"attempts": 3, "size_mb": 4.5}}

    job = api.post("/v1/jobs", json=asked).json()

    assert job["escalation"] == {"attempts": 3, "size_mb": 4.5, "by": "ladder", "steps": []}
    assert api.get("/v1/methods/gguf").json()["promotes"] is True
    rung = api.get("/v1/methods/gguf").json()["ladder"][0]
    assert rung == {"type": "Q2_K", "target_bpw": None, "target_size_mb": None}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"evaluation_text": None}, "/escalation"),
        ({"escalation": {"attempts": 3, "by": "layers"}}, "/escalation/by"),
        ({"gates": []}, "/escalation"),
    ],
)
def test_an_escalation_by_blocks_needs_a_text_to_find_them_on(api, changes, pointer):
    text = "text/evaluation.txt"
    asked = {"gates": ["rmse <= 0.01"], "evaluation_text": text, "escalation": {"attempts": 3, "by": "blocks"}}

    taken, refused = (api.post("/v1/jobs", json={**REQUEST, **asked, **more}) for more in ({}, changes))

    assert (taken.status_code, taken.json()["escalation"]["by"]) == (202, "blocks")
    assert (refused.status_code, [each["pointer"] for each in refused.json()["errors"]]) == (422, [pointer])


def test_a_retry_asks_for_what_was_asked_for_before_the_escalation(api, services, claimed):
    asked = {**REQUEST, "gates": ["rmse <= 0.01"], "escalation": {"attempts": 3}}
    job = claimed(api.post("/v1/jobs", json=asked).json()["id"])
    missed = Step(job.request.params, 1, judge(job.request.gates, [Metric("relative_rmse", 0.5, "")]))
    larger = {**job.request.params, "type": "Q8_0"}
    with services.database.write() as tx:
        jobs.escalate(tx, job.id, job.epoch, missed, Rung(larger, Plan.from_json(job.plan)))
        jobs.transition(tx, job.id, epoch=job.epoch, to=State.FAILED, error={"type": "/problems/GateFailed"})

    failed = api.get(f"/v1/jobs/{job.id}").json()
    again = api.post(f"/v1/jobs/{job.id}:retry").json()

    assert (failed["params"]["type"], again["params"]["type"]) == ("Q8_0", "Q4_K_M")
    assert failed["escalation"]["steps"][0]["gates"] == [{"gate": "rmse <= 0.01", "observed": 0.5, "passed": False}]
    assert again["escalation"] == {"attempts": 3, "size_mb": None, "by": "ladder", "steps": []}


# Idempotency


def test_the_same_key_and_body_give_the_same_job(api):
    first = api.post("/v1/jobs", json=REQUEST, headers={"Idempotency-Key": "release-7"})
    second = api.post("/v1/jobs", json=REQUEST, headers={"Idempotency-Key": "release-7"})

    assert second.status_code == 202
    assert second.headers["Location"] == first.headers["Location"]
    assert len(api.get("/v1/jobs").json()["items"]) == 1


def test_the_same_key_with_another_body_is_refused(api):
    api.post("/v1/jobs", json=REQUEST, headers={"Idempotency-Key": "release-7"})

    response = api.post("/v1/jobs", json={**REQUEST, "seed": 1}, headers={"Idempotency-Key": "release-7"})

    assert response.status_code == 422
    assert response.json()["type"] == "/problems/IdempotencyMismatch"
    assert len(api.get("/v1/jobs").json()["items"]) == 1


def test_a_repeat_succeeds_though_its_source_is_gone(api, source_root):
    model = source_root / "moved"
    model.symlink_to(DATA / "millstone-4m")
    request = {**REQUEST, "source": str(model)}
    first = api.post("/v1/jobs", json=request, headers={"Idempotency-Key": "k"})
    model.unlink()

    assert api.post("/v1/jobs", json=request, headers={"Idempotency-Key": "k"}).json()["id"] == first.json()["id"]


def test_a_refused_request_does_not_use_up_its_key(api):
    refused = api.post("/v1/jobs", json={**REQUEST, "params": {"type": "Q9"}}, headers={"Idempotency-Key": "k"})
    accepted = api.post("/v1/jobs", json=REQUEST, headers={"Idempotency-Key": "k"})

    assert (refused.status_code, accepted.status_code) == (422, 202)


def test_many_at_once_with_one_key_make_one_job(api):
    answers = []

    def submit() -> None:
        answers.append(api.post("/v1/jobs", json=REQUEST, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1


# Reading


def test_an_unchanged_job_is_not_sent_twice(api, submitted, claimed):
    url = f"/v1/jobs/{submitted()}"
    etag = api.get(url).headers["ETag"]

    unchanged = api.get(url, headers={"If-None-Match": f'"9.9", W/{etag}'})
    claimed(url.rpartition("/")[2])
    changed = api.get(url, headers={"If-None-Match": etag})

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (changed.status_code, changed.json()["state"]) == (200, "running")


def test_pages_hold_every_job_once_newest_first(api, submitted):
    made = [submitted(seed=seed) for seed in range(7)]

    pages, token = [], None
    while True:
        page = api.get("/v1/jobs", params={"page_size": 3} | ({"page_token": token} if token else {})).json()
        pages.append([job["id"] for job in page["items"]])
        if (token := page["next_page_token"]) is None:
            break

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [job_id for page in pages for job_id in page] == made[::-1]


def test_jobs_that_arrive_between_two_pages_move_nothing(api, submitted):
    made = [submitted(seed=seed) for seed in range(4)]
    first = api.get("/v1/jobs", params={"page_size": 2}).json()
    submitted(seed=99)

    second = api.get("/v1/jobs", params={"page_size": 2, "page_token": first["next_page_token"]}).json()

    assert [job["id"] for job in second["items"]] == made[1::-1]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"state": "queued"}, 2),
        ({"state": "failed"}, 0),
        ({"method": "gguf"}, 2),
        ({"method": "awq"}, 0),
        ({"label": "team=search"}, 1),
        ({"label": "team=other"}, 0),
        ({"label": "team=search", "state": "queued"}, 1),
    ],
)
def test_listings_are_filtered(api, submitted, query, count):
    submitted()
    submitted(labels={"team": "search"})

    assert len(api.get("/v1/jobs", params=query).json()["items"]) == count


# Waiting


def test_waiting_for_an_ended_job_answers_at_once(api, submitted):
    job_id = submitted()
    api.post(f"/v1/jobs/{job_id}:cancel")
    started = time.monotonic()

    response = api.get(f"/v1/jobs/{job_id}:wait", params={"timeout": 30})

    assert response.json()["state"] == "canceled"
    assert time.monotonic() - started < 15


def test_waiting_ends_with_the_time_and_shows_the_job_as_it_is(api, submitted):
    started = time.monotonic()

    response = api.get(f"/v1/jobs/{submitted()}:wait", params={"timeout": 0.5})

    assert response.json()["state"] == "queued"
    assert time.monotonic() - started > 0.4


def test_waiting_ends_when_the_job_does(api, submitted):
    job_id = submitted()
    timer = threading.Timer(0.4, lambda: api.post(f"/v1/jobs/{job_id}:cancel"))
    timer.start()

    response = api.get(f"/v1/jobs/{job_id}:wait", params={"timeout": 20})

    timer.join()
    assert response.json()["state"] == "canceled"


# Canceling and retrying


def test_a_queued_job_is_canceled_at_once_and_again_without_harm(api, submitted):
    url = f"/v1/jobs/{submitted()}:cancel"

    assert [api.post(url).json()["state"] for _ in range(2)] == ["canceled", "canceled"]


def test_a_running_job_is_asked_to_stop(api, submitted, claimed):
    job_id = submitted()
    claimed(job_id)

    response = api.post(f"/v1/jobs/{job_id}:cancel")

    assert (response.status_code, response.json()["state"]) == (200, "canceling")
    assert response.json()["cancel_requested_at"] is not None


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED])
def test_a_job_that_ended_otherwise_cannot_be_canceled(api, submitted, ended, state):
    job_id = submitted()
    ended(job_id, state)

    response = api.post(f"/v1/jobs/{job_id}:cancel")

    assert (response.status_code, response.json()["type"]) == (409, "/problems/IllegalTransition")
    assert response.json()["state"] == state


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED, State.CANCELED])
def test_a_job_that_did_not_succeed_is_retried_as_another_job(api, submitted, ended, state):
    job_id = submitted(seed=3)
    ended(job_id, state)

    response = api.post(f"/v1/jobs/{job_id}:retry")

    again = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/jobs/{again['id']}"
    assert (again["retry_of"], again["state"], again["seed"]) == (job_id, "queued", 3)
    assert again["id"] != job_id
    assert api.get(f"/v1/jobs/{job_id}").json()["state"] == state


def test_a_retry_with_a_key_happens_once(api, submitted):
    job_id = submitted()
    api.post(f"/v1/jobs/{job_id}:cancel")

    made = {api.post(f"/v1/jobs/{job_id}:retry", headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(3)}

    assert len(made) == 1


def test_a_job_that_has_not_ended_cannot_be_retried(api, submitted, claimed):
    job_id = submitted()
    queued = api.post(f"/v1/jobs/{job_id}:retry")
    claimed(job_id)
    running = api.post(f"/v1/jobs/{job_id}:retry")

    assert [(each.status_code, each.json()["type"]) for each in (queued, running)] == [(409, "/problems/Conflict")] * 2


def test_a_job_that_succeeded_cannot_be_retried(api, published):
    assert api.post(f"/v1/jobs/{published.job.id}:retry").status_code == 409


@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("GET", ":wait"), ("GET", "/events"), ("POST", ":cancel"), ("POST", ":retry")]
)
def test_a_job_that_does_not_exist_is_not_found(api, method, suffix):
    unknown = api.request(method, f"/v1/jobs/{uuid4()}{suffix}")
    malformed = api.request(method, f"/v1/jobs/7{suffix}")

    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/NotFound")
    assert malformed.status_code == 404


# Plans


def test_a_plan_lists_every_tensor_and_makes_no_job(api):
    response = api.post("/v1/plans", json=REQUEST)

    plan = response.json()
    assert response.status_code == 200
    assert len(plan["tensors"]) == 38
    assert plan["architecture"] == "LlamaForCausalLM"
    assert plan["summary"]["nbytes"] == sum(tensor["nbytes"] for tensor in plan["tensors"])
    assert plan["estimate"]["artifact_bytes"] == plan["summary"]["nbytes"]
    assert plan["estimate"]["seconds"]["least"] < plan["estimate"]["seconds"]["expected"]
    assert api.get("/v1/jobs").json()["items"] == []


def test_a_job_says_what_it_was_thought_to_take(api):
    job = api.post("/v1/jobs", json=REQUEST).json()

    assert job["estimate"]["artifact_bytes"] == job["plan"]["nbytes"]
    assert api.get(f"/v1/jobs/{job['id']}").json()["estimate"] == job["estimate"]


def test_methods_say_what_they_accept(api):
    listed = api.get("/v1/methods").json()["items"]
    one = api.get("/v1/methods/gguf").json()

    assert [method["name"] for method in listed] == METHODS
    assert listed[3] == one
    assert one["params_schema"]["additionalProperties"] is False
    assert "type" in one["params_schema"]["properties"]
