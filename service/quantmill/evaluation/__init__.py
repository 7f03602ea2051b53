"""Evaluation: what a compressed model has lost against its source. Importing this imports no torch."""

from quantmill.evaluation.cache import SourceCache
from quantmill.evaluation.continuation import Continuations, LeftOut, continuations
from quantmill.evaluation.footprint import Timed, predicted_memory, time_artifact
from quantmill.evaluation.measure import Evaluation, Perplexity, evaluate, perplexity
from quantmill.evaluation.metrics import metrics_of
from quantmill.evaluation.tasks import require_tasks, run_tasks
from quantmill.evaluation.whole import Artifact, Measured, Text, measure, require

__all__ = [
    "Artifact",
    "Continuations",
    "Evaluation",
    "LeftOut",
    "Measured",
    "Perplexity",
    "SourceCache",
    "Text",
    "Timed",
    "continuations",
    "evaluate",
    "measure",
    "metrics_of",
    "perplexity",
    "predicted_memory",
    "require",
    "require_tasks",
    "run_tasks",
    "time_artifact",
]
