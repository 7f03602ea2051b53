"""What an evaluation says of a model beside its source."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from quantmill.calibration import Weights, source_weights, tokenize
from quantmill.checkpoints import open_checkpoint
from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.errors import ArchitectureUnsupported
from quantmill.contract.tensors import FloatArray
from quantmill.domain.artifacts import Metric
from quantmill.evaluation import Evaluation, SourceCache, evaluate, metrics_of, perplexity
from quantmill.evaluation.intervals import Bootstrap

CHARACTERS = 6000  # three windows


def noisy(checkpoint: Checkpoint, share: float = 0.1) -> Weights:
    """The checkpoint's weights, each tensor with noise of this share of its size."""
    stored = source_weights(checkpoint)

    def read(names: Collection[str]) -> Iterator[tuple[str, FloatArray]]:
        for name, values in stored(names):
            noise = np.random.default_rng(len(name)).standard_normal(values.shape).astype(np.float32)
            yield name, values + np.float32(share * values.std()) * noise

    return read


@pytest.fixture
def source(millstone: Path) -> Iterator[Checkpoint]:
    with open_checkpoint(millstone) as checkpoint:
        yield checkpoint


@pytest.fixture
def text(evaluation_text: str) -> str:
    return evaluation_text[:CHARACTERS]


def named(evaluation: Evaluation) -> dict[tuple[str, str], Metric]:
    return {(metric.subject, metric.name): metric for metric in metrics_of(evaluation)}


def test_a_plain_loop_over_the_whole_models_measures_the_same(millstone: Path, source: Checkpoint, text: str) -> None:
    evaluation = evaluate(source, noisy(source), text, threads=2)
    metrics = {name: metric.value for name, metric in named(evaluation).items()}

    reference = AutoModelForCausalLM.from_pretrained(millstone, dtype=torch.float32)
    changed = AutoModelForCausalLM.from_pretrained(millstone, dtype=torch.float32)
    values = dict(noisy(source)(source.index.tensors))
    changed.load_state_dict({name: torch.from_numpy(array) for name, array in values.items()}, strict=False)
    ids = torch.from_numpy(evaluation.windows.ids)
    with torch.inference_mode():
        logs = [model(ids).logits[:, :-1].double().log_softmax(-1) for model in (reference, changed)]
    following = ids[:, 1:]
    nll = [-log.gather(2, following[..., None])[..., 0] for log in logs]
    kld = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    tops = [log.argmax(-1) for log in logs]
    expected = {
        ("source", "perplexity"): nll[0].mean().exp(),
        ("artifact", "perplexity"): nll[1].mean().exp(),
        ("artifact", "perplexity_llama_cpp"): nll[1][:, 256:].mean().exp(),
        ("artifact", "perplexity_ratio"): (nll[1].mean() - nll[0].mean()).exp(),
        ("source", "word_perplexity"): (nll[0].sum() / evaluation.windows.words.sum()).exp(),
        ("artifact", "kld_mean"): kld.mean(),
        ("artifact", "kld_median"): kld.flatten().quantile(0.5),
        ("artifact", "kld_p99"): kld.flatten().quantile(0.99),
        ("artifact", "kld_max"): kld.max(),
        ("artifact", "top1_agreement"): (tops[0] == tops[1]).double().mean(),
        ("artifact", "top5_agreement"): (logs[0].topk(5).indices == tops[1][..., None]).any(-1).double().mean(),
        ("artifact", "flips"): ((tops[0] == following) != (tops[1] == following)).double().mean(),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )


def test_the_error_of_each_block_is_that_of_its_output(millstone: Path, source: Checkpoint, text: str) -> None:
    evaluation = evaluate(source, noisy(source), text, threads=2)

    reference = AutoModelForCausalLM.from_pretrained(millstone, dtype=torch.float32)
    changed = AutoModelForCausalLM.from_pretrained(millstone, dtype=torch.float32)
    values = dict(noisy(source)(source.index.tensors))
    changed.load_state_dict({name: torch.from_numpy(array) for name, array in values.items()}, strict=False)
    ids = torch.from_numpy(evaluation.windows.ids)
    with torch.inference_mode():
        wanted, found = (model(ids, output_hidden_states=True).hidden_states[2] for model in (reference, changed))
    second = evaluation.blocks[1]
    assert (second.block, len(evaluation.blocks)) == ("model.layers.1", 4)
    assert second.relative == pytest.approx(((found - wanted).norm() / wanted.norm()).item(), rel=1e-3)
    assert second.cosine == pytest.approx(torch.cosine_similarity(found, wanted, dim=-1).mean().item(), rel=1e-4)


