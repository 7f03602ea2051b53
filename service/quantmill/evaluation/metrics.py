"""The metrics of an evaluation: names, units, numbers of tokens, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quantmill.calibration import Windows
from quantmill.domain.artifacts import Metric
from quantmill.evaluation.intervals import Bootstrap, Interval
from quantmill.evaluation.measure import MOST_NLL, Evaluation, second_half

PER_TOKEN = "per token"
PER_WORD = "per word"
SECOND_HALF = "per token, second half of each window"


def metrics_of(evaluation: Evaluation) -> list[Metric]:
    """What an evaluation says of the source, of the artifact and of each block (its name is then the subject).

    perplexity             exp of the mean negative log likelihood of each scored token
    word_perplexity        exp of the negative log likelihood of all scored tokens over the words that begin in them
    perplexity_llama_cpp   perplexity over the second half of each window only, as llama-perplexity counts
    perplexity_ratio       artifact / source
    retention              100 * (1 - (artifact - source) / source) of the perplexities
    kld_...                KL(source || artifact) in nats over tokens: mean, median, 99th percentile, largest
    top1_agreement         share of tokens where both hold the same token for the most likely
    top5_agreement         share of tokens where the artifact's most likely token is one of the source's five
    flips                  share of tokens that one of the two predicts rightly and the other does not
    output_error, _cosine  of a block: see BlockError

    Intervals are 95 %, by paired bootstrap over windows; a largest value has none.
    """
    return [*_perplexities(evaluation), *_divergence(evaluation), *_blocks(evaluation)]


def _perplexities(evaluation: Evaluation) -> Iterator[Metric]:
    windows, bootstrap = evaluation.windows, Bootstrap.over(len(evaluation.windows.ids))
    scored, half = windows.scored, second_half(windows)
    n = int(scored.sum())
    subjects = {"source": evaluation.source, "artifact": evaluation.artifact}
    for subject, predictions in subjects.items():
        yield _perplexity("perplexity", PER_TOKEN, subject, predictions.nll, scored, bootstrap)
        if half is not None:
            yield _perplexity("perplexity_llama_cpp", SECOND_HALF, subject, predictions.nll, half, bootstrap)
        yield from _word_perplexity(subject, predictions.nll, windows, bootstrap)
    lost = evaluation.artifact.nll.astype(np.float64) - evaluation.source.nll
    ratio = float(np.exp(_mean(lost, scored)))
    interval = bootstrap.of_mean(lost, scored, np.exp)
    yield _metric("perplexity_ratio", ratio, "", n, interval, higher_is_better=False)
    retained = (100 * (2 - interval[1]), 100 * (2 - interval[0])) if interval else None
    yield _metric("retention", 100 * (2 - ratio), "%", n, retained, higher_is_better=True)
    yield Metric("evaluation_seconds", evaluation.seconds, "s", n=n, higher_is_better=False)


def _word_perplexity(
    subject: str, nll: NDArray[np.float32], windows: Windows, bootstrap: Bootstrap
) -> Iterator[Metric]:
    """Nothing where a text has hardly any words, such as one in a script without spaces: exp of it overflows."""
    words = np.where(windows.scored, windows.words, 0)
    if (n := int(words.sum())) == 0:
        return
    mean = float(np.sum(nll[windows.scored], dtype=np.float64)) / n
    if mean < MOST_NLL:
        interval = bootstrap.of_ratio(np.where(windows.scored, nll, 0), words, np.exp)
        yield _metric("word_perplexity", math.exp(mean), PER_WORD, n, interval, subject=subject, higher_is_better=False)


def _perplexity(
    name: str, unit: str, subject: str, nll: NDArray[np.float32], scored: NDArray[np.bool_], bootstrap: Bootstrap
) -> Metric:
    value, interval = float(np.exp(_mean(nll, scored))), bootstrap.of_mean(nll, scored, np.exp)
    return _metric(name, value, unit, int(scored.sum()), interval, subject=subject, higher_is_better=False)


def _divergence(evaluation: Evaluation) -> Iterator[Metric]:
    scored, found = evaluation.windows.scored, evaluation.divergence
    bootstrap, n = Bootstrap.over(len(scored)), int(scored.sum())
    kld = found.kld[scored]
    yield _metric(
        "kld_mean", _mean(found.kld, scored), "nat", n, bootstrap.of_mean(found.kld, scored), higher_is_better=False
    )
    for name, quantile in {"kld_median": 0.5, "kld_p99": 0.99}.items():
        interval = bootstrap.of_quantile(found.kld, scored, quantile)
        yield _metric(name, float(np.quantile(kld, quantile)), "nat", n, interval, higher_is_better=False)
    yield _metric("kld_max", float(kld.max()), "nat", n, None, higher_is_better=False)
    shares = {
        "top1_agreement": (found.same_top, True),
        "top5_agreement": (found.in_top, True),
        "flips": (evaluation.source.right != evaluation.artifact.right, False),
    }
    for name, (values, better) in shares.items():
        interval = bootstrap.of_mean(values, scored)
        yield _metric(name, _mean(values, scored), "share", n, interval, higher_is_better=better)


def _blocks(evaluation: Evaluation) -> Iterator[Metric]:
    for found in evaluation.blocks:
        yield Metric("output_error", found.relative, "", found.block, found.tokens, higher_is_better=False)
        yield Metric("output_cosine", found.cosine, "", found.block, found.tokens, higher_is_better=True)


def _metric(
    name: str,
    value: float,
    unit: str,
    n: int,
    interval: Interval | None,
    *,
    higher_is_better: bool,
    subject: str = "artifact",
) -> Metric:
    low, high = interval or (None, None)
    return Metric(name, value, unit, subject, n, higher_is_better, low, high)


def _mean(values: NDArray[np.bool_] | NDArray[np.floating], scored: NDArray[np.bool_]) -> float:
    return float(np.mean(values[scored], dtype=np.float64))
