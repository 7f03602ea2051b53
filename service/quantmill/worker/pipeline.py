"""One attempt at a job, from its source to a verified export folder, read top to bottom.

Runs in the runner process. It knows no database: what is worth keeping goes out as messages.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from typing import Any

from quantmill.calibration.samples import Samples
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import PluginBroken, SourceRejected
from quantmill.contract.method import Method
from quantmill.contract.tensors import Plan, QuantizedTensor
from quantmill.domain.artifacts import Metric
from quantmill.domain.jobs import Phase
from quantmill.evaluation import Artifact, Measured, SourceCache, Text, measure, require
from quantmill.files.atomic import exhaustion_reported
from quantmill.plugins import Plugins
from quantmill.verification import Verification, verify
from quantmill.worker.calibrated import CalibrationRun, calibration_of, kind_of_worker, usable, windows_of_task
from quantmill.worker.conversion import Worked, opened
from quantmill.worker.environment import capture_environment, peak_memory_bytes
from quantmill.worker.kept import KeptState
from quantmill.worker.messages import (
    Findings,
    Finished,
    FinishedUnit,
    Message,
    MetricValue,
    NoteTaken,
    PlanSettled,
    Progressed,
    SourceKnown,
    Start,
    UnitFinished,
)
from quantmill.worker.session import RunnerSession, check_canceled
from quantmill.worker.units import PlacedUnits, UnitFiles, UnitStore

Send = Callable[[Message], None]

KEPT = "kept"  # the folder of what methods keep, beside the units
IN_FLIGHT_BYTES = 64 << 20  # of units that are being written while the next one is made


def run(task: Start, plugins: Plugins, send: Send, canceled: threading.Event) -> None:
    """Carry out `task`, reporting through `send`; ends with a Finished message or raises QuantmillError."""
    method = plugins.method(task.method)
    params = method.params.model_validate(task.params)
    text = Text.read(task.evaluation_text) if task.evaluation_text is not None else None
    identify = functools.cache(functools.partial(identify_source, task=task, send=send))

    send(Progressed(phase=Phase.FETCH))
    with (
        open_checkpoint(task.source) as source,
        worked_on(task, method, params, source, identify, send, canceled) as worked,
    ):
        checkpoint = worked.checkpoint
        if text is not None:
            require(checkpoint, text, task.evaluation)  # now, not after hours of work
        samples = windows_of_task(task, checkpoint)
        source_digest = identify(source)
        worked.name_source(source_digest)
        send(Progressed(phase=Phase.PLAN))
        planned = worked.plan(method, params)
        plan = plan_of(task, planned, worked.forecast)
        if worked.conversion is not None and plan.settled and plan.to_json() != task.plan:
            send(PlanSettled(plan=plan.to_json()))
        if not plan.settled:
            plan = settle(task, method, params, checkpoint, plan, samples, source_digest, send, canceled)
            send(PlanSettled(plan=plan.to_json()))

        with closing(unit_store(task, method, params, checkpoint, plan)) as store:
            whole = [unit for unit in task.finished if store.holds(unit)]
            done = usable(plan, whole, task.carry_store, kind_of_worker(task, plan))
            progress = reporter(send, Phase.CALIBRATE)
            with calibration_of(
                task, checkpoint, plan, samples, source_digest, done, progress, canceled
            ) as calibration:
                findings = quantize(task, method, params, checkpoint, plan, store, done, calibration, send, canceled)

            check_canceled(canceled)
            send(Progressed(phase=Phase.EXPORT))
            export(task, method, store)

        check_canceled(canceled)
        send(Progressed(phase=Phase.VERIFY))
        progress = reporter(send, Phase.VERIFY)
        verification = verify(checkpoint, plan, method, params, task.export_folder, progress, task.threads)
        verification = worked.with_conversion(verification)

        check_canceled(canceled)
        measured = None
        if text is not None:
            seen = samples.documents if samples is not None else None
            measured = evaluate(task, method, checkpoint, text, source_digest, verification.nbytes, seen, send)
        metrics = [*size_metrics(plan), *verification.metrics(), *(measured.metrics if measured else ())]
    send(finished(method, plan, verification, metrics, measured, calibration, findings))


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


def worked_on(
    task: Start,
    method: Method,
    params: Any,
    source: Checkpoint,
    identify: Callable[[Checkpoint], str],
    send: Send,
    canceled: threading.Event,
) -> AbstractContextManager[Worked]:
    """What the method works on: the source, or what it becomes beside the export folder, once it is identified."""

    def converting(what: str) -> None:
        identify(source)
        send(Progressed(phase=Phase.FETCH, message=f"making {what}"[:200]))

    return opened(
        source,
        method,
        params,
        beside=task.export_folder.parent,
        threads=task.threads,
        canceled=canceled,
        converting=converting,
    )


def plan_of(task: Start, plan: Plan, forecast: Plan | None = None) -> Plan:
    """The plan of the job: `plan`, or what an earlier attempt has settled it to.

    `forecast` is what a job was submitted with whose source becomes another one first.
    """
    if not task.plan:
        return plan
    known = Plan.from_json(task.plan)
    if known == forecast:
        return plan
    if known != plan and not known.settles(plan):
        became = ", or this worker makes something else of it than an earlier one did" if forecast is not None else ""
        raise SourceRejected(f"the source's headers have changed since the job was submitted{became}; submit a new job")
    return known


def settle(
    task: Start,
    method: Method,
    params: Any,
    checkpoint: Checkpoint,
    plan: Plan,
    samples: Samples | None,
    source_digest: str,
    send: Send,
    canceled: threading.Event,
) -> Plan:
    """Have the method decide by the weights what its plan leaves open. Statistics that it needs are kept for later."""
    if method.settle is None:
        raise PluginBroken(f"method {method.name!r} leaves schemes open, and cannot settle them", method=method.name)
    progress = reporter(send, Phase.CALIBRATE)
    with calibration_of(task, checkpoint, plan, samples, source_digest, (), progress, canceled) as calibration:
        steps = reporter(send, Phase.PLAN, "measuring the weights")
        steps(0, 0)
        settled = method.settle.load()(session_of(task, checkpoint, plan, (), calibration, canceled, steps), params)
    if not settled.settles(plan):
        raise PluginBroken(f"method {method.name!r} settled on what its plan does not allow", method=method.name)
    return settled


def unit_store(task: Start, method: Method, params: Any, checkpoint: Checkpoint, plan: Plan) -> UnitStore:
    """Where the units of this job are kept: in the artifact's own files where the method can say so beforehand."""
    index = checkpoint.index
    if method.place is not None:
        return PlacedUnits(task.unit_store, plan, method.place.load()(plan, index, params))
    write = method.write.load()
    return UnitFiles(task.unit_store, plan, lambda tensors, folder: write(tensors, plan, index, params, folder))


