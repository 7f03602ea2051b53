"""Runs models over a text: perplexity of one, or a compressed one beside its source."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantmill.calibration import Weights, Windows, source_weights, windows_of
from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, RequestRejected
from quantmill.contract.tensors import FloatArray
from quantmill.domain.evaluation import DTYPES
from quantmill.evaluation.cache import SourceCache
from quantmill.evaluation.outcomes import Divergence, Predictions

if TYPE_CHECKING:
    from quantmill.calibration.forward import Forward

MOST_NLL = 700.0  # nats; exp of more overflows, and only a broken model gets near
BLOCK_ERROR_TOKENS = 2048  # that each block's output is compared on, from the text's beginning

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood (in nats, summed in float64) over all scored tokens.

    tokens       predicted tokens that count
    window_nll   the mean of each window, in the order of the text
    second_half  perplexity over the second half of each window, as llama-perplexity counts; None with a stride
    seconds      wall clock, reading the weights included
    """

    perplexity: float
    tokens: int
    windows: int
    window: int
    stride: int
    seconds: float
    window_nll: tuple[float, ...]
    second_half: float | None


@dataclass(frozen=True)
class BlockError:
    """How far a block's output is from the source's, where each had its own model's blocks before it.

    relative is ||output - source|| / ||source||, cosine the mean over tokens of that between the two; both over the
    first `tokens` tokens.
    """

    block: str
    relative: float
    cosine: float
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """A compressed model beside its source on one text.

    `seconds` is wall clock. `from_cache` says that the source was not run but for its blocks' errors.
    """

    windows: Windows
    source: Predictions
    artifact: Predictions
    divergence: Divergence
    blocks: tuple[BlockError, ...]
    seconds: float
    from_cache: bool


