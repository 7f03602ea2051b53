"""What becomes of a job: one suite, passed by the embedded loop and by Celery workers alike."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from quantmill.contract.errors import IllegalTransition
from quantmill.domain.escalation import Escalation
from quantmill.domain.jobs import Outcome, Phase, State
from quantmill.jobs.cancel import cancel
from quantmill.store import artifacts

EVALUATION_TEXT = Path(__file__).parents[2] / "data/text/evaluation.txt"


def quantizing(job):
    return job.state is State.RUNNING and job.phase is Phase.QUANTIZE and job.progress is not None


def test_a_job_ends_in_a_verified_artifact(installation):
    job = installation.wait(installation.submit().id)

    assert job.state is State.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == [Outcome.SUCCEEDED]
    with installation.services.database.read() as tx:
        artifact = artifacts.get_artifact(tx, job.artifact_digest)
    assert [file.path for file in artifact.files] == ["Modelfile", "README.md", "model-Q4_K_M.gguf"]
    for file in (*artifact.files, artifact.description):
        installation.services.blobs.verify(file.digest)


def test_a_job_with_a_text_says_what_was_lost_and_the_next_one_need_not_run_the_source(installation, tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(EVALUATION_TEXT.read_text()[:4000])

    found = []
    for type_ in ("Q8_0", "Q4_0"):
        job = installation.wait(installation.submit(type_, evaluation_text=str(text)).id)
        with installation.services.database.read() as tx:
            metrics = artifacts.metrics_of(tx, job.artifact_digest)
        found.append({(metric.subject, metric.name): metric for metric in metrics})
    finer, coarser = found

    assert finer["artifact", "kld_mean"].value < coarser["artifact", "kld_mean"].value
    assert finer["source", "perplexity"] == coarser["source", "perplexity"]
    perplexity = coarser["artifact", "perplexity"]
    assert perplexity.ci_low < perplexity.value < perplexity.ci_high
    assert (perplexity.unit, perplexity.n) == ("per token", 2 * 511)
    assert finer["artifact", "continuation_agreement"].value >= coarser["artifact", "continuation_agreement"].value
    assert coarser["artifact", "continuation_agreement"].n <= 2 * 160
    kept = len(list(installation.settings.evaluation_cache_dir.iterdir()))
    assert kept == 2  # the hidden states, and what the source writes


def test_an_artifact_that_meets_its_gates_is_published_with_what_was_observed(installation):
    job = installation.wait(installation.submit("Q8_0", gates=("size_mb <= 9", "rmse < 0.01")).id)

    assert job.state is State.SUCCEEDED
    assert [gate.passed for gate in job.gates] == [True, True]
    assert job.gates[0].observed == pytest.approx(4.6, abs=0.5)


def test_a_job_that_misses_its_gates_goes_on_with_the_next_larger_type_until_they_are_met(installation):
    job = installation.submit("Q4_0", gates=("rmse <= 0.03",), escalation=Escalation(5))

    job = installation.wait(job.id)

    assert job.state is State.SUCCEEDED
    assert [step.params["type"] for step in job.steps] == ["Q4_0", "Q4_K_M"]
    assert job.request.params["type"] == "Q5_K_M"
    assert [gate.passed for gate in job.gates] == [True]
    escalated = [event for event in installation.events(job.id) if event.type == "job.escalated"]
    assert [event.payload["next"]["type"] for event in escalated] == ["Q4_K_M", "Q5_K_M"]
    with installation.services.database.read() as tx:
        artifact = artifacts.get_artifact(tx, job.artifact_digest)
        (step,) = artifacts.lineage(tx, job.artifact_digest)
    assert [file.path for file in artifact.files] == ["Modelfile", "README.md", "model-Q5_K_M.gguf"]
    assert step.params["type"] == "Q5_K_M"
    description = json.loads(installation.services.blobs.path(artifact.description.digest).read_bytes())
    assert [each["params"]["type"] for each in description["steps"]] == ["Q4_0", "Q4_K_M"]


def test_nothing_stays_behind_after_a_job(installation):
    job = installation.wait(installation.submit().id)
    time.sleep(0.5)

    assert list(installation.settings.staging_dir.iterdir()) == [], job
    assert installation.runners() == []


def test_a_running_job_is_canceled_and_its_runner_ends(installation):
    job = installation.wait(installation.submit_slow().id, quantizing)

    cancel(installation.services, job.id)
    job = installation.wait(job.id, seconds=10)

    assert job.state is State.CANCELED
    assert job.artifact_digest is None
    assert [attempt.outcome for attempt in job.attempts] == [Outcome.CANCELED]
    time.sleep(0.5)
    assert installation.runners() == []


def test_a_runner_that_does_not_listen_is_killed(installation):
    job = installation.wait(installation.submit_slow().id, quantizing)
    for runner in installation.runners():
        runner.suspend()

    cancel(installation.services, job.id)

    assert installation.wait(job.id, seconds=15).state is State.CANCELED
    assert installation.runners() == []


def test_a_source_with_nan_fails_its_job_by_name_and_publishes_nothing(installation, model_with_nan):
    before = len(published(installation))
    job = installation.wait(installation.submit(source=model_with_nan).id)

    assert job.state is State.FAILED
    assert job.error["kind"] == "data", job.error
    assert job.error["tensor"] == "model.layers.2.mlp.up_proj.weight"
    assert job.error["position"] == [5, 3]
    assert job.artifact_digest is None
    assert len(published(installation)) == before


def published(installation):
    with installation.services.database.read() as tx:
        return artifacts.list_artifacts(tx, after=None, limit=100)


def test_a_finished_job_cannot_be_canceled(installation):
    job = installation.wait(installation.submit("Q8_0").id)

    with pytest.raises(IllegalTransition, match="succeeded"):
        cancel(installation.services, job.id)
