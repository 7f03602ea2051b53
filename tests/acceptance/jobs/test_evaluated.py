"""Jobs with a text or gates: what is measured of their artifacts, and what ends them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantmill.domain.escalation import Escalation
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.jobs import State
from quantmill.store import artifacts

EVALUATION_TEXT = Path(__file__).parents[2] / "data/text/evaluation.txt"


def test_an_artifact_says_on_what_it_was_measured_and_what_was_left_out(service, tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(EVALUATION_TEXT.read_text()[:4000])
    options = EvaluationOptions(window=256, stride=128, prompts=0, context=100)
    job = service.wait(service.submit("Q4_0", evaluation_text=str(text), evaluation=options).id)

    with service.services.database.read() as tx:
        artifact = artifacts.get_artifact(tx, job.artifact_digest)
        metrics = {metric.name: metric for metric in artifacts.metrics_of(tx, job.artifact_digest)}
    assert job.request.evaluation == options
    measured = json.loads(service.services.blobs.path(artifact.description.digest).read_bytes())["measured"]
    assert (measured["options"]["window"], measured["options"]["stride"]) == (256, 128)
    assert (measured["text"]["documents"], measured["text"]["languages"]) == (1, {"en": 1.0})
    assert metrics["predicted_memory"].unit == "byte at 100 tokens"
    assert "continuation_agreement" not in metrics
    assert [each["what"] for each in measured["left_out"]] == ([] if "generation_speed" in metrics else ["speed"])


@pytest.mark.parametrize(
    ("options", "said"),
    [({"tasks": ("piqa",)}, "pip install 'quantmill[lm-eval]'"), ({"device": "cuda:77"}, "'cuda:77' is not a device")],
)
def test_what_this_worker_lacks_ends_the_job_before_anything_is_quantized(service, tmp_path_factory, options, said):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(EVALUATION_TEXT.read_text()[:4000])
    asked = EvaluationOptions(**options)
    job = service.wait(service.submit("Q4_0", evaluation_text=str(text), evaluation=asked).id)

    assert (job.state, job.error["kind"]) == (State.FAILED, "user")
    assert said in job.error["detail"]
    assert job.source_digest is None  # it was not even read


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"too short", "a window takes 512"), (b"caf\xe9 " * 999, "is not UTF-8: byte 3"), (b"\n" * 99, "is empty")],
    ids=["shorter than a window", "another encoding", "white space"],
)
def test_a_text_that_cannot_be_evaluated_ends_the_job_before_anything_is_quantized(
    service, tmp_path_factory, content, said
):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_bytes(content)
    job = service.wait(service.submit("Q4_0", evaluation_text=str(text)).id)

    assert (job.state, job.error["kind"]) == (State.FAILED, "data")
    assert said in job.error["detail"]
    assert job.source_digest is None


def test_an_artifact_that_misses_a_gate_is_not_published_and_what_was_measured_is_kept(service, tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(EVALUATION_TEXT.read_text()[:4000])
    gates = ("size_mb <= 9", "kld.mean <= 0.0001")
    job = service.wait(service.submit("Q5_0", evaluation_text=str(text), gates=gates).id)

    assert job.state is State.FAILED
    assert (job.error["kind"], job.error["type"]) == ("policy", "/problems/GateFailed")
    assert [gate.passed for gate in job.gates] == [True, False]
    assert job.gates[1].observed > 0.0001
    assert {"kld_mean", "perplexity", "size"} <= {metric["name"] for metric in job.error["metrics"]}
    assert service.events(job.id)[-1].payload["error"] == job.error
    with service.services.database.read() as tx:
        published = artifacts.list_artifacts(tx, after=None, limit=10)
    assert "model-Q5_0.gguf" not in {file.path for artifact in published for file in artifact.files}


@pytest.mark.parametrize(
    ("budget", "tried"),
    [
        (Escalation(2), ["Q4_0", "Q4_K_M"]),
        (Escalation(5, size_mb=3.3), ["Q4_0", "Q4_K_M", "Q5_K_M"]),
    ],
)
def test_a_job_that_used_up_its_budget_fails_with_all_that_was_tried(service, budget, tried):
    job = service.wait(service.submit("Q4_0", gates=("rmse <= 0.001",), escalation=budget).id)

    assert job.state is State.FAILED
    assert job.error["type"] == "/problems/GateFailed"
    assert [step["params"]["type"] for step in job.error["steps"]] == tried
    assert job.gates[0].observed > 0.001


def test_a_gate_that_a_larger_artifact_cannot_meet_is_not_escalated(service):
    job = service.wait(service.submit("Q4_0", gates=("size_mb <= 1",), escalation=Escalation(5)).id)

    assert (job.state, job.steps) == (State.FAILED, ())