def test_a_model_beside_itself_has_lost_nothing(source: Checkpoint, text: str) -> None:
    metrics = named(evaluate(source, source_weights(source), text, threads=2))

    shown = {name: metrics["artifact", name].value for name in ("perplexity_ratio", "retention", "kld_max", "flips")}
    assert shown == {"perplexity_ratio": 1.0, "retention": 100.0, "kld_max": 0.0, "flips": 0.0}
    assert metrics["artifact", "top1_agreement"].value == 1.0
    assert metrics["model.layers.3", "output_error"].value == 0.0


def test_more_noise_loses_more(source: Checkpoint, text: str) -> None:
    little, much = (named(evaluate(source, noisy(source, share), text, threads=2)) for share in (0.05, 0.2))

    for name in ("perplexity_ratio", "kld_mean", "kld_median", "kld_p99", "flips"):
        assert little["artifact", name].value < much["artifact", name].value
    for name in ("retention", "top1_agreement", "top5_agreement"):
        assert little["artifact", name].value > much["artifact", name].value


def test_every_metric_says_its_unit_its_tokens_and_which_way_is_better(source: Checkpoint, text: str) -> None:
    for metric in metrics_of(evaluate(source, noisy(source), text, threads=2)):
        assert metric.n
        if metric.name != "evaluation_seconds":
            assert metric.higher_is_better is not None
        if metric.ci_low is not None and metric.ci_high is not None:
            assert metric.ci_low <= metric.value <= metric.ci_high, metric


def test_perplexity_alone_is_that_of_the_comparison(source: Checkpoint, text: str) -> None:
    alone = perplexity(source, noisy(source), text, threads=2)
    beside = named(evaluate(source, noisy(source), text, threads=2))["artifact", "perplexity"]

    assert beside.value == pytest.approx(alone.perplexity, rel=1e-6)
    assert beside.n == alone.tokens == 3 * 511


def test_perplexity_per_word_counts_the_words_of_the_text(source: Checkpoint, text: str) -> None:
    evaluation = evaluate(source, source_weights(source), text, threads=2)
    metrics = named(evaluation)

    tokens, words = metrics["source", "perplexity"], metrics["source", "word_perplexity"]
    assert words.n is not None
    assert tokens.n is not None
    assert math.log(words.value) * words.n == pytest.approx(math.log(tokens.value) * tokens.n)
    covered = int(len(text.split()) * evaluation.windows.ids.size / len(tokenize(source.index, text).ids))
    assert words.n == pytest.approx(covered, rel=0.02)
    assert words.unit == "per word"


def test_with_a_stride_the_convention_of_llama_cpp_is_left_out(source: Checkpoint, text: str) -> None:
    metrics = named(evaluate(source, noisy(source), text, window=64, stride=32, threads=2))

    assert ("source", "perplexity_llama_cpp") not in metrics
    assert ("source", "perplexity") in metrics


def test_a_longer_context_predicts_better(source: Checkpoint, text: str) -> None:
    apart = perplexity(source, source_weights(source), text, window=64, threads=2)
    overlapping = perplexity(source, source_weights(source), text, window=64, stride=16, threads=2)

    assert overlapping.perplexity < apart.perplexity
    assert overlapping.tokens == 63 + 16 * (overlapping.windows - 1)


def test_a_model_that_says_nan_is_refused(make_model: Callable[..., Path], weights: dict[str, np.ndarray]) -> None:
    broken = {**weights, "model.norm.weight": np.full(8, np.nan, np.float32)}
    with open_checkpoint(make_model()) as checkpoint, pytest.raises(ArchitectureUnsupported, match="NaN or infinite"):
        evaluate(checkpoint, lambda names: ((name, broken[name]) for name in names if name in broken), "abcdefgh" * 9)


