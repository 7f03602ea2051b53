"""What an artifact costs to run: predicted by the matcher's rules, or measured in the runtime itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.tensors import ModelIndex
from quantmill.evaluation import LeftOut, Timed, footprint, predicted_memory, time_artifact
from quantmill.hardware.memory import Load, memory_of
from quantmill.hardware.models import Weights, shape_of
from quantmill.hardware.runtimes import RUNTIMES


@pytest.fixture
def index(millstone: Path) -> ModelIndex:
    with open_checkpoint(millstone) as checkpoint:
        return checkpoint.index


@pytest.fixture
def answering(tmp_path: Path) -> Any:
    """An interpreter that does what this shell script says, with the errand as $2 and the answer's place as $3."""

    def make(script: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def test_memory_is_weights_and_kv_cache_and_activations(index: ModelIndex) -> None:
    found = predicted_memory(index, 3_000_000, ["llama.cpp"], context=256)

    kv = 2 * 2 * 64 * 4 * 256 * 2  # keys and values, heads, head size, layers, tokens, bytes
    shape = shape_of(index.config, index)
    by_the_matcher = memory_of(
        shape, Weights(3_000_000, 0, 1.0, exact=True), RUNTIMES["llama.cpp"], Load(256), unpacked=False
    )
    assert found.value == 3_000_000 + kv + by_the_matcher.activations
    assert found.unit == "byte at 256 tokens"


def test_without_a_context_memory_is_for_the_model_s_own(index: ModelIndex) -> None:
    assert predicted_memory(index, 1, ["llama.cpp"]).unit == "byte at 512 tokens"


def test_a_runtime_that_is_not_installed_is_named_and_nothing_is_guessed(millstone: Path) -> None:
    found = time_artifact(millstone, ["llama.cpp", "transformers"], [1, 2, 3], nbytes=1)

    assert found == LeftOut("speed", "llama_cpp is not installed here")


def test_a_runtime_that_nothing_times_is_said(millstone: Path) -> None:
    found = time_artifact(millstone, ["vllm"], [1], nbytes=1)

    assert found == LeftOut("speed", "nothing here times vllm")


def test_what_does_not_fit_is_not_loaded(millstone: Path) -> None:
    found = time_artifact(millstone, ["transformers"], [1], nbytes=2_000_000, memory_bytes=1_000_000)

    assert found == LeftOut("speed", "its weights take 2.0 MB, and 1.0 MB may be taken")


def test_transformers_loads_reads_and_writes(millstone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "CHUNK_TOKENS", 2)
    found = time_artifact(millstone, ["vllm", "transformers"], list(range(100, 140)), nbytes=1)

    assert isinstance(found, Timed)
    assert found.version.startswith("transformers 5")
    metrics = {metric.name: metric for metric in found.metrics()}
    assert list(metrics) == ["load_seconds", "prompt_speed", "generation_speed", "measured_memory"]
    assert metrics["prompt_speed"].n == 40
    assert metrics["generation_speed"].n == 2 * len(found.chunk_seconds)
    assert metrics["generation_speed"].unit == "token/s in transformers"
    assert metrics["measured_memory"].value > 50e6
    speed = metrics["generation_speed"]
    assert speed.ci_low is not None
    assert speed.ci_high is not None
    assert 0 < speed.ci_low <= speed.value <= speed.ci_high


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -ILL $$", "llama.cpp was ended by SIGILL"),
        ("exit 7", "llama.cpp ended with 7"),
        ("""echo '{"failed": "ValueError: no"}' > $3; exit 1""", "llama.cpp: ValueError: no"),
        ("sleep 60", "llama.cpp took longer than 0.2 seconds"),
    ],
)
def test_a_runtime_that_dies_is_a_reason(
    answering: Any, millstone: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setattr(footprint, "TIMEOUT_SECONDS", 0.2 if "sleep" in script else 60)

    assert time_artifact(millstone, ["llama.cpp"], [1], nbytes=1, python=answering(script)) == LeftOut("speed", reason)


def test_a_runtime_that_dies_is_tried_again_without_what_may_have_killed_it(answering: Any, millstone: Path) -> None:
    answer = (
        '{"version": "x 1", "load_seconds": 1, "prompt_seconds": 2, "chunk_seconds": [4, 4], "peak_memory_bytes": null}'
    )
    python = answering(f"""grep -q '"careful": false' $2 && kill -ILL $$; echo '{answer}' > $3""")

    found = time_artifact(millstone, ["llama.cpp"], [1, 2], nbytes=1, python=python)

    assert isinstance(found, Timed)
    assert [(metric.name, metric.value) for metric in found.metrics()] == [
        ("load_seconds", 1),
        ("prompt_speed", 1.0),
        ("generation_speed", 8.0),
    ]
    assert os.access(python, os.X_OK)
