"""Calibration: texts as token batches, and the forward pass that has one block of the model in memory at a time.

Importing this imports no torch: `decoder` and `forward` do, where a model is run.
"""

from quantmill.calibration.known import StatisticsCache
from quantmill.calibration.tokens import Windows, cut, tokenize, windows_of
from quantmill.calibration.weights import Weights, source_weights

__all__ = ["StatisticsCache", "Weights", "Windows", "cut", "source_weights", "tokenize", "windows_of"]