# Intervals


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        values = rng.standard_normal((40, 1)) + 0.5 * rng.standard_normal((40, 10))
        low, high = Bootstrap.over(40).of_mean(values, np.ones((40, 10), bool)) or (math.nan, math.nan)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_an_interval_is_the_same_each_time() -> None:
    values = np.random.default_rng(0).random((9, 4))

    assert Bootstrap.over(9).of_mean(values, values > 0.2) == Bootstrap.over(9).of_mean(values, values > 0.2)


def test_one_window_has_no_interval() -> None:
    assert Bootstrap.over(1).of_mean(np.ones((1, 4)), np.ones((1, 4), bool)) is None


def test_a_quantile_s_interval_holds_it() -> None:
    values = np.random.default_rng(0).random((50, 20)).astype(np.float32)

    low, high = Bootstrap.over(50).of_quantile(values, np.ones((50, 20), bool), 0.5) or (math.nan, math.nan)

    assert 0.44 < low < float(np.median(values)) < high < 0.56


# The cache


def cached(source: Checkpoint, text: str, folder: Path, **change: Any) -> Evaluation:
    cache = SourceCache(folder, **{"source_digest": "sha256:1", "limit_bytes": 1 << 30, **change})
    return evaluate(source, noisy(source), text, threads=2, cache=cache)


def test_a_source_is_run_once_for_a_text(source: Checkpoint, text: str, tmp_path: Path) -> None:
    first, second = (cached(source, text, tmp_path) for _ in range(2))

    assert (first.from_cache, second.from_cache) == (False, True)
    without_time = [
        [metric for metric in metrics_of(found) if metric.name != "evaluation_seconds"] for found in (first, second)
    ]
    assert without_time[0] == without_time[1]


KEY = {"ids": np.arange(6).reshape(2, 3), "device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize(
    ("source_digest", "change"),
    [
        ("sha256:2", {}),
        ("sha256:1", {"ids": np.arange(1, 7).reshape(2, 3)}),
        ("sha256:1", {"dtype": "bfloat16"}),
        ("sha256:1", {"device": "cuda"}),
    ],
    ids=["source", "text", "dtype", "device"],
)
def test_another_source_text_or_arithmetic_is_another_entry(
    tmp_path: Path, source_digest: str, change: dict[str, Any]
) -> None:
    SourceCache(tmp_path, "sha256:1", 1 << 20).save(KEY, np.ones((2, 3, 4), np.float32))

    assert SourceCache(tmp_path, "sha256:1", 1 << 20).load(KEY) is not None
    assert SourceCache(tmp_path, source_digest, 1 << 20).load({**KEY, **change}) is None


@pytest.mark.parametrize("at", [0, 40, 300, -1])
def test_a_damaged_entry_is_not_used(source: Checkpoint, text: str, tmp_path: Path, at: int) -> None:
    cached(source, text, tmp_path)
    (entry,) = tmp_path.iterdir()
    data = bytearray(entry.read_bytes())
    data[at] ^= 0x55
    entry.chmod(0o644)
    entry.write_bytes(data)

    assert not cached(source, text, tmp_path).from_cache
    assert cached(source, text, tmp_path).from_cache


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, "sha256:1", 3000)
    keys = [{"number": number} for number in range(3)]
    for key in keys[:2]:
        cache.save(key, np.ones(256, np.float32))
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    assert cache.load(keys[0]) is not None  # used now

    cache.save(keys[2], np.ones(256, np.float32))

    assert [cache.load(key) is not None for key in keys] == [True, False, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    SourceCache(tmp_path, "sha256:1", 1000).save({"number": 1}, np.ones(256, np.float32))

    assert list(tmp_path.iterdir()) == []


def test_the_entry_says_nothing_of_the_text(source: Checkpoint, text: str, tmp_path: Path) -> None:
    cached(source, text, tmp_path)
    (entry,) = tmp_path.iterdir()

    assert set(json.loads(entry.read_bytes()[:256])) == {"kind", "digest", "dtype", "shape"}
