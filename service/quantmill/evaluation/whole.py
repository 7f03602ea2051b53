"""Everything that an evaluation measures, in one go: what a job and `quantmill evaluate` do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantmill.calibration import Weights, Windows, windows_of
from quantmill.calibration.tokens import TOKENIZER
from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.tensors import ModelIndex
from quantmill.domain.artifacts import Metric
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.evaluation.cache import SourceCache
from quantmill.evaluation.continuation import Continuations, LeftOut, continuations
from quantmill.evaluation.footprint import Timed, predicted_memory, time_artifact
from quantmill.evaluation.graphs import measure_graphs, require_graph_text
from quantmill.evaluation.measure import evaluate
from quantmill.evaluation.metrics import metrics_of
from quantmill.evaluation.tasks import require_tasks, run_tasks
from quantmill.files.blobs import digest_of
from quantmill.texts import TextSet, batches_digest, overlap, registered

Progress = Callable[[int, int], None]

OF_MODELS = "it is measured of models of transformers, not of graphs"


@dataclass(frozen=True)
class Measured:
    """All metrics, what was left out and why, and what they were measured on."""

    metrics: tuple[Metric, ...]
    left_out: tuple[LeftOut, ...]
    windows: Windows
    options: EvaluationOptions
    text: TextSet
    batches: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What quantmill.json keeps beside the metrics: plain JSON values. `batches` names the tokens as they were cut:
        documents, order, tokenizer, window, stride."""
        cut = {"windows": len(self.windows.ids), "window": self.windows.window, "stride": self.windows.stride}
        return {
            "text": {**self.text.to_json(), "tokens": self.windows.tokens, "batches": self.batches},
            "options": asdict(self.options) | cut,
            "left_out": [asdict(each) for each in self.left_out],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Text:
    """Documents and what they are; a model reads them with a blank line between them."""

    documents: tuple[str, ...]
    described: TextSet

    @classmethod
    def read(cls, path: Path) -> Text:
        """Raises TextRejected for what is no text, or no longer what was registered."""
        return cls(*registered(path))

    @property
    def joined(self) -> str:
        return "\n\n".join(self.documents)


@dataclass(frozen=True)
class Artifact:
    """A compressed model on disk: its weights as they are read back, and what it takes to run it.

    `nbytes` is the size of its files; `runtimes` are the names of the programs that load it.
    """

    weights: Weights
    folder: Path
    nbytes: int
    runtimes: Sequence[str]


def require(checkpoint: Checkpoint, text: Text, options: EvaluationOptions) -> None:
    """Whether an evaluation will come to its end here: before a job does hours of work for it.

    Raises what `measure` raises for a text that has no window, a tokenizer that cannot be used, a model that
    transformers does not have, a device or lm-eval that this machine does not have. No weight is read.
    """
    if checkpoint.index.graph is not None:
        require_graph_text(checkpoint.index, text.joined, options)
        return
    require_tasks(options.tasks)
    windows_of(checkpoint.index, text.joined, options.window, options.stride)
    from quantmill.evaluation.greedy import decoder_of

    decoder_of(checkpoint.index, options.device, options.dtype)


def measure(
    checkpoint: Checkpoint,
    artifact: Artifact,
    text: Text,
    options: EvaluationOptions,
    *,
    calibration: Sequence[str] | None = None,
    threads: int = 1,
    cache: SourceCache | None = None,
    folder: Path | None = None,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Predictions, continuations, tasks, memory and speed of an artifact beside its source.

    `calibration` are the documents that the artifact was calibrated on, if any: what stands in both texts is said.
    `memory_bytes` bounds what needs a whole model in memory; it is left out where that does not suffice. Other
    options, memory and errors are those of `evaluate`, and of `run_tasks`; those of an ONNX graph `measure_graphs`'.
    """
    if checkpoint.index.graph is not None:
        graphs = measure_graphs(checkpoint, artifact.folder, text.joined, options, threads=threads, progress=progress)
        left_out = tuple(LeftOut(what, OF_MODELS) for what in ("continuations", "memory", "speed"))
        return _summed_up(checkpoint, text, options, graphs.windows, graphs.metrics, left_out, calibration)
    require_tasks(options.tasks)
    how: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "threads": threads}
    evaluation = evaluate(
        checkpoint,
        artifact.weights,
        text.joined,
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
    return _summed_up(checkpoint, text, options, windows, metrics, left_out, calibration)


def _summed_up(
    checkpoint: Checkpoint,
    text: Text,
    options: EvaluationOptions,
    windows: Windows,
    measured: Sequence[Metric],
    left_out: tuple[LeftOut, ...],
    calibration: Sequence[str] | None,
) -> Measured:
    """With what stands in the calibration text too."""
    metrics, warnings = [*measured], [text.described.warning]
    if calibration is not None:
        shared = overlap(text.documents, calibration)
        metrics.append(
            Metric("calibration_overlap", shared.share, "share", "text", n=shared.runs, higher_is_better=False)
        )
        warnings.append(shared.warning)
    said = tuple(each for each in warnings if each)
    batches = _batches(checkpoint.index, text.described.digest, windows)
    return Measured(tuple(metrics), left_out, windows, options, text.described, batches, said)


def _batches(index: ModelIndex, text: str, windows: Windows) -> str:
    with index.files[TOKENIZER].open("rb") as file:
        tokenizer = digest_of(file)
    packing = "documents joined by blank lines"
    return batches_digest(text, tokenizer, sequence=windows.window, stride=windows.stride, packing=packing, seed=0)


def _memory(checkpoint: Checkpoint, artifact: Artifact, context: int | None) -> Iterator[Metric]:
    index = checkpoint.index
    for subject, nbytes in {"source": index.nbytes, "artifact": artifact.nbytes}.items():
        yield predicted_memory(index, nbytes, artifact.runtimes, context, subject)
