"""Probes, metrics and the table of workers."""

from __future__ import annotations

import socket
from dataclasses import replace
from types import MappingProxyType
from uuid import UUID

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from tests.installed import METHODS

from quantmill.api.app import create_app
from quantmill.domain.jobs import State, Waiting
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import jobs, leader, methods, workers

SUBMITTED = {"source": "millstone-4m", "method": "gguf", "params": {"type": "Q8_0"}}


def test_a_service_with_its_schema_is_ready(api):
    assert [api.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]


def test_a_service_before_its_migration_lives_and_is_not_ready(tmp_path):
    services = Services.open(Settings(data_dir=tmp_path))
    api = TestClient(create_app(services))

    response = api.get("/readyz")

    assert api.get("/livez").status_code == 200
    assert (response.status_code, response.headers["Content-Type"]) == (503, "application/problem+json")
    assert "quantmill migrate" in response.json()["detail"]
    services.close()


@pytest.mark.parametrize(("listening", "status"), [(True, "ok"), (False, "degraded")])
def test_a_broker_that_is_away_degrades_a_service_that_still_takes_jobs_in(services, listening, status):
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        if listening:
            place.listen()
        url = SecretStr(f"redis://:password@127.0.0.1:{place.getsockname()[1]}/0")
        brokered = replace(services, settings=services.settings.model_copy(update={"broker_url": url}))
        api = TestClient(create_app(brokered))

        response = api.get("/readyz")

        assert (response.status_code, response.json()) == (200, {"status": status})
        assert api.post("/v1/jobs", json=SUBMITTED).status_code == 202


def test_metrics_count_jobs_by_state(api, submitted):
    submitted()
    submitted(seed=1)

    response = api.get("/metrics")

    assert response.headers["Content-Type"].startswith("text/plain")
    assert 'quantmill_jobs{state="queued"} 2.0' in response.text
    assert 'quantmill_jobs{state="failed"} 0.0' in response.text
    assert 'quantmill_build_info{version="' in response.text
    assert 'quantmill_jobs_waiting{reason="no_eligible_worker"} 0.0' in response.text


def test_metrics_tell_attempts_queues_and_how_long_things_have_waited(api, submitted, claimed, ended):
    submitted(seed=1)
    claimed(submitted(seed=2))
    ended(submitted(seed=3), State.FAILED)

    numbers = samples(api)

    assert numbers['quantmill_queue_jobs{queue="cpu",state="running"}'] == 1
    assert numbers['quantmill_attempts_total{method="gguf",outcome="failed"}'] == 1
    assert numbers['quantmill_attempts_total{method="fp8",outcome="lost"}'] == 0
    assert 0 < numbers["quantmill_oldest_queued_age_seconds"] < 60
    assert 0 < numbers["quantmill_outbox_age_seconds"] < 60
    assert numbers["quantmill_plugin_load_failures"] == 0


def test_metrics_tell_whether_a_scheduler_leads_and_what_is_free_on_disk(api, services):
    before = samples(api)
    with services.database.write() as tx:
        leader.hold(tx, leader.SCHEDULER, "one", 60)

    after = samples(api)

    leads = "quantmill_scheduler_leaders"
    assert (before[leads], after[leads]) == (0, 1)
    assert 0 < after["quantmill_data_free_bytes"] < after["quantmill_data_size_bytes"]


def test_metrics_count_requests_by_the_pattern_of_their_route(api, submitted):
    job_id = submitted()
    api.get(f"/v1/jobs/{job_id}")
    api.get("/v1/jobs/00000000-0000-0000-0000-000000000000")
    api.get("/elsewhere")
    api.request("BREW", "/v1/jobs")

    found = samples(api)

    answered = 'quantmill_http_requests_total{code="%s",method="%s",route="%s"}'
    assert found[answered % (200, "GET", "/v1/jobs/{job_id:uuid}")] == 1
    assert found[answered % (404, "GET", "/v1/jobs/{job_id:uuid}")] == 1
    assert found[answered % (404, "GET", "other")] == 1
    assert found[answered % (405, "other", "/v1/jobs")] == 1
    assert found['quantmill_http_request_duration_seconds_count{method="POST",route="/v1/jobs"}'] == 1
    assert job_id not in str(found)


def test_a_request_that_the_service_fails_at_is_counted(api, monkeypatch):
    monkeypatch.setattr("quantmill.api.health.broker_answers", lambda services: 1 / 0)
    assert api.get("/readyz").status_code == 500

    assert samples(api)['quantmill_http_requests_total{code="500",method="GET",route="/readyz"}'] == 1