def quantize(
    task: Start,
    method: Method,
    params: Any,
    checkpoint: Checkpoint,
    plan: Plan,
    store: UnitStore,
    finished: Iterable[FinishedUnit],
    calibration: CalibrationRun | None,
    send: Send,
    canceled: threading.Event,
) -> list[Findings]:
    """Do the units that are missing; each is kept, by threads of its own, while the next ones are made.

    A block has been run through as it has become before it counts as finished: what it hands on belongs to it.
    Gives what came of each unit in the order of the plan, those of earlier attempts too.
    """
    findings = {unit.key: unit.findings for unit in finished}
    done = set(findings)
    steps = reporter(send, Phase.CALIBRATE)  # of a method's own
    session = session_of(task, checkpoint, plan, done, calibration, canceled, steps)
    send(Progressed(phase=Phase.QUANTIZE, done=len(done), total=len(plan.units)))
    made = by_unit(method.quantize.load()(session, params), plan, skip=frozenset(done))
    carries: dict[str, str] = {}
    if calibration is not None:
        made = calibration.handing_on(made, carries, findings)
    made = noted(made, session, findings)
    blocks = {unit.key for unit in plan.units if unit.block is not None}
    for unit in kept(made, store, threads=task.threads, at_once=blocks):
        done.add(unit.key)
        known = {"carry": carries.get(unit.key), "findings": findings[unit.key]}
        send(UnitFinished(unit=unit.model_copy(update=known)))
        send(Progressed(phase=Phase.QUANTIZE, done=len(done), total=len(plan.units), message=unit.key))
    missing = [unit.key for unit in plan.units if unit.key not in done]
    if missing:
        raise PluginBroken(f"method {method.name!r} left out units of its own plan: {missing[:5]}", missing=missing)
    return [findings[unit.key] for unit in plan.units]


def noted(
    units: Iterable[tuple[str, tuple[QuantizedTensor, ...]]],
    session: RunnerSession,
    findings: MutableMapping[str, Findings],
) -> Iterator[tuple[str, tuple[QuantizedTensor, ...]]]:
    """The units; `findings` get what the method has said of each by the time that its last tensor is there."""
    for key, tensors in units:
        notes = tuple(NoteTaken(**vars(note)) for note in session.take_notes())
        findings[key] = findings.get(key, Findings()).model_copy(update={"notes": notes})
        yield key, tensors


def session_of(
    task: Start,
    checkpoint: Checkpoint,
    plan: Plan,
    finished: Collection[str],
    calibration: CalibrationRun | None,
    canceled: threading.Event,
    progress: Callable[[int, int], None],
) -> RunnerSession:
    return RunnerSession(
        checkpoint,
        plan,
        threads=task.threads,
        device=task.device,
        seed=task.seed,
        finished=finished,
        canceled=canceled,
        calibration=calibration.engine if calibration is not None else None,
        windows=calibration.samples.ids if calibration is not None else None,
        progress=progress,
        kept=KeptState(task.unit_store / KEPT),
    )