def perplexity(
    checkpoint: Checkpoint,
    weights: Weights,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Perplexity:
    """How well the checkpoint's architecture, with `weights` in place of its own, predicts `text`.

    The text's tokens are cut into windows of `window` (by default 512, or the model's limit if that is less). In each
    window every token but the first is predicted from those before it. By default windows do not overlap; with a
    `stride` they start that many tokens apart, and each token counts once, in the first window that has it. A rest
    that fills no window is left out. Where the tokenizer puts a token in front of a text (BOS), each window begins
    with it instead of one of the text's tokens. `progress(done, total)` counts blocks and windows.

    The model is transformers' own and is run block by block: one block's weights are in memory at a time, or the
    embedding's, or the head's. `device` is torch's, `dtype` float32 or bfloat16. The result depends on `threads` in
    its last digits only.

    Raises TextRejected for a text shorter than a window, RequestRejected for an impossible window or stride or a
    device that is not there, ArchitectureUnsupported where transformers has no such model, `weights` do not fit it or
    its predictions are not finite, SourceRejected where the tokenizer cannot be used. Needs torch, transformers and
    tokenizers.
    """
    from quantmill.calibration.decoder import limit_threads
    from quantmill.evaluation.predictions import predict

    start = time.perf_counter()
    windows = windows_of(checkpoint.index, text, window, stride)
    with limit_threads(threads):
        forward = _forward(checkpoint, weights, windows.ids, device, dtype)
        ticks = _Ticks(progress, _work(forward))
        for _ in forward.run():
            ticks.tick(windows.ids.size)
        found = predict(forward, ticks.tick)
    mean, half = _mean_nll(checkpoint, found.nll, windows.scored), second_half(windows)
    counted = windows.scored.sum(axis=1)
    return Perplexity(
        perplexity=math.exp(mean),
        tokens=int(counted.sum()),
        windows=len(windows.ids),
        window=windows.window,
        stride=windows.stride,
        seconds=time.perf_counter() - start,
        window_nll=tuple((np.where(windows.scored, found.nll, 0).sum(axis=1, dtype=np.float64) / counted).tolist()),
        second_half=math.exp(_mean_nll(checkpoint, found.nll, half)) if half is not None else None,
    )


def second_half(windows: Windows) -> NDArray[np.bool_] | None:
    """Predictions of the tokens behind each window's middle: llama-perplexity scores from n_ctx / 2 on.

    None where windows overlap or are too short to have any: that tool knows neither.
    """
    half = windows.scored.copy()
    half[:, : (half.shape[1] + 1) // 2] = False
    return half if not windows.overlap and half.any() else None


def evaluate(
    checkpoint: Checkpoint,
    weights: Weights,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    cache: SourceCache | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The source and a model with `weights` in place of its own, over the same windows of `text`.

    Both go through their blocks side by side. What the source's last block gives for the text is taken from `cache`
    where it is there, and left there where not; its blocks are then run on BLOCK_ERROR_TOKENS only. `folder` takes
    hidden states that are large. Options, memory and errors are those of `perplexity`.
    """
    from quantmill.calibration.decoder import limit_threads
    from quantmill.evaluation.predictions import compare

    start = time.perf_counter()
    windows = windows_of(checkpoint.index, text, window, stride)
    sample = windows.ids[: max(1, BLOCK_ERROR_TOKENS // windows.window)]
    key = {"ids": windows.ids, "device": device, "dtype": dtype}
    known = cache.load(key) if cache is not None else None
    with limit_threads(threads):
        ids = windows.ids if known is None else sample
        source = _forward(checkpoint, source_weights(checkpoint), ids, device, dtype, folder)
        artifact = _forward(checkpoint, weights, windows.ids, device, dtype, folder)
        ticks = _Ticks(progress, _work(artifact) + ids.size * len(source.decoder.blocks))
        blocks = tuple(_side_by_side(source, artifact, len(sample), ticks))
        if known is not None:
            source.take_end(windows.ids, known)
        elif cache is not None:
            cache.save(key, source.hidden)
        first, second, divergence = compare(source, artifact, ticks.tick)
    for predictions in (first, second):
        _mean_nll(checkpoint, predictions.nll, windows.scored)
    seconds = time.perf_counter() - start
    return Evaluation(windows, first, second, divergence, blocks, seconds, known is not None)


def _side_by_side(source: Forward, artifact: Forward, sample: int, ticks: _Ticks) -> Iterator[BlockError]:
    """Run both, one block in memory at a time, and compare what each block gives for the first windows."""
    for number, _ in zip(source.run(), artifact.run(), strict=True):
        name = source.decoder.block_prefix(number).rstrip(".")
        yield _block_error(name, source.hidden[:sample], artifact.hidden[:sample])
        ticks.tick(source.ids.size + artifact.ids.size)


def _block_error(name: str, source: FloatArray, artifact: FloatArray) -> BlockError:
    """Both of shape (windows, window, hidden)."""
    wanted = source.astype(np.float64).reshape(-1, source.shape[-1])  # (tokens, hidden)
    found = artifact.astype(np.float64).reshape(wanted.shape)
    norms = np.linalg.norm(wanted, axis=1), np.linalg.norm(found, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where a model is broken; its perplexity says so
        relative = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        cosine = np.mean(np.einsum("th,th->t", wanted, found) / (norms[0] * norms[1]))
    return BlockError(name, float(relative), float(cosine), len(wanted))


def _forward(
    checkpoint: Checkpoint,
    weights: Weights,
    ids: NDArray[np.int64],
    device: str,
    dtype: str,
    folder: Path | None = None,
) -> Forward:
    import torch

    from quantmill.calibration.decoder import Decoder
    from quantmill.calibration.forward import Forward

    if dtype not in DTYPES:
        raise RequestRejected(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}", dtype=dtype)
    return Forward(Decoder.of(checkpoint.index, device, getattr(torch, dtype)), weights, ids, folder)


def _mean_nll(checkpoint: Checkpoint, nll: FloatArray, scored: NDArray[np.bool_]) -> float:
    mean = float(np.mean(nll[scored], dtype=np.float64))
    if not mean < MOST_NLL:  # so that NaN fails
        raise ArchitectureUnsupported(
            f"{checkpoint.index.architecture} cannot be evaluated: its predictions are NaN or infinite."
        )
    return mean


def _work(forward: Forward) -> int:
    """Tokens through blocks and head, as progress counts them."""
    windows, window = forward.ids.shape
    return int(windows * (window * len(forward.decoder.blocks) + window - 1))


class _Ticks:
    """Counts what is done and tells it on."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def tick(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)
