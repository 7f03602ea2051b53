"""GPTQ jobs of a mixture of experts: what was found of single experts is said, and no kill changes it or a byte."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file
from tests.acceptance.jobs.test_calibrated import description, finished_blocks
from tests.random_models import RANDOM_MODELS

from quantmill.contract.errors import QuantmillError
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.jobs import JobRequest, Outcome, State
from quantmill.jobs.submit import submit

TEXT = Path(__file__).parents[2] / "data" / "text" / "calibration.txt"
BLOCKS = 2
EXPERTS = 4
PARAMS = {"bits": 4, "group_size": 32}
# 64 inputs; an expert sees some of 2 x 16 tokens
ON_TEXT = CalibrationOptions(str(TEXT), samples=2, window=16)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    model = RANDOM_MODELS["mixtral, 4 experts"]
    model = replace(model, values={**model.values, "num_hidden_layers": BLOCKS})
    return model.write(tmp_path_factory.mktemp("mixtral") / "model")


def submit_gptq(installation, source, method="gptq", calibration=ON_TEXT, **more):
    request = JobRequest(source=str(source), method=method, params={**PARAMS, **more}, calibration=calibration)
    return submit(installation.services, request)


def test_killed_after_each_block_a_mixture_becomes_the_same_artifact_with_the_same_notes(install, mixtral):
    installation = install("embedded", slots=1)
    installation.start()
    undisturbed = installation.wait(submit_gptq(installation, mixtral).id, seconds=100)
    job = submit_gptq(installation, mixtral, "paced-gptq", rest_seconds=0.5)
    for done in range(1, BLOCKS + 1):
        installation.wait(job.id, lambda _, done=done: finished_blocks(installation, job) >= done, 100)
        for runner in installation.runners():
            kill(runner)

    job = installation.wait(job.id, seconds=100)

    assert job.state is State.SUCCEEDED, job.error
    assert [attempt.outcome for attempt in job.attempts] == [*[Outcome.LOST] * BLOCKS, Outcome.SUCCEEDED]
    assert job.artifact_digest == undisturbed.artifact_digest
    first, second = description(installation, undisturbed), description(installation, job)
    assert first["notes"] == second["notes"]
    for known in ("experts", "sensitivity"):
        assert first["calibration"][known] == second["calibration"][known]
    require_what_each_expert_saw(second)


def require_what_each_expert_saw(report):
    routed = {each["module"]: each["tokens"] for each in report["calibration"]["experts"]}
    assert list(routed) == [f"model.layers.{number}.mlp.experts" for number in range(BLOCKS)]
    assert {sum(tokens) for tokens in routed.values()} == {2 * 2 * 16}  # each token goes to two experts
    noted = {each["tensor"]: each["figures"] for each in report["notes"] if each["found"] == "fewer tokens than inputs"}
    for number in range(BLOCKS):
        for expert, tokens in enumerate(routed[f"model.layers.{number}.mlp.experts"]):
            name = f"model.layers.{number}.block_sparse_moe.experts.{expert}.w1.weight"
            assert noted[name] == {"tokens": tokens, "inputs": 64}
    sensitivity = report["calibration"]["sensitivity"]
    assert sensitivity.keys() == {row["name"] for row in report["plan"]["tensors"] if row["action"] == "quantize"}
    assert all((each["by"], [*each["losses"]]) == ("hessian", ["2", "3", "4", "8"]) for each in sensitivity.values())


# What cannot be calibrated


@pytest.mark.parametrize(
    ("text", "params", "pointer", "said"),
    [
        ("", {}, "/calibration/text", "is empty; name a text"),
        (
            "a few words",
            {"group_size": 128},
            "/params/group_size",
            "128 does not divide its 64 inputs; choose another group_size",
        ),
    ],
    ids=["an empty text", "a group that does not divide a layer"],
)
def test_what_is_seen_at_once_is_refused_at_once(install, mixtral, tmp_path, text, params, pointer, said):
    (tmp_path / "text.txt").write_text(text)

    with pytest.raises(QuantmillError, match=said) as caught:
        submit_gptq(install("embedded"), mixtral, calibration=CalibrationOptions(str(tmp_path / "text.txt")), **params)

    assert caught.value.fields["errors"][0]["pointer"] == pointer


def test_what_is_found_on_the_way_ends_the_job_with_its_reason(install, mixtral, tmp_path):
    """One after the other in one installation: starting it takes longer than the jobs do."""
    installation = install("embedded", slots=1)
    installation.start()
    short, foreign = tmp_path / "short.txt", tmp_path / "foreign.txt"
    short.write_text("Ten words of text are fewer than a window takes.")
    foreign.write_text("日本語のテキストは英語の語彙にはありません。" * 50)
    beyond = tmp_path / "beyond"
    shutil.copytree(mixtral, beyond)
    weights = load_file(beyond / "model.safetensors")
    weights["model.layers.1.input_layernorm.weight"][:] = np.float32(3e38)
    save_file(weights, beyond / "model.safetensors", metadata={"format": "pt"})
    cases = [
        (mixtral, CalibrationOptions(str(short), window=128), "TextRejected", "tokens, but a window takes 128"),
        (mixtral, CalibrationOptions(str(foreign)), "TextRejected", "it does not know this language"),
        (beyond, ON_TEXT, "NonFiniteActivation", "NaN or infinite values at model.layers.1.self_attn.q_proj.weight"),
    ]

    jobs = [submit_gptq(installation, source, calibration=options) for source, options, _, _ in cases]

    for job, (_, _, kind, said) in zip(jobs, cases, strict=True):
        ended = installation.wait(job.id, seconds=100)
        assert (ended.state, ended.error["type"]) == (State.FAILED, f"/problems/{kind}")
        assert said in ended.error["detail"]


def kill(runner):
    try:
        runner.kill()
    except psutil.NoSuchProcess:
        return