def kept(
    units: Iterable[tuple[str, Sequence[QuantizedTensor]]],
    store: UnitStore,
    threads: int,
    at_once: Collection[str] = (),
) -> Iterator[FinishedUnit]:
    """Put the units into the store, `threads` at a time; gives each in its order once it is there.

    The next unit is made only when the ones on their way take IN_FLIGHT_BYTES at most, and one of `at_once` is there:
    units that take far longer to make than to write.
    """
    on_their_way: deque[tuple[int, Future[FinishedUnit]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="units") as pool:
        for key, tensors in units:
            nbytes = sum(tensor.nbytes for tensor in tensors)
            on_their_way.append((nbytes, pool.submit(store.put, key, tensors)))
            del tensors
            most = 0 if key in at_once else IN_FLIGHT_BYTES
            while on_their_way and (sum(size for size, _ in on_their_way) > most or on_their_way[0][1].done()):
                yield on_their_way.popleft()[1].result()
        while on_their_way:
            yield on_their_way.popleft()[1].result()


def by_unit(
    tensors: Iterable[QuantizedTensor], plan: Plan, skip: Iterable[str]
) -> Iterator[tuple[str, tuple[QuantizedTensor, ...]]]:
    """Group a method's output into the plan's units, refusing whatever the plan does not foresee."""
    done = frozenset(skip)
    expected = (unit for unit in plan.units if unit.key not in done)
    stream = iter(tensors)
    for unit in expected:
        yield unit.key, _next_tensors(stream, stored_tensors(plan, unit.tensors), plan)
    surplus = next(stream, None)
    if surplus is not None:
        raise PluginBroken(f"the method gave {surplus.name!r}, which its plan does not have", tensor=surplus.name)


def _next_tensors(stream: Iterator[QuantizedTensor], names: list[str], plan: Plan) -> tuple[QuantizedTensor, ...]:
    tensors = tuple(itertools.islice(stream, len(names)))
    for tensor, name in itertools.zip_longest(tensors, names):
        require_as_planned(tensor, name, plan)
    return tensors


def stored_tensors(plan: Plan, names: Iterable[str]) -> list[str]:
    return [name for name in names if plan.by_name[name].action != "drop"]


def require_as_planned(tensor: QuantizedTensor | None, name: str | None, plan: Plan) -> None:
    if tensor is None or name is None or tensor.name != name:
        found = "nothing" if tensor is None else repr(tensor.name)
        raise PluginBroken(f"the method gave {found} where its plan has {name!r}", tensor=name)
    planned = plan.by_name[name]
    got = (tensor.scheme, tuple(tensor.shape), tensor.nbytes)
    want = (planned.scheme, planned.shape, planned.nbytes + planned.beside)
    if got != want:
        raise PluginBroken(f"tensor {name!r} came as (scheme, shape, bytes) {got}; its plan says {want}", tensor=name)


def export(task: Start, method: Method, store: UnitStore) -> None:
    """Make the consumer's files of the finished units."""
    with exhaustion_reported(task.export_folder):
        written = store.export(task.export_folder)
    outside = [str(path) for path in written if not path.resolve().is_relative_to(task.export_folder.resolve())]
    if outside or not written:
        raise PluginBroken(f"method {method.name!r} wrote outside its folder, or nothing: {outside}")


def evaluate(
    task: Start,
    method: Method,
    checkpoint: Checkpoint,
    text: Text,
    source_digest: str,
    nbytes: int,
    calibration: Sequence[str] | None,
    send: Send,
) -> Measured:
    """What the artifact has lost against its source on the text; `nbytes` are its files', `calibration` the documents
    that it was calibrated on."""
    weights = functools.partial(method.weights, task.export_folder)
    return measure(
        checkpoint,
        Artifact(weights, task.export_folder, nbytes, [runtime.name for runtime in method.runtimes_of(task.params)]),
        text,
        task.evaluation,
        calibration=calibration,
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
    method: Method,
    plan: Plan,
    verification: Verification,
    metrics: list[Metric],
    measured: Measured | None,
    calibration: CalibrationRun | None,
    findings: Sequence[Findings],
) -> Finished:
    return Finished(
        format=method.formats[0],
        plan=plan.to_json(),
        verification=verification.to_json(),
        metrics=tuple(MetricValue(**vars(metric)) for metric in metrics),
        measured=measured.to_json() if measured else {},
        calibration=calibration.to_json(findings) if calibration else {},
        notes=tuple(note for found in findings for note in found.notes),
        environment=capture_environment(),
        peak_memory_bytes=peak_memory_bytes(),
    )
