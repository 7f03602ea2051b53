"""Evaluation: how well a model, or what is left of it, predicts a text. Importing this imports no torch."""

from quantmill.evaluation.measure import Perplexity, perplexity, source_weights

__all__ = ["Perplexity", "perplexity", "source_weights"]
