"""What an autoscaler is told of queues, with and without workers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from quantmill.api.app import create_app
from quantmill.store import workers

BEARER = {"Authorization": "Bearer a token"}
NOTHING = {"running": 0, "queued": 0, "jobs": 0}


@pytest.fixture
def services(services):
    return replace(services, settings=services.settings.model_copy(update={"autoscaling_token": SecretStr("a token")}))


@pytest.fixture
def load(api):
    def ask(queue="cpu"):
        told = api.get(f"/internal/autoscaling/{queue}", headers=BEARER).json()
        assert told.pop("queue") == queue
        return told

    return ask


@pytest.fixture
def register(services):
    def make(name, queue="cpu", **has):
        has = {"machine": {}, "methods": {"gguf": services.plugins.method("gguf").version}} | has
        with services.database.write() as tx:
            workers.register(tx, name, queue, 1, "here", versions={}, plugin_failures=[], **has)

    return make


@pytest.fixture
def end(services):
    def make(name):
        with services.database.write() as tx:
            workers.deregister(tx, name)

    return make


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer another", "a token", "Basic YSB0b2tlbg==", "B\xe9"])
def test_without_the_token_nothing_is_told(api, header):
    response = api.get(
        "/internal/autoscaling/cpu", headers={"Authorization": header.encode("latin-1")} if header else {}
    )

    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_an_installation_without_a_token_has_it_turned_off(services):
    tokenless = replace(services, settings=services.settings.model_copy(update={"autoscaling_token": None}))

    response = TestClient(create_app(tokenless)).get("/internal/autoscaling/cpu", headers={"Authorization": "Bearer "})

    assert response.status_code == 403
    assert "QUANTMILL_AUTOSCALING_TOKEN" in response.json()["detail"]


def test_jobs_that_run_or_wait_count_for_the_queue(load, register, submitted, claimed):
    register("w")
    claimed(submitted())
    submitted(seed=1)
    submitted(seed=2)

    assert load() == {"running": 1, "queued": 2, "jobs": 3}


def test_a_queue_whose_last_worker_has_gone_is_still_asked_for(load, register, end, submitted, api):
    register("w")
    end("w")
    assert load() == NOTHING

    submitted()

    assert load() == {"running": 0, "queued": 1, "jobs": 1}
    assert load("another") == NOTHING
    assert 'quantmill_queue_load{queue="cpu"} 1.0' in api.get("/metrics").text


def test_a_queue_that_never_had_a_worker_is_looked_at_once_there_is_a_job_that_nobody_can_run(
    load, register, submitted
):
    assert load("new") == NOTHING
    submitted()
    submitted(seed=1)
    assert load("new") == {"running": 0, "queued": 1, "jobs": 1}

    register("w", "new", methods={})  # its first worker says that it cannot either

    assert load("new") == NOTHING


def test_a_queue_whose_workers_had_another_version_of_the_method_is_looked_at_again(
    load, register, end, submitted, api
):
    register("w", methods={"gguf": "0.0.1"})
    end("w")

    submitted()
    assert load() == {"running": 0, "queued": 1, "jobs": 1}
    assert 'quantmill_queue_load{queue="cpu"} 1.0' in api.get("/metrics").text

    register("w", methods={"gguf": "0.0.1"})
    end("w")
    assert load() == NOTHING
    assert 'quantmill_queue_load{queue="cpu"} 0.0' in api.get("/metrics").text


def test_a_queue_whose_machines_are_too_small_is_not_started_for_nothing(load, register, end, submitted):
    register("w", memory_bytes=1000)
    end("w")

    submitted()

    assert load() == NOTHING
