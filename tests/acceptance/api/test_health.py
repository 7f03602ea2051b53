"""Probes, metrics and the table of workers."""

from __future__ import annotations

from starlette.testclient import TestClient

from quantmill.api.app import create_app
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import methods, workers


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


def test_metrics_count_jobs_by_state(api, submitted):
    submitted()
    submitted(seed=1)

    response = api.get("/metrics")

    assert response.headers["Content-Type"].startswith("text/plain")
    assert 'quantmill_jobs{state="queued"} 2.0' in response.text
    assert 'quantmill_jobs{state="failed"} 0.0' in response.text
    assert 'quantmill_build_info{version="' in response.text


def register(services, name="gpu-1", description=None):
    with services.database.write() as tx:
        workers.register(
            tx,
            name,
            queue="gpu",
            slots=2,
            host="node-7",
            versions={"quantmill": "0.1.0"},
            plugin_failures=[{"name": "broken", "reason": "ImportError: no torch"}],
        )
        if description:
            methods.publish_methods(tx, name, [description])


def test_workers_are_listed_with_what_failed_to_load_there(api, services):
    register(services)

    (worker,) = api.get("/v1/workers").json()["items"]

    assert (worker["name"], worker["queue"], worker["slots"]) == ("gpu-1", "gpu", 2)
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

    assert [method["name"] for method in api.get("/v1/methods").json()["items"]] == [
        "awq",
        "bnb",
        "fp8",
        "gguf",
        "gptq",
        "hqq",
        "onnx",
        "repack",
        "spinquant",
    ]
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
