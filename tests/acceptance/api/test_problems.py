"""Every failure is a problem document, whoever found it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantmill.api.app import LARGEST_BODY_BYTES
from quantmill.api.problems import STATUS, status_of
from quantmill.contract import errors
from quantmill.contract.errors import QuantmillError

REQUEST = {"source": "millstone-4m", "method": "gguf", "params": {"type": "Q4_K_M"}}


def problem_of(response, status):
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    return problem


def test_an_unknown_path_is_a_problem(api):
    assert problem_of(api.get("/v2/jobs"), 404)["instance"] == "/v2/jobs"


def test_a_wrong_verb_is_a_problem_that_names_the_right_ones(api):
    response = api.put("/v1/jobs")

    assert problem_of(response, 405)["title"] == "Method Not Allowed"
    assert response.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b'{"a":1}{"b":2}'])
def test_a_body_that_is_not_json_is_a_problem(api, body):
    response = api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code in (400, 422)
    problem_of(response, response.status_code)


@pytest.mark.parametrize("body", ["null", "[]", "1", '"text"'])
def test_json_that_is_not_an_object_is_a_problem(api, body):
    response = api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert problem_of(response, 422)["errors"]


def test_a_form_is_not_taken_for_json(api):
    problem_of(api.post("/v1/jobs", data={"source": "millstone-4m"}), 422)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"source": None}, "/source"),
        ({"source": ""}, "/source"),
        ({"source": ["a"]}, "/source"),
        ({"source": "x" * 5000}, "/source"),
        ({"source": "a\0b"}, "/source"),
        ({"method": 7}, "/method"),
        ({"params": []}, "/params"),
        ({"seed": -1}, "/seed"),
        ({"seed": 2**53}, "/seed"),
        ({"seed": 1.5}, "/seed"),
        ({"timeout_seconds": 0}, "/timeout_seconds"),
        ({"labels": {"team": 1}}, "/labels/team"),
        ({"labels": {f"label-{n}": "x" for n in range(33)}}, "/labels"),
        ({"surprise": 1}, "/surprise"),
    ],
)
def test_a_wrong_field_is_pointed_at(api, change, pointer):
    problem = problem_of(api.post("/v1/jobs", json={**REQUEST, **change}), 422)

    assert [error["pointer"] for error in problem["errors"]] == [pointer]


HOSTILE_PARAMS = {
    "NaN": '{"type": NaN}',
    "infinity": '{"type": [1e999]}',
    "integer without exact value": '{"type": 9007199254740993}',
    "NUL": '{"type": "a\\u0000b"}',
    "NUL in a key": '{"a\\u0000b": 1}',
    "half a surrogate pair": '{"type": "\\ud800"}',
    "half a surrogate pair in a key": '{"\\udfff": 1}',
    "deep": '{"type": ' + "[" * 60 + "]" * 60 + "}",
    "deeper": '{"type": ' + "[" * 900 + "]" * 900 + "}",
}


@pytest.mark.parametrize("params", HOSTILE_PARAMS.values(), ids=HOSTILE_PARAMS.keys())
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
def test_json_without_a_canonical_form_is_a_problem(api, path, params):
    body = f'{{"source": "millstone-4m", "method": "gguf", "params": {params}}}'

    problem_of(api.post(path, content=body, headers={"Content-Type": "application/json"}), 422)


@pytest.mark.parametrize("field", ["source", "method", "evaluation_text"])
def test_half_a_surrogate_pair_is_a_problem_in_every_text(api, field):
    body = json.dumps({**REQUEST, field: "\ud800"})

    problem_of(api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 422)


def test_a_huge_body_is_not_read_to_its_end(api):
    body = json.dumps({**REQUEST, "params": {"type": "x" * LARGEST_BODY_BYTES}})

    assert (
        "1000000"
        in problem_of(api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 413)["detail"]
    )


def test_a_huge_body_without_a_length_is_not_read_to_its_end(api):
    def chunks():
        for _ in range(40):
            yield b" " * 65_536

    problem_of(api.post("/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"}), 413)


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/v1/jobs?page_size=0", "page_size"),
        ("/v1/jobs?page_size=201", "page_size"),
        ("/v1/jobs?state=sleeping", "state"),
        ("/v1/jobs?label=team", "label"),
        ("/v1/jobs?label=%3Dsearch", "label"),
        ("/v1/jobs?method=a%00b", "method"),
        ("/v1/artifacts?page_size=many", "page_size"),
        ("/v1/artifacts/sha256:12", "digest"),
        ("/v1/artifacts/" + "sha256:" + "0" * 64 + "/lineage?direction=sideways", "direction"),
        ("/v1/artifacts/" + "sha256:" + "0" * 64 + "/lineage?depth=101", "depth"),
    ],
)
def test_a_wrong_parameter_is_named(api, path, parameter):
    problem = problem_of(api.get(path), 422)

    assert [error["parameter"] for error in problem["errors"]] == [parameter]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "ключ".encode()])
def test_an_idempotency_key_that_is_no_token_is_a_problem(api, key):
    response = api.post("/v1/jobs", json=REQUEST, headers={"Idempotency-Key": key})

    assert [error["parameter"] for error in problem_of(response, 422)["errors"]] == ["idempotency-key"]


def test_an_unexpected_error_tells_nothing_of_the_inside(api, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr("quantmill.jobs.inspect.get_job", broken)

    response = api.get("/v1/jobs/01a200a2-89e7-7966-9a12-2eb7dec128b0")

    assert problem_of(response, 500)["type"] == "about:blank"
    assert "hunter2" not in response.text


def test_a_database_that_does_not_answer_is_said_without_naming_it(api, services):
    services.database.dispose()
    path = Path(services.settings.database.removeprefix("sqlite:///"))
    for file in path.parent.glob("quantmill.sqlite*"):
        file.unlink()
    path.mkdir()

    response = api.get("/v1/jobs")

    assert problem_of(response, 503)["type"] == "/problems/DatabaseUnavailable"
    assert response.headers["Retry-After"] == "5"
    assert str(path) not in response.text
    assert api.get("/readyz").status_code == 503
    assert api.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.NotFound, 404),
        (errors.UnknownMethod, 422),
        (errors.IllegalTransition, 409),
        (errors.IdempotencyMismatch, 422),
        (errors.ArchitectureUnsupported, 422),
        (errors.PolicyRefused, 403),
        (errors.ResourceExhausted, 507),
        (errors.VerificationFailed, 500),
        (errors.ArtifactDamaged, 500),
    ],
)
def test_an_errors_nearest_class_decides_its_status(kind, status):
    assert status_of(kind("something")) == status


def test_every_error_has_a_status():
    assert QuantmillError in STATUS
    assert all(400 <= status <= 599 for status in STATUS.values())
