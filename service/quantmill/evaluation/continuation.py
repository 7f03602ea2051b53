"""What two models write after the same prompts, greedily: whether a compressed model goes where its source goes.

Perplexity looks at one token at a time, after a text that somebody else wrote. A model that is good at that can still
leave its source's path and never come back, which shows only when it reads what it wrote itself, and often late.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantmill.calibration import Weights, Windows, source_weights
from quantmill.calibration.tokens import ends_of, stated_limit
from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.tensors import ModelIndex
from quantmill.domain.artifacts import Metric
from quantmill.evaluation.cache import SourceCache
from quantmill.evaluation.intervals import Bootstrap
from quantmill.hardware.memory import gigabytes
from quantmill.hardware.models import shape_of
from quantmill.hardware.probes import free_memory

PROMPTS = 16
PROMPT_TOKENS = 64
LENGTH = 160  # tokens after each prompt: damage that builds up is seen past 128
MEMORY_SHARE = 0.5  # of what is free, that a whole model may take
SMALL_STEP = 1 << 30  # multiplications: below, threads that wait for each other take longer than the work
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Continuations:
    """Token ids that follow the same prompts.

    source, artifact  int64 of shape (prompts, length)
    counted           bool of that shape: up to and with the end-of-text token that the source writes
    seconds           wall clock
    """

    source: NDArray[np.int64]
    artifact: NDArray[np.int64]
    counted: NDArray[np.bool_]
    seconds: float

    @property
    def same(self) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = (self.source == self.artifact) & self.counted
        return same

    @property
    def until_apart(self) -> NDArray[np.int64]:
        """Tokens of each continuation before the first that differs; all that count where none does."""
        apart = (self.source != self.artifact) & self.counted
        until: NDArray[np.int64] = np.where(apart.any(axis=1), apart.argmax(axis=1), self.counted.sum(axis=1))
        return until

    def metrics(self) -> Iterator[Metric]:
        """continuation_agreement     share of tokens that are the source's at the same place
        continuation_divergence    tokens before the first that differs, mean over prompts
        continuation_identical     share of continuations that are the source's to their end
        """
        bootstrap = Bootstrap.over(len(self.source))
        tokens, prompts = int(self.counted.sum()), len(self.source)
        found = {
            "continuation_agreement": (self.same, self.counted, "share", tokens),
            "continuation_divergence": (self.until_apart[:, None], np.ones((prompts, 1), np.bool_), "token", prompts),
            "continuation_identical": (
                (self.until_apart == self.counted.sum(axis=1))[:, None],
                np.ones((prompts, 1), np.bool_),
                "share",
                prompts,
            ),
        }
        for name, (values, counted, unit, n) in found.items():
            low, high = bootstrap.of_mean(values, counted) or (None, None)
            mean = float(np.mean(values[counted], dtype=np.float64))
            yield Metric(name, mean, unit, n=n, higher_is_better=True, ci_low=low, ci_high=high)


@dataclass(frozen=True)
class LeftOut:
    """Something that was not measured, and why."""

    what: str
    reason: str


def continuations(
    checkpoint: Checkpoint,
    weights: Weights,
    windows: Windows,
    *,
    prompts: int = PROMPTS,
    threads: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    memory_bytes: int | None = None,
    cache: SourceCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Continuations | LeftOut:
    """The source and a model with `weights` in place of its own, each continuing the beginnings of `prompts` windows.

    Each writes its most likely token, reads it, and so on, LENGTH times or as often as the model's limit allows. One
    whole model is in memory at a time, unlike elsewhere in evaluation: nothing is run when it would take more than
    `memory_bytes`, by default half of what is free. What the source writes is taken from `cache` where it is there.
    `progress(done, total)` counts steps of both models. Options and errors are those of `evaluate`.
    """
    start = time.perf_counter()
    asked = _prompts(checkpoint.index, windows, prompts)
    length = min(LENGTH, (stated_limit(checkpoint.index) or PROMPT_TOKENS + LENGTH) - asked.shape[1])
    if length < 1:
        return LeftOut("continuations", f"the model takes {asked.shape[1]} tokens and has no room to write any")
    needed = _needed_bytes(checkpoint.index, asked.shape[0], asked.shape[1] + length, ITEM_BYTES[dtype])
    allowed = int(MEMORY_SHARE * free_memory()) if memory_bytes is None else memory_bytes
    if device == "cpu" and needed > allowed:
        reason = (
            f"a whole model is needed for it, {gigabytes(needed)} in {dtype}, and {gigabytes(allowed)} may be taken"
        )
        return LeftOut("continuations", reason)
    steps = _Steps(progress, 2 * length)
    run = functools.partial(_write, checkpoint, device=device, dtype=dtype, threads=threads)
    key = {"continued": asked, "length": length, "device": device, "dtype": dtype}
    known = cache.load(key) if cache is not None else None
    if known is None:
        source = run(source_weights(checkpoint), asked, length, steps.step)
        if cache is not None:
            cache.save(key, source)
    else:
        source = np.asarray(known, np.int64)
        steps.step(length)
    artifact = run(weights, asked, length, steps.step)
    counted = _until_end(source, ends_of(checkpoint.index))
    return Continuations(source, artifact, counted, time.perf_counter() - start)


def _prompts(index: ModelIndex, windows: Windows, count: int) -> NDArray[np.int64]:
    """The beginnings of windows, evenly over the text: (prompts, tokens)."""
    tokens = min(PROMPT_TOKENS, max(1, (stated_limit(index) or windows.window) // 4), windows.window)
    chosen = np.unique(np.linspace(0, len(windows.ids) - 1, min(count, len(windows.ids))).round().astype(np.int64))
    return windows.ids[chosen, :tokens]


def _needed_bytes(index: ModelIndex, batch: int, tokens: int, item: int) -> int:
    """All weights and the keys and values of all prompts, in the dtype that they are computed in."""
    shape = shape_of(index.config, index)
    cached = shape.cache.values(tokens, compressed=False) if shape.cache else tokens * shape.hidden * shape.layers * 2
    return item * (shape.parameters + batch * cached)


def _until_end(written: NDArray[np.int64], ends: Collection[int]) -> NDArray[np.bool_]:
    """True up to and with the first of `ends` in each row."""
    ended = np.isin(written, list(ends))
    return np.cumsum(ended, axis=1) - ended == 0


def _write(
    checkpoint: Checkpoint,
    weights: Weights,
    prompts: NDArray[np.int64],
    length: int,
    step: Callable[[int], None],
    *,
    device: str,
    dtype: str,
    threads: int,
) -> NDArray[np.int64]:
    from quantmill.calibration.decoder import limit_threads
    from quantmill.evaluation.greedy import decoder_of, write

    small = shape_of(checkpoint.index.config, checkpoint.index).parameters * len(prompts) < SMALL_STEP
    with limit_threads(1 if small else threads):
        return write(decoder_of(checkpoint.index, device, dtype), weights, prompts, length, step)


class _Steps:
    """Counts steps of writing and tells them on."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def step(self, count: int = 1) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)
