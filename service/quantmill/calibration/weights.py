"""Where a forward pass takes its weights from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

import numpy as np

from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.tensors import FloatArray


class Weights(Protocol):
    """Float32 tensors by their names in the source: those of `names` that there are, in any order, one at a time.

    Asked for one part of a model after the other; what is not kept of an answer is freed before the next question.
    """

    def __call__(self, names: Collection[str]) -> Iterator[tuple[str, FloatArray]]: ...


def source_weights(checkpoint: Checkpoint) -> Weights:
    """The checkpoint's own tensors."""

    def read(names: Collection[str]) -> Iterator[tuple[str, FloatArray]]:
        for name in names:
            if name in checkpoint.index.tensors:
                yield name, checkpoint.tensor(name).values.astype(np.float32)

    return read
