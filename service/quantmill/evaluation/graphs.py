"""ONNX graphs on a text, in ONNX Runtime: what decoders predict, and what encoders make of a window.

Source and artifact run side by side on the same windows, one window at a time: both are in memory, and the outputs of
one window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.calibration import Windows, cut, tokenize, windows_of
from quantmill.calibration.tokens import open_tokenizer, suffix_of, window_length
from quantmill.checkpoints import Checkpoint
from quantmill.checkpoints.onnx_model import onnx_file
from quantmill.contract.errors import ArchitectureUnsupported, RequestRejected, SourceRejected
from quantmill.contract.graph_text import HIDDEN, LOGITS, feed_of, measured_on_text
from quantmill.contract.tensors import FloatArray, ModelIndex
from quantmill.domain.artifacts import Metric
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.evaluation.intervals import Bootstrap
from quantmill.evaluation.measure import MOST_NLL, Evaluation, Progress
from quantmill.evaluation.metrics import metrics_of
from quantmill.evaluation.outcomes import Divergence, Predictions

CHUNK_TOKENS = 256  # whose likelihoods exist at once
TOP = 5
EMBEDDED_WINDOW = 128  # tokens of a window that an encoder makes one vector of

Outputs = tuple[NDArray[Any], NDArray[Any]]  # the source's and the artifact's, of one window


@dataclass(frozen=True)
class GraphsMeasured:
    """Metrics, and the windows that they were measured on."""

    metrics: tuple[Metric, ...]
    windows: Windows


def require_graph_text(index: ModelIndex, text: str, options: EvaluationOptions) -> Windows:
    """The windows that a graph is measured on.

    Raises RequestRejected for a graph that a text says nothing of, and for what only models of transformers have;
    TextRejected and SourceRejected as `windows_of` does.
    """
    kind = measured_on_text(index)
    if options.tasks or options.device != "cpu" or options.dtype != "float32":
        raise RequestRejected(
            "an ONNX graph is evaluated as it stands, on the processor: leave tasks, device, dtype out"
        )
    if kind == "predictions":
        return windows_of(index, text, options.window, options.stride)
    behind = suffix_of(open_tokenizer(index))
    window = window_length(index, options.window if options.window is not None else _usual(index))
    windows = cut(tokenize(index, text), window - len(behind), options.stride)
    ends = np.broadcast_to(np.asarray(behind, np.int64), (len(windows.ids), len(behind)))
    return replace(windows, ids=np.concatenate([windows.ids, ends], axis=1))


def _usual(index: ModelIndex) -> int:
    return min(EMBEDDED_WINDOW, window_length(index, None))


def measure_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    text: str,
    options: EvaluationOptions,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> GraphsMeasured:
    """The artifact's graph in `folder` beside the source's. Raises what `require_graph_text` raises, and
    ArchitectureUnsupported where predictions or embeddings are not finite."""
    windows = require_graph_text(checkpoint.index, text, options)
    start = time.perf_counter()
    if measured_on_text(checkpoint.index) == "predictions":
        found = _predictions(_run(checkpoint, folder, LOGITS, windows, threads, progress), windows)
        evaluation = Evaluation(windows, *found, (), time.perf_counter() - start, False)
        return GraphsMeasured(tuple(metrics_of(evaluation)), windows)
    runs = _run(checkpoint, folder, HIDDEN, windows, threads, progress)
    cosines = np.asarray([_cosine_of_means(*each) for each in runs])
    if not np.isfinite(cosines).all():
        raise ArchitectureUnsupported("the graph cannot be evaluated: a window's embedding is zero, NaN or infinite.")
    return GraphsMeasured(tuple(_embedding_metrics(cosines, time.perf_counter() - start)), windows)


def _run(
    checkpoint: Checkpoint, folder: Path, output: str, windows: Windows, threads: int, progress: Progress | None
) -> Iterator[Outputs]:
    graph = checkpoint.index.graph
    assert graph is not None
    made = onnx_file(folder)
    if made is None:
        raise SourceRejected(f"{folder} holds no ONNX model")
    sessions = [_open(path, threads) for path in (graph.path, folder / made)]
    for number, ids in enumerate(windows.ids, 1):
        feed = dict(feed_of(graph, ids))
        (source,), (artifact,) = (session.run([output], feed) for session in sessions)
        yield source[0][: len(ids)], artifact[0][: len(ids)]  # without what a graph of a fixed length is filled up with
        if progress is not None:
            progress(number, len(windows.ids))


def _open(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# Decoders


def _predictions(outputs: Iterator[Outputs], windows: Windows) -> tuple[Predictions, Predictions, Divergence]:
    """Of logits (window, vocabulary) of each window."""
    shape = windows.scored.shape
    taken = [Predictions(np.empty(shape, np.float32), np.empty(shape, np.bool_)) for _ in range(2)]
    divergence = Divergence(np.empty(shape, np.float32), np.empty(shape, np.bool_), np.empty(shape, np.bool_))
    for window, logits in enumerate(outputs):
        for start in range(0, shape[1], CHUNK_TOKENS):
            tokens = slice(start, min(start + CHUNK_TOKENS, shape[1]))
            following = windows.ids[window, 1:][tokens]
            logs = [_log_likelihoods(each[tokens]) for each in logits]
            tops = [log.argmax(axis=1) for log in logs]
            for predictions, log, top in zip(taken, logs, tops, strict=True):
                predictions.nll[window, tokens] = -np.take_along_axis(log, following[:, None], axis=1)[:, 0]
                predictions.right[window, tokens] = top == following
            kld = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1)
            divergence.kld[window, tokens] = np.maximum(kld, 0)  # rounding makes equal ones -1e-7
            divergence.same_top[window, tokens] = tops[0] == tops[1]
            divergence.in_top[window, tokens] = _is_in_top(logs[0], tops[1])
    for predictions in taken:
        if not float(np.mean(predictions.nll[windows.scored], dtype=np.float64)) < MOST_NLL:  # so that NaN fails
            raise ArchitectureUnsupported("the graph cannot be evaluated: its predictions are NaN or infinite.")
    return taken[0], taken[1], divergence


def _log_likelihoods(logits: NDArray[Any]) -> FloatArray:
    """float32 (tokens, vocabulary)."""
    shifted = logits.astype(np.float32)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _is_in_top(reference: FloatArray, top: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether fewer than TOP tokens are more likely to the reference than the model's most likely one."""
    own = np.take_along_axis(reference, top[:, None], axis=1)
    found: NDArray[np.bool_] = (reference > own).sum(axis=1) < TOP
    return found


# Encoders


def _cosine_of_means(source: NDArray[Any], artifact: NDArray[Any]) -> float:
    """Of the means over a window's tokens, (tokens, hidden) each."""
    wanted, found = (each.mean(axis=0, dtype=np.float64) for each in (source, artifact))
    norms = float(np.linalg.norm(wanted) * np.linalg.norm(found))
    return float(wanted @ found) / norms if norms > 0 else math.nan


def _embedding_metrics(cosines: NDArray[np.float64], seconds: float) -> Iterator[Metric]:
    """embedding_cosine of windows' mean token vectors with the source's: the mean, and the worst."""
    n, each = len(cosines), cosines[:, None]
    low, high = Bootstrap.over(n).of_mean(each, np.ones_like(each, np.bool_)) or (None, None)
    yield Metric("embedding_cosine", float(cosines.mean()), "", n=n, higher_is_better=True, ci_low=low, ci_high=high)
    yield Metric("embedding_cosine_worst", float(cosines.min()), "", n=n, higher_is_better=True)
    yield Metric("evaluation_seconds", seconds, "s", n=n, higher_is_better=False)
