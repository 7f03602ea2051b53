"""One attempt at a job, from its source to a verified export folder, read top to bottom.

Runs in the runner process. It knows no database: what is worth keeping goes out as messages.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import PluginBroken, SourceRejected
from quantmill.contract.method import Method
from quantmill.contract.tensors import Plan, QuantizedTensor
from quantmill.domain.artifacts import Metric
from quantmill.domain.jobs import Phase
from quantmill.evaluation import Artifact, Measured, SourceCache, Text, measure, require
from quantmill.files.atomic import exhaustion_reported
from quantmill.files.blobs import BlobStore
from quantmill.plugins import Plugins
from quantmill.verification import Verification, verify
from quantmill.worker.environment import capture_environment, peak_memory_bytes
from quantmill.worker.messages import (
    Finished,
    FinishedUnit,
    Message,
    MetricValue,
    Progressed,
    SourceKnown,
    Start,
    UnitFinished,
)
from quantmill.worker.session import RunnerSession, check_canceled
from quantmill.worker.units import read_unit, write_unit

Send = Callable[[Message], None]


def run(task: Start, plugins: Plugins, send: Send, canceled: threading.Event) -> None:
    """Carry out `task`, reporting through `send`; ends with a Finished message or raises QuantmillError."""
    method = plugins.method(task.method)
    params = method.params.model_validate(task.params)
    text = Text.read(task.evaluation_text) if task.evaluation_text is not None else None

    send(Progressed(phase=Phase.FETCH))
    with open_checkpoint(task.source) as checkpoint:
        if text is not None:
            require(checkpoint, text, task.evaluation)  # now, not after hours of work
        source_digest = identify_source(checkpoint, task, send)
        send(Progressed(phase=Phase.PLAN))
        plan = method.plan.load()(checkpoint.index, params)
        require_same_plan(task, plan)

        units = quantize(task, method, params, checkpoint, plan, send, canceled)

        check_canceled(canceled)
        send(Progressed(phase=Phase.EXPORT))
        export(task, method, params, checkpoint, plan, units)

        check_canceled(canceled)
        verification = verify(
            checkpoint, plan, method, params, task.export_folder, progress=reporter(send, Phase.VERIFY)
        )

        check_canceled(canceled)
        measured = None
        if text is not None:
            measured = evaluate(task, method, checkpoint, text, source_digest, verification.nbytes, send)
        metrics = [*size_metrics(plan), *verification.metrics(), *(measured.metrics if measured else ())]
    send(finished(method, plan, verification, metrics, measured))


def identify_source(checkpoint: Checkpoint, task: Start, send: Send) -> str:
    """Digest the source, and refuse one that has changed since an earlier attempt finished units of it."""
    digest = checkpoint.source_digest(progress=reporter(send, Phase.FETCH))
    if task.source_digest is not None and digest != task.source_digest:
        raise SourceRejected(
            "the source has changed since this job began; submit a new job for the new source",
            expected=task.source_digest,
            found=digest,
        )
    send(SourceKnown(digest=digest))
    return digest


def require_same_plan(task: Start, plan: Plan) -> None:
    if task.plan and Plan.from_json(task.plan) != plan:
        raise SourceRejected("the source's headers have changed since the job was submitted; submit a new job")


def quantize(
    task: Start,
    method: Method,
    params: Any,
    checkpoint: Checkpoint,
    plan: Plan,
    send: Send,
    canceled: threading.Event,
) -> dict[str, FinishedUnit]:
    """Do the units that are missing, checkpoint each, and give all units of the plan by key."""
    store = BlobStore(task.unit_store, durable=False)  # a later attempt verifies what it takes over
    units = {unit.key: unit for unit in task.finished}
    session = RunnerSession(checkpoint, plan, threads=task.threads, seed=task.seed, finished=units, canceled=canceled)
    send(Progressed(phase=Phase.QUANTIZE, done=len(units), total=len(plan.units)))
    for key, tensors in by_unit(method.quantize.load()(session, params), plan, skip=units):
        units[key] = unit = store_unit(store, task, key, tensors)
        send(UnitFinished(unit=unit))
        send(Progressed(phase=Phase.QUANTIZE, done=len(units), total=len(plan.units), message=key))
    missing = [unit.key for unit in plan.units if unit.key not in units]
    if missing:
        raise PluginBroken(f"method {method.name!r} left out units of its own plan: {missing[:5]}", missing=missing)
    return units


def by_unit(
    tensors: Iterable[QuantizedTensor], plan: Plan, skip: Iterable[str]
) -> Iterator[tuple[str, list[QuantizedTensor]]]:
    """Group a method's output into the plan's units, refusing whatever the plan does not foresee."""
    done = frozenset(skip)
    expected = (unit for unit in plan.units if unit.key not in done)
    stream = iter(tensors)
    for unit in expected:
        finished = list(itertools.islice(stream, len(stored_tensors(plan, unit.tensors))))
        for tensor, name in itertools.zip_longest(finished, stored_tensors(plan, unit.tensors)):
            require_as_planned(tensor, name, plan)
        yield unit.key, finished
        finished.clear()
    surplus = next(stream, None)
    if surplus is not None:
        raise PluginBroken(f"the method gave {surplus.name!r}, which its plan does not have", tensor=surplus.name)


def stored_tensors(plan: Plan, names: Iterable[str]) -> list[str]:
    return [name for name in names if plan.by_name[name].action != "drop"]


def require_as_planned(tensor: QuantizedTensor | None, name: str | None, plan: Plan) -> None:
    if tensor is None or name is None or tensor.name != name:
        found = "nothing" if tensor is None else repr(tensor.name)
        raise PluginBroken(f"the method gave {found} where its plan has {name!r}", tensor=name)
    planned = plan.by_name[name]
    got = (tensor.scheme, tuple(tensor.shape), tensor.nbytes)
    want = (planned.scheme, planned.shape, planned.nbytes)
    if got != want:
        raise PluginBroken(f"tensor {name!r} came as (scheme, shape, bytes) {got}; its plan says {want}", tensor=name)


def store_unit(store: BlobStore, task: Start, key: str, tensors: list[QuantizedTensor]) -> FinishedUnit:
    path = task.export_folder.parent / "unit.safetensors"
    write_unit(tensors, path)
    blob = store.put_file(path, move=True)
    return FinishedUnit(key=key, digest=blob.digest, size=blob.size)


def export(
    task: Start, method: Method, params: Any, checkpoint: Checkpoint, plan: Plan, units: dict[str, FinishedUnit]
) -> None:
    """Write the consumer's files from the finished units, one tensor in memory at a time."""
    store = BlobStore(task.unit_store)
    stream = (tensor for unit in plan.units for tensor in read_unit(store.path(units[unit.key].digest)))
    task.export_folder.mkdir()
    with exhaustion_reported(task.export_folder):
        written = method.write.load()(stream, plan, checkpoint.index, params, task.export_folder)
    outside = [str(path) for path in written if not path.resolve().is_relative_to(task.export_folder.resolve())]
    if outside or not written:
        raise PluginBroken(f"method {method.name!r} wrote outside its folder, or nothing: {outside}")


