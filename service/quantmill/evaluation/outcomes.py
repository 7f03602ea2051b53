"""What models are found to predict on a text, token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.tensors import FloatArray


@dataclass(frozen=True)
class Predictions:
    """How a model takes a text. Arrays have the shape (windows, window - 1); [w, t] is the prediction of token t + 1.

    nll    negative log likelihood of the token that follows, in nats; float32
    right  whether the most likely token is the one that follows
    """

    nll: FloatArray
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Divergence:
    """How one model's predictions are from another's, the reference. Shapes as in Predictions.

    kld        Kullback-Leibler divergence KL(reference || model) in nats; float32
    same_top   whether the most likely token is the reference's
    in_top     whether the most likely token is one of the reference's five
    """

    kld: FloatArray
    same_top: NDArray[np.bool_]
    in_top: NDArray[np.bool_]
