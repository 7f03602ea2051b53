"""What models write after the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.evaluation.test_evaluate import noisy
from transformers import AutoModelForCausalLM

from quantmill.calibration import source_weights, windows_of
from quantmill.calibration.tokens import Windows
from quantmill.checkpoints import open_checkpoint
from quantmill.checkpoints.folder import Checkpoint
from quantmill.evaluation import Continuations, LeftOut, SourceCache, continuation, continuations

SHORT = 24  # tokens that most tests let a model write
COUNTED = np.ones((3, 4), np.bool_)


@pytest.fixture
def source(millstone: Path) -> Iterator[Checkpoint]:
    with open_checkpoint(millstone) as checkpoint:
        yield checkpoint


@pytest.fixture
def windows(source: Checkpoint, evaluation_text: str) -> Windows:
    return windows_of(source.index, evaluation_text[:20_000])


@pytest.fixture(autouse=True)
def length(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "LENGTH", getattr(request, "param", SHORT))


def measured(source: list[list[int]], artifact: list[list[int]], counted: np.ndarray = COUNTED) -> dict[str, float]:
    found = Continuations(np.array(source), np.array(artifact), counted, 0.0)
    return {metric.name: metric.value for metric in found.metrics()}


def test_both_models_write_what_transformers_generates(millstone: Path, source: Checkpoint, windows: Windows) -> None:
    found = continuations(source, noisy(source), windows, prompts=3)

    assert isinstance(found, Continuations)
    prompts = torch.from_numpy(windows.ids[[0, 4, 9], :64])
    values = {name: torch.from_numpy(array) for name, array in noisy(source)(source.index.tensors)}
    for changed, written in ((False, found.source), (True, found.artifact)):
        model = AutoModelForCausalLM.from_pretrained(millstone, dtype=torch.float32)
        if changed:
            model.load_state_dict(values, strict=False)
        expected = model.generate(prompts, max_new_tokens=SHORT, do_sample=False, eos_token_id=-1, pad_token_id=0)
        np.testing.assert_array_equal(written, expected[:, 64:].numpy())


@pytest.mark.parametrize("length", [continuation.LENGTH], indirect=True)
def test_they_go_on_past_128_tokens(source: Checkpoint, windows: Windows) -> None:
    found = continuations(source, source_weights(source), windows, prompts=2)

    assert isinstance(found, Continuations)
    assert found.source.shape == (2, 160)
    assert {metric.name: metric.value for metric in found.metrics()} == {
        "continuation_agreement": 1.0,
        "continuation_divergence": found.counted.sum() / 2,
        "continuation_identical": 1.0,
    }


def test_more_noise_leaves_the_source_s_path_earlier(source: Checkpoint, windows: Windows) -> None:
    little, much = (continuations(source, noisy(source, share), windows, prompts=4) for share in (0.02, 0.4))

    assert isinstance(little, Continuations)
    assert isinstance(much, Continuations)
    assert little.until_apart.mean() > much.until_apart.mean()
    assert little.same.sum() > much.same.sum()


def test_agreement_is_by_place_and_divergence_the_first_that_differs() -> None:
    found = measured([[1, 2, 3, 4], [1, 2, 3, 4], [9, 9, 9, 9]], [[1, 2, 9, 4], [1, 2, 3, 4], [1, 9, 9, 9]])

    assert found == {
        "continuation_agreement": pytest.approx(10 / 12),
        "continuation_divergence": pytest.approx((2 + 4 + 0) / 3),
        "continuation_identical": pytest.approx(1 / 3),
    }


def test_nothing_counts_after_the_source_s_end_of_text() -> None:
    counted = np.array([[True, True, False, False]])

    assert measured([[1, 0, 7, 7]], [[1, 0, 8, 8]], counted) == {
        "continuation_agreement": 1.0,
        "continuation_divergence": 2.0,
        "continuation_identical": 1.0,
    }


def test_the_end_of_text_is_config_json_s(make_model: Callable[..., Path]) -> None:
    with open_checkpoint(make_model(eos_token_id=[3, 5], max_position_embeddings=64)) as checkpoint:
        found = continuations(
            checkpoint, source_weights(checkpoint), windows_of(checkpoint.index, "abcdefgh" * 20), prompts=4
        )

    assert isinstance(found, Continuations)
    for row, counted in zip(found.source, found.counted, strict=True):
        ends = [place for place, token in enumerate(row) if token in (3, 5)]
        assert counted.sum() == (ends[0] + 1 if ends else len(row))


def test_every_metric_has_a_unit_a_number_and_an_interval(source: Checkpoint, windows: Windows) -> None:
    found = continuations(source, noisy(source), windows, prompts=4)

    assert isinstance(found, Continuations)
    for metric in found.metrics():
        assert metric.unit
        assert metric.n
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low <= metric.value <= metric.ci_high


def test_a_model_that_takes_few_tokens_writes_fewer(make_model: Callable[..., Path]) -> None:
    with open_checkpoint(make_model()) as checkpoint:
        found = continuations(checkpoint, source_weights(checkpoint), windows_of(checkpoint.index, "abcdefgh" * 9))

    assert isinstance(found, Continuations)
    assert found.source.shape == (4, 12)


def test_a_model_that_does_not_fit_is_left_out_with_the_reason(source: Checkpoint, windows: Windows) -> None:
    found = continuations(source, source_weights(source), windows, memory_bytes=1 << 20)

    assert isinstance(found, LeftOut)
    assert "1.0 MB may be taken" in found.reason


def test_the_source_writes_once_for_a_text(source: Checkpoint, windows: Windows, tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, "sha256:1", 1 << 20)
    seen: list[tuple[int, int]] = []

    first = continuations(source, noisy(source), windows, prompts=2, cache=cache)
    (entry,) = tmp_path.iterdir()
    written = entry.stat().st_mtime_ns
    second = continuations(source, noisy(source), windows, prompts=2, cache=cache, progress=lambda *at: seen.append(at))

    assert isinstance(first, Continuations)
    assert isinstance(second, Continuations)
    np.testing.assert_array_equal(first.source, second.source)
    assert entry.stat().st_mtime_ns > written  # used, not made again
    assert seen[0] == (SHORT, 2 * SHORT)
    assert seen[-1] == (2 * SHORT, 2 * SHORT)