def evaluate(
    task: Start, method: Method, checkpoint: Checkpoint, text: Text, source_digest: str, nbytes: int, send: Send
) -> Measured:
    """What the artifact has lost against its source on the text; `nbytes` are its files'."""
    weights = functools.partial(method.weights, task.export_folder)
    return measure(
        checkpoint,
        Artifact(weights, task.export_folder, nbytes, [runtime.name for runtime in method.runtimes]),
        text,
        task.evaluation,
        threads=task.threads,
        cache=SourceCache(task.evaluation_cache, source_digest, task.evaluation_cache_bytes),
        folder=task.export_folder.parent,
        memory_bytes=memory_share(task),
        progress=reporter(send, Phase.EVALUATE),
    )


def memory_share(task: Start) -> int | None:
    """What a whole model may take of the runner's memory."""
    return None if task.memory_bytes is None else max(0, task.memory_bytes - peak_memory_bytes())


def size_metrics(plan: Plan) -> list[Metric]:
    """Stored bits per weight of the tensors, which verification has held the files to."""
    return [
        Metric("bits_per_weight", plan.bits_per_weight, "bit", higher_is_better=False),
        Metric("quantized_bits_per_weight", plan.quantized_bits_per_weight, "bit", higher_is_better=False),
    ]


def reporter(send: Send, phase: Phase, message: str = "") -> Callable[[int, int], None]:
    return lambda done, total: send(Progressed(phase=phase, done=done, total=total, message=message))


def finished(
    method: Method, plan: Plan, verification: Verification, metrics: list[Metric], measured: Measured | None
) -> Finished:
    return Finished(
        format=method.formats[0],
        plan=plan.to_json(),
        verification=verification.to_json(),
        metrics=tuple(MetricValue(**vars(metric)) for metric in metrics),
        measured=measured.to_json() if measured else {},
        environment=capture_environment(),
        peak_memory_bytes=peak_memory_bytes(),
    )
