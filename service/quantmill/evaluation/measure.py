"""Perplexity of a causal language model on a text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, RequestRejected, TextRejected
from quantmill.contract.tensors import FloatArray, ModelIndex
from quantmill.evaluation.tokens import Tokens, tokenize

DEFAULT_WINDOW = 512  # tokens, or as many as the model takes
MOST_NLL = 700.0  # nats; exp of more overflows, and only a broken model gets near


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood (in nats, summed in float64) over all predicted tokens.

    tokens      predicted tokens: `windows` times (`window` - 1)
    window_nll  the mean of each window, in the order of the text
    seconds     wall clock, loading the weights included
    """

    perplexity: float
    tokens: int
    windows: int
    window: int
    seconds: float
    window_nll: tuple[float, ...]


def perplexity(
    checkpoint: Checkpoint,
    weights: Iterable[tuple[str, FloatArray]],
    text: str,
    *,
    window: int | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """How well the checkpoint's architecture, with `weights` in place of its own, predicts `text`.

    The text's tokens are cut into windows of `window` (by default 512, or the model's limit if that is less) that
    do not overlap; a rest that fills none is left out. In each window every token but the first is predicted from
    those before it. Where the tokenizer puts a token in front of a text (BOS), each window begins with it instead of
    one of the text's tokens. `progress(done, total)` counts windows.

    The model is transformers' own, in float32, and is held whole: four bytes for each weight, and up to 512 MiB
    beside. The result depends on `threads` in its last digits only.

    Raises TextRejected for a text shorter than a window, RequestRejected for an impossible window,
    ArchitectureUnsupported where transformers has no such model, `weights` do not fit it or its predictions are not
    finite, SourceRejected where the tokenizer cannot be used. Needs torch, transformers and tokenizers.
    """
    from quantmill.evaluation.language_model import limit_threads, load_model, mean_nll

    start = time.perf_counter()
    length = _window(window, checkpoint.index)
    windows = cut(tokenize(checkpoint.index, text), length)
    with limit_threads(threads):
        model = load_model(checkpoint.index, weights)
        window_nll: list[float] = []
        for nll in mean_nll(model, windows):
            window_nll += nll
            if progress is not None:
                progress(len(window_nll), len(windows))
    mean = math.fsum(window_nll) / len(window_nll)
    if not mean < MOST_NLL:  # so that NaN fails
        raise ArchitectureUnsupported(
            f"{checkpoint.index.architecture} cannot be evaluated: its predictions are NaN or infinite."
        )
    return Perplexity(
        perplexity=math.exp(mean),
        tokens=len(windows) * (length - 1),
        windows=len(windows),
        window=length,
        seconds=time.perf_counter() - start,
        window_nll=tuple(window_nll),
    )


def source_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, FloatArray]]:
    """The checkpoint's own tensors as float32, one at a time: what `perplexity` takes to measure the source."""
    for name in checkpoint.index.tensors:
        yield name, checkpoint.tensor(name).values.astype(np.float32)


def cut(tokens: Tokens, window: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Token ids of the windows: int64 of shape (windows, window). Raises TextRejected when there are none."""
    own = window - len(tokens.prefix)
    count = len(tokens.ids) // own if own > 0 else 0
    if count == 0:
        raise TextRejected(
            f"The text has {len(tokens.ids)} tokens, but a window takes {own}. Use a longer text or a smaller window.",
            tokens=len(tokens.ids),
            window=window,
        )
    rows = np.asarray(tokens.ids[: count * own], np.int64).reshape(count, own)
    prefix = np.broadcast_to(np.asarray(tokens.prefix, np.int64), (count, len(tokens.prefix)))
    return np.concatenate([prefix, rows], axis=1)


def _window(window: int | None, index: ModelIndex) -> int:
    stated = index.config.get("max_position_embeddings")
    limit = stated if isinstance(stated, int) and stated > 0 else None
    if window is None:
        return min(DEFAULT_WINDOW, limit or DEFAULT_WINDOW)
    if window < 2 or (limit is not None and window > limit):
        most = "" if limit is None else f" and at most {limit}, the model's limit"
        raise RequestRejected(f"A window of {window} tokens is not possible: it must be at least 2{most}.")
    return window
