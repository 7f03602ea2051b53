"""What models predict, token by token, from their last hidden states. No more logits exist than those of one chunk.

Imports torch: imported where a model is run, never at start-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import torch

from quantmill.calibration.forward import Forward
from quantmill.evaluation.outcomes import Divergence, Predictions

CHUNK_TOKENS = 256  # whose logits exist at once: 128 MiB of them for a vocabulary of 128 thousand
TOP = 5

Tick = Callable[[int], None]


def predict(forward: Forward, tick: Tick) -> Predictions:
    """Of one finished forward pass. `tick(tokens)` counts what is done."""
    (own,), _ = _measure([forward], tick)
    return own


def compare(reference: Forward, model: Forward, tick: Tick) -> tuple[Predictions, Predictions, Divergence]:
    """Of two finished forward passes over the same windows: the reference's, the model's, and how they differ.

    Both heads are in memory together.
    """
    (first, second), divergence = _measure([reference, model], tick)
    assert divergence is not None
    return first, second, divergence


def _measure(forwards: list[Forward], tick: Tick) -> tuple[list[Predictions], Divergence | None]:
    shape = (len(forwards[0].ids), forwards[0].ids.shape[1] - 1)
    found = [Predictions(np.empty(shape, np.float32), np.empty(shape, np.bool_)) for _ in forwards]
    divergence = Divergence(np.empty(shape, np.float32), np.empty(shape, np.bool_), np.empty(shape, np.bool_))
    with ExitStack() as heads, torch.inference_mode():
        for forward in forwards:
            heads.enter_context(forward.decoder.loaded(forward.decoder.head_names(), forward.weights))
        for window, tokens in _chunks(shape):
            following = torch.from_numpy(forwards[0].ids[window, 1:][tokens]).to(forwards[0].decoder.device)
            logs = [_log_likelihoods(forward, window, tokens) for forward in forwards]
            tops = [log.max(-1).indices for log in logs]
            for predictions, log, top in zip(found, logs, tops, strict=True):
                predictions.nll[window, tokens] = -log.gather(1, following[:, None])[:, 0].cpu().numpy()
                predictions.right[window, tokens] = (top == following).cpu().numpy()
            if len(logs) == 2:
                _diverge(divergence, (window, tokens), logs, tops)
            tick(len(following))
    return found, divergence if len(forwards) == 2 else None


def _chunks(shape: tuple[int, int]) -> Iterator[tuple[int, slice]]:
    for window in range(shape[0]):
        for start in range(0, shape[1], CHUNK_TOKENS):
            yield window, slice(start, min(start + CHUNK_TOKENS, shape[1]))


def _log_likelihoods(forward: Forward, window: int, tokens: slice) -> torch.Tensor:
    """float32 (tokens, vocabulary)."""
    hidden = torch.from_numpy(forward.hidden[window, tokens]).to(forward.decoder.device, forward.decoder.dtype)
    return forward.decoder.logits(hidden).log_softmax(-1)


def _diverge(
    divergence: Divergence, place: tuple[int, slice], logs: list[torch.Tensor], tops: list[torch.Tensor]
) -> None:
    reference, model = logs
    kld = (reference.exp() * (reference - model)).sum(-1).clamp_min(0)  # rounding makes equal ones -1e-7
    likely = reference.topk(min(TOP, reference.shape[1])).indices
    divergence.kld[place] = kld.cpu().numpy()
    divergence.same_top[place] = (tops[0] == tops[1]).cpu().numpy()
    divergence.in_top[place] = (likely == tops[1][:, None]).any(-1).cpu().numpy()
