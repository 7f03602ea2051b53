"""lm-eval's tasks, on a compressed model beside its source. lm-eval is the extra `quantmill[lm-eval]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from quantmill.calibration import Weights, source_weights
from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.errors import RequestRejected
from quantmill.domain.artifacts import Metric
from quantmill.evaluation.intervals import Bootstrap

if TYPE_CHECKING:
    from quantmill.evaluation.scorer import Scorer

EXTRA = "lm-eval"


def require_tasks(tasks: Sequence[str]) -> None:
    """Raises RequestRejected where tasks are asked for and lm-eval is not installed; it is not imported."""
    if tasks and find_spec("lm_eval") is None:
        raise RequestRejected(
            f"tasks ({', '.join(tasks)}) are run by lm-eval, which is not installed here: pip install "
            f"'quantmill[{EXTRA}]'",
            extra=EXTRA,
        )


def run_tasks(
    checkpoint: Checkpoint,
    weights: Weights,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    task_manager: Any = None,
) -> list[Metric]:
    """Each task's metrics of the source and of a model with `weights`, and their difference, named `task.metric`.

    Intervals are by bootstrap over the task's documents, paired for the difference; a metric that is not a mean over
    documents has none. `limit` is the number of documents of each task, by default all. The whole model is in memory,
    one at a time. `task_manager` is lm-eval's, where tasks of one's own are to be found.

    Raises RequestRejected where lm-eval is not installed or has no such task or cannot run it (a data set that is
    not on this machine), and what `evaluate` raises.
    """
    require_tasks(tasks)
    from quantmill.calibration.decoder import limit_threads
    from quantmill.evaluation.greedy import decoder_of
    from quantmill.evaluation.scorer import Scorer

    decoder = decoder_of(checkpoint.index, device, dtype)
    found = []
    with limit_threads(threads):
        for each in (source_weights(checkpoint), weights):
            with decoder.whole(each) as model:
                found.append(_evaluate(Scorer(model, checkpoint.index, decoder.device), tasks, limit, task_manager))
    return list(_metrics(*found))


def _evaluate(scorer: Scorer, tasks: Sequence[str], limit: int | None, task_manager: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    known = task_manager or TaskManager()
    unknown = [task for task in tasks if task not in known.all_tasks]
    if unknown:
        raise RequestRejected(f"lm-eval {lm_eval.__version__} has no task {', '.join(unknown)}", tasks=unknown)
    adapter = type("QuantmillModel", (_Adapter, LM), {})(scorer)
    try:
        found = lm_eval.simple_evaluate(
            adapter, tasks=list(tasks), limit=limit, log_samples=True, bootstrap_iters=0, task_manager=known
        )
    except Exception as error:  # data sets, downloads and prompts of other people's tasks
        reason = f"{type(error).__name__}: {error}"[:500]
        raise RequestRejected(f"lm-eval could not run {', '.join(tasks)}: {reason}", tasks=list(tasks)) from error
    return dict(found)


class _Adapter:
    """What lm-eval asks of a model; its instances are requests with `args`."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer = scorer

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return self._scorer.loglikelihood([request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return [self._scorer.rolling(request.args[0]) for request in requests]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return [self._scorer.generate(text, **_stops(options)) for text, options in (each.args for each in requests)]


def _stops(options: Mapping[str, Any]) -> dict[str, Any]:
    until = options.get("until") or []
    return {
        "until": [until] if isinstance(until, str) else list(until),
        "most": int(options.get("max_gen_toks", 256)),
    }


def _metrics(source: dict[str, Any], artifact: dict[str, Any]) -> Iterator[Metric]:
    for task, samples in artifact["samples"].items():
        better = artifact["higher_is_better"].get(task, {})
        for key, value in artifact["results"][task].items():
            metric, _, filter_ = key.partition(",")
            if metric not in better or not isinstance(value, int | float):
                continue
            name = f"{task}.{metric}" + (f".{filter_}" if filter_ not in {"", "none"} else "")
            values = [_by_document(each["samples"][task], metric, filter_) for each in (source, artifact)]
            yield from _compared(name, source["results"][task][key], value, values, len(samples), better[metric])


def _by_document(samples: Sequence[Mapping[str, Any]], metric: str, filter_: str) -> list[float]:
    """The metric of each document, or nothing where it is not a number of each."""
    chosen = sorted((each for each in samples if each.get("filter") == filter_), key=lambda each: int(each["doc_id"]))
    values = [each.get(metric) for each in chosen]
    return [float(each) for each in values if isinstance(each, int | float)] if None not in values else []


def _compared(
    name: str, source: float, artifact: float, values: list[list[float]], n: int, better: bool
) -> Iterator[Metric]:
    """The two values and their difference."""
    paired = len(values[0]) == len(values[1]) > 0
    rows = [np.array(each)[:, None] for each in values] if paired else []
    shown = [
        ("source", name, source),
        ("artifact", name, artifact),
        ("artifact", f"{name}.difference", artifact - source),
    ]
    columns = [*rows, rows[1] - rows[0]] if paired else [None] * 3
    for (subject, label, value), column in zip(shown, columns, strict=True):
        found = None if column is None else Bootstrap.over(len(column)).of_mean(column, np.ones(column.shape, np.bool_))
        low, high = found or (None, None)
        n_documents = n if column is None else len(column)
        yield Metric(label, value, "", subject, n_documents, higher_is_better=better, ci_low=low, ci_high=high)
