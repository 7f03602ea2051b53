"""Whole models that write. Imports torch: imported where a model is run, never at start-up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from quantmill.calibration.decoder import Decoder
from quantmill.calibration.weights import Weights
from quantmill.contract.errors import SourceRejected
from quantmill.contract.tensors import ModelIndex


def decoder_of(index: ModelIndex, device: str, dtype: str) -> Decoder:
    return Decoder.of(index, device, getattr(torch, dtype))


def write(
    decoder: Decoder, weights: Weights, prompts: NDArray[np.int64], length: int, step: Callable[[int], None]
) -> NDArray[np.int64]:
    """The most likely token after each prompt, then after prompt and token, and so on: int64 (prompts, length).

    `prompts` are (prompts, tokens), all of one length. Keys and values are kept. `step(1)` counts tokens. Raises
    SourceRejected for a token that the model does not have.
    """
    if prompts.max() >= decoder.vocabulary:
        raise SourceRejected(f"The tokenizer makes token {prompts.max()}, but the model knows {decoder.vocabulary}.")
    written = np.empty((len(prompts), length), np.int64)
    with decoder.whole(weights) as model, torch.inference_mode():
        ids, kept = torch.from_numpy(prompts).to(decoder.device), None
        for place in range(length):
            made = model(ids, past_key_values=kept, use_cache=True)
            kept = made.past_key_values
            ids = made.logits[:, -1:].float().argmax(-1)  # (prompts, 1)
            written[:, place] = ids[:, 0].cpu().numpy()
            step(1)
    return written
