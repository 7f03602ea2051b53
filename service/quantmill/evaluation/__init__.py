"""Evaluation: what a compressed model has lost against its source. Importing this imports no torch."""

from quantmill.evaluation.cache import SourceCache
from quantmill.evaluation.measure import Evaluation, Perplexity, evaluate, perplexity
from quantmill.evaluation.metrics import metrics_of

__all__ = ["Evaluation", "Perplexity", "SourceCache", "evaluate", "metrics_of", "perplexity"]
