"""Everything that an evaluation measures, in one go: what a job and `quantmill evaluate` do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantmill.calibration import Weights, Windows
from quantmill.checkpoints.folder import Checkpoint
from quantmill.domain.artifacts import Metric
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.evaluation.cache import SourceCache
from quantmill.evaluation.continuation import Continuations, LeftOut, continuations
from quantmill.evaluation.footprint import Timed, predicted_memory, time_artifact
from quantmill.evaluation.measure import evaluate
from quantmill.evaluation.metrics import metrics_of
from quantmill.evaluation.tasks import require_tasks, run_tasks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """All metrics, what was left out and why, and what they were measured on."""

    metrics: tuple[Metric, ...]
    left_out: tuple[LeftOut, ...]
    windows: Windows
    options: EvaluationOptions

    def to_json(self) -> dict[str, Any]:
        """What quantmill.json keeps beside the metrics."""
        cut = {"windows": len(self.windows.ids), "window": self.windows.window, "stride": self.windows.stride}
        return {"options": asdict(self.options) | cut, "left_out": [asdict(each) for each in self.left_out]}


@dataclass(frozen=True)
class Artifact:
    """A compressed model on disk: its weights as they are read back, and what it takes to run it.

    `nbytes` is the size of its files; `runtimes` are the names of the programs that load it.
    """

    weights: Weights
    folder: Path
    nbytes: int
    runtimes: Sequence[str]


def require(options: EvaluationOptions) -> None:
    """Whether this machine has what the options name: the device, lm-eval. Raises RequestRejected."""
    require_tasks(options.tasks)
    if options.device != "cpu":
        from quantmill.calibration.decoder import find_device

        find_device(options.device)


def measure(
    checkpoint: Checkpoint,
    artifact: Artifact,
    text: str,
    options: EvaluationOptions,
    *,
    threads: int = 1,
    cache: SourceCache | None = None,
    folder: Path | None = None,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Predictions, continuations, tasks, memory and speed of an artifact beside its source.

    `memory_bytes` bounds what needs a whole model in memory; it is left out where that does not suffice. Other
    options, memory and errors are those of `evaluate`, and of `run_tasks`.
    """
    require(options)
    how: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "threads": threads}
    evaluation = evaluate(
        checkpoint,
        artifact.weights,
        text,
        window=options.window,
        stride=options.stride,
        cache=cache,
        folder=folder,
        progress=progress,
        **how,
    )
    windows = evaluation.windows
    metrics = [*metrics_of(evaluation), *_memory(checkpoint, artifact, options.context)]
    if options.tasks:
        metrics.extend(run_tasks(checkpoint, artifact.weights, options.tasks, limit=options.task_documents, **how))
    found: list[Continuations | Timed | LeftOut] = []
    if options.prompts:
        bounded = {"memory_bytes": memory_bytes, "cache": cache, "progress": progress, **how}
        found.append(continuations(checkpoint, artifact.weights, windows, prompts=options.prompts, **bounded))
    if options.speed:
        bounded = {"nbytes": artifact.nbytes, "memory_bytes": memory_bytes, "threads": threads}
        found.append(time_artifact(artifact.folder, artifact.runtimes, windows.ids[0].tolist(), **bounded))
    left_out = tuple(each for each in found if isinstance(each, LeftOut))
    metrics.extend(metric for each in found if not isinstance(each, LeftOut) for metric in each.metrics())
    return Measured(tuple(metrics), left_out, windows, options)


def _memory(checkpoint: Checkpoint, artifact: Artifact, context: int | None) -> Iterator[Metric]:
    index = checkpoint.index
    for subject, nbytes in {"source": index.nbytes, "artifact": artifact.nbytes}.items():
        yield predicted_memory(index, nbytes, artifact.runtimes, context, subject)
