"""The published schema: a golden file in the repository, and an API that keeps to it whatever is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

GOLDEN = Path(__file__).parents[3] / "service" / "openapi.json"
EXAMPLES = 15  # of each operation
OPERATIONS = {
    (path, method.upper()): operation
    for path, methods in json.loads(GOLDEN.read_text())["paths"].items()
    for method, operation in methods.items()
}
IDS = [f"{method} {path}" for path, method in OPERATIONS]


def test_the_golden_schema_is_current(api):
    assert api.get("/openapi.json").json() == json.loads(GOLDEN.read_text()), (
        "run: python -m quantmill.api > service/openapi.json"
    )


@pytest.mark.parametrize("operation", list(OPERATIONS.values()), ids=IDS)
def test_an_operation_has_a_stable_name_a_summary_and_problems(operation):
    assert operation["operationId"].isidentifier()
    assert operation["summary"]
    assert list(operation["responses"]["default"]["content"]) == ["application/problem+json"]


def test_bodies_have_examples_and_refuse_unknown_keys():
    schemas = json.loads(GOLDEN.read_text())["components"]["schemas"]

    for name in ("SubmitJob", "SubmitPlan", "SubmitComparison"):
        assert schemas[name]["examples"]
        assert schemas[name]["additionalProperties"] is False


@pytest.fixture
def openapi(api, submitted):
    """The schema of a running app that has a job to be found."""
    submitted()
    return schemathesis.openapi.from_asgi("/openapi.json", api.app)


def failures_are_problems(ctx, response, case):
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"]
        assert response.json()["status"] == response.status_code


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    failures_are_problems,
]


@pytest.mark.parametrize(("path", "method"), list(OPERATIONS), ids=IDS)
def test_whatever_is_sent_the_answer_keeps_to_the_schema(openapi, path, method):
    operation = openapi[path][method]

    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def send(case):
        if path.endswith(":wait"):
            case.query = {**(case.query or {}), "timeout": 0}
        case.call_and_validate(checks=CHECKS)

    send()