def samples(api):
    """Each sample that Prometheus would scrape, by its name and labels."""
    lines = [line for line in api.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_workers_by_queue_and_jobs_that_none_of_them_can_run(api, services, submitted):
    register(services)
    no_worker_for(services, submitted())

    text = api.get("/metrics").text

    assert 'quantmill_workers{queue="gpu"} 1.0' in text
    assert 'quantmill_worker_slots{queue="gpu"} 2.0' in text
    assert 'quantmill_jobs_waiting{reason="no_eligible_worker"} 1.0' in text
    assert 'quantmill_jobs_waiting{reason="waiting_capacity"} 0.0' in text


def no_worker_for(services, job_id):
    """What the scheduler writes of a job that no worker can run."""
    with services.database.write() as tx:
        need = jobs.get_job(tx, UUID(job_id)).need
        jobs.note_waiting(tx, need, Waiting("no_eligible_worker", ("gpu-1: method gguf is not installed there",)))


def test_a_job_says_why_it_is_still_in_the_queue(api, services, submitted):
    job_id = submitted()
    assert api.get(f"/v1/jobs/{job_id}").json()["status_reason"] == "waiting_capacity"

    no_worker_for(services, job_id)

    for job in (api.get(f"/v1/jobs/{job_id}").json(), api.get("/v1/jobs").json()["items"][0]):
        assert job["status_reason"] == "no_eligible_worker"
        assert job["missing"] == ["gpu-1: method gguf is not installed there"]
    api.post(f"/v1/jobs/{job_id}:cancel")
    assert api.get(f"/v1/jobs/{job_id}").json()["status_reason"] is None


def test_a_plan_says_which_workers_could_run_it(api, services):
    request = {"source": "millstone-4m", "method": "gguf", "params": {"type": "Q8_0"}}
    assert api.post("/v1/plans", json=request).json()["route"] == {
        "queues": [],
        "reason": "no_eligible_worker",
        "missing": ["no worker is running"],
        "home": None,
    }

    register(services, methods_there={"gguf": services.plugins.method("gguf").version})

    assert api.post("/v1/plans", json=request).json()["route"]["queues"] == ["gpu"]


def register(services, name="gpu-1", description=None, methods_there=MappingProxyType({})):
    with services.database.write() as tx:
        workers.register(
            tx,
            name,
            queue="gpu",
            slots=2,
            host="node-7",
            versions={"quantmill": "0.1.0"},
            plugin_failures=[{"name": "broken", "reason": "ImportError: no torch"}],
            machine={"accelerators": [{"name": "L4", "kind": "gpu", "vendor": "nvidia", "memory_bytes": 24 << 30}]},
            methods=methods_there,
            memory_bytes=1 << 30,
        )
        if description:
            methods.publish_methods(tx, name, [description])


def test_workers_are_listed_with_what_failed_to_load_there(api, services):
    register(services)

    (worker,) = api.get("/v1/workers").json()["items"]

    assert (worker["name"], worker["queue"], worker["slots"]) == ("gpu-1", "gpu", 2)
    assert worker["machine"]["accelerators"][0]["name"] == "L4"
    assert worker["plugin_failures"] == [{"name": "broken", "reason": "ImportError: no torch"}]


REMOTE = {
    "name": "spinquant",
    "version": "2.0",
    "api_version": 1,
    "summary": "only workers have it",
    "params_schema": {
        "type": "object",
        "additionalProperties": False,
        "required": ["bits"],
        "properties": {"bits": {"enum": [4, 8]}, "groups": {"type": "array", "items": {"type": "integer"}}},
    },
    "formats": ["gemm"],
    "architectures": ["LlamaForCausalLM"],
    "runtimes": [{"name": "vllm", "command": "vllm serve {folder}"}],
}
REQUEST = {"source": "millstone-4m", "method": "spinquant", "params": {"bits": 4}}


def test_a_method_that_only_workers_have_can_be_listed_and_submitted(api, services):
    register(services, description=REMOTE)

    job = api.post("/v1/jobs", json=REQUEST)

    assert [method["name"] for method in api.get("/v1/methods").json()["items"]] == [*METHODS, "spinquant"]
    assert job.status_code == 202
    assert (job.json()["method_version"], job.json()["plan"]) == ("2.0", None)


def test_parameters_of_such_a_method_are_checked_by_its_schema(api, services):
    register(services, description=REMOTE)

    response = api.post("/v1/jobs", json={**REQUEST, "params": {"bit": 4, "groups": [1, "x"]}})

    assert response.status_code == 422
    found = {(error["pointer"], error["code"]) for error in response.json()["errors"]}
    assert found == {
        ("/params/bit", "additionalProperties"),
        ("/params/bits", "required"),
        ("/params/groups/1", "type"),
    }


def test_such_a_method_cannot_be_planned_here(api, services):
    register(services, description=REMOTE)

    response = api.post("/v1/plans", json=REQUEST)

    assert response.status_code == 422
    assert "workers" in response.json()["detail"]
