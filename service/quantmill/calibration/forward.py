"""A forward pass over many windows, block by block.

The hidden states of all windows are kept, on disk where they are many, and each block is read once. So the memory is
that of one block, of a batch's activations, and of hidden states that may leave for the disk at any time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from quantmill.calibration.decoder import Call, Decoder
from quantmill.calibration.weights import Weights
from quantmill.contract.errors import SourceRejected
from quantmill.contract.tensors import FloatArray
from quantmill.files.atomic import exhaustion_reported

BATCH_TOKENS = 2048  # run through a block at once
KEPT_BYTES = 256 << 20  # hidden states beyond this are a file


class Forward:
    """One set of weights on its way through a decoder.

    Call `embed`, then `run_block` for each number in turn; `hidden` is what the last call left: float32 of shape
    (windows, window, hidden). `folder` is where a large `hidden` lies, by default the system's place for such files.
    """

    def __init__(self, decoder: Decoder, weights: Weights, ids: NDArray[np.int64], folder: Path | None = None) -> None:
        """`ids` are (windows, window). Raises SourceRejected for a token that the model does not have."""
        if ids.max() >= decoder.vocabulary:
            raise SourceRejected(
                f"The tokenizer makes token {ids.max()}, but the model knows {decoder.vocabulary} tokens."
            )
        self.decoder = decoder
        self.weights = weights
        self.ids = ids
        self.hidden = room_for((*ids.shape, decoder.hidden), folder)
        self._calls: dict[int, list[Call]] = {}  # by the number of windows in a batch

    def embed(self) -> None:
        with self.decoder.loaded(self.decoder.embedding_names(), self.weights), torch.inference_mode():
            for batch in self._batches():
                ids = torch.from_numpy(self.ids[batch]).to(self.decoder.device)
                hidden, calls = self.decoder.embed(ids)
                self._calls[len(ids)] = calls
                self._keep(batch, hidden)

    def run_block(self, number: int) -> None:
        """Read the block's weights, replace `hidden` by what it makes of it, and forget them.

        Raises ArchitectureUnsupported where a weight is missing or of another shape.
        """
        with self.decoder.loaded(self.decoder.block_names(number), self.weights), torch.inference_mode():
            for batch in self._batches():
                hidden = torch.from_numpy(self.hidden[batch]).to(self.decoder.device, self.decoder.dtype)
                self._keep(batch, self.decoder.block(number, hidden, self._calls[len(hidden)][number]))

    def run(self) -> Iterator[int]:
        """The whole pass; yields after each block, with its number."""
        self.embed()
        for number in range(len(self.decoder.blocks)):
            self.run_block(number)
            yield number

    def take_end(self, ids: NDArray[np.int64], hidden: FloatArray) -> None:
        """Stand where a whole pass over `ids` ends, with the hidden states that it gave before."""
        self.ids, self.hidden = ids, hidden

    def _batches(self) -> Iterator[slice]:
        step = max(1, BATCH_TOKENS // self.ids.shape[1])
        return (slice(start, start + step) for start in range(0, len(self.ids), step))

    def _keep(self, batch: slice, hidden: torch.Tensor) -> None:
        self.hidden[batch] = hidden.float().cpu().numpy()


def room_for(shape: tuple[int, ...], folder: Path | None = None) -> FloatArray:
    """An array in memory, or in a file without a name when it is large. Raises ResourceExhausted on a full disk."""
    nbytes = 4 * int(np.prod(shape, dtype=np.int64))
    if nbytes <= KEPT_BYTES:
        return np.empty(shape, np.float32)
    with exhaustion_reported(folder or Path(tempfile.gettempdir())), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, nbytes)  # a mapped file that finds no room later ends its process
        return np.memmap(file, np.float32, "r+", shape=shape)
