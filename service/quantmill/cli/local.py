"""Commands that need no service: the embedded store and this machine's cores."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import UUID

from quantmill.cli import options
from quantmill.cli.exits import OF_STATE
from quantmill.cli.logs import log_to_stderr
from quantmill.cli.output import note, say, show_fields, show_json, show_table, size, warn
from quantmill.cli.progress import Watch, watch
from quantmill.contract.errors import ArtifactDamaged, RequestRejected, ResourceExhausted, SourceRejected
from quantmill.contract.inputs import named_files
from quantmill.contract.tensors import Plan
from quantmill.domain.estimates import UNKNOWN_HISTORY, Estimate, History
from quantmill.domain.jobs import FINAL, Job, JobRequest, State

if TYPE_CHECKING:
    from quantmill.contract.method import Method
    from quantmill.domain.artifacts import Artifact, Metric
    from quantmill.domain.comparisons import VariantRequest
    from quantmill.jobs.plan import Planned
    from quantmill.services import Services

POLL_SECONDS = 0.1
NAMED = 5  # tensors in a line of what a method found


def quantize(
    model: options.LocalModel,
    method: options.MethodName,
    output: options.Output,
    sets: options.Sets = None,
    evaluate: options.Evaluate = None,
    measures: options.Measures = None,
    gate: options.Gates = None,
    escalate: options.Escalate = None,
    escalate_mb: options.EscalateMb = None,
    escalate_by: options.EscalateBy = None,
    calibration: options.Calibrate = None,
    calibrate: options.Samples = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> int:
    """Compress MODEL into the new folder OUTPUT. Ctrl-C cancels."""
    from quantmill.dispatch.embedded import Embedded
    from quantmill.files.artifacts import materialize
    from quantmill.jobs import artifacts

    refuse_occupied(output)
    log_to_stderr(level=logging.ERROR)
    request = JobRequest(
        source=str(model.resolve()),
        method=method,
        params=with_real_files(method, options.parse_sets(sets)),
        evaluation_text=str(evaluate.resolve()) if evaluate else None,
        seed=seed,
        gates=tuple(gate or ()),
        evaluation=options.parse_measures(measures),
        escalation=options.parse_escalation(escalate, escalate_mb, escalate_by),
        calibration=options.parse_calibration(str(Path(calibration).resolve()) if calibration else None, calibrate),
    )
    calibrated_on = Path(calibration) if calibration else None
    with embedded_store(data_dir, [model, evaluate, calibrated_on, *files_of(request)], threads) as services:
        with Embedded(services), interruptible():
            job = run_to_end(services, request, watch(as_json))
        if job.state is not State.SUCCEEDED or job.artifact_digest is None:
            return report_failure(job, as_json)
        artifact, metrics = artifacts.get(services, job.artifact_digest)
        materialize(artifact, services.blobs, output)
        show_result(job, artifact, metrics, services.plugins.method(method), output, as_json)
    return OF_STATE[job.state]


def plan(
    model: options.LocalModel,
    method: options.MethodName,
    sets: options.Sets = None,
    measure: options.MeasureWeights = False,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show what `quantize` would do, tensor by tensor, and what it would take, without reading a weight."""
    from quantmill.api.schemas import PlanView
    from quantmill.jobs.estimates import estimate_from, for_plan
    from quantmill.jobs.memory import warned
    from quantmill.jobs.plan import plan_folder
    from quantmill.plugins import load_plugins

    chosen = load_plugins().method(method)
    planned = plan_folder(chosen, model, options.parse_sets(sets))
    if measure:
        planned = settled(chosen, model, planned)
    used = options.settings()
    planned = warned(used, planned)
    asked = for_plan(str(model), method, planned)
    expected = estimate_from(history_here(asked, data_dir), asked, planned)
    if as_json:
        show_json(PlanView.of(method, planned, expected, used.threads))
        return
    show_plan(planned, expected, used.threads)


def settled(method: Method, folder: Path, planned: Planned) -> Planned:
    """What the weights decide of a plan that leaves schemes open."""
    from quantmill.checkpoints import open_checkpoint
    from quantmill.worker.session import RunnerSession

    if planned.plan.settled or method.settle is None:
        return planned
    if planned.plan.converts:
        raise RequestRejected("what decides this plan is measured on what the source becomes, by the job itself")
    if planned.plan.calibration is not None:
        raise RequestRejected("what decides this plan is measured on calibration text, by the job itself")
    with open_checkpoint(folder) as checkpoint:
        threads = len(os.sched_getaffinity(0))
        session = RunnerSession(
            checkpoint, planned.plan, threads=threads, device="cpu", seed=0, finished=(), canceled=threading.Event()
        )
        return replace(planned, plan=method.settle.load()(session, planned.params))


def verify(artifact: options.LocalArtifact, against: options.Against, as_json: options.Json = False) -> None:
    """Check ARTIFACT's files against their digests, and its weights against the checkpoint they were made from."""
    from quantmill.checkpoints import open_checkpoint
    from quantmill.jobs.plan import plan_folder
    from quantmill.verification import verify as verify_weights
    from quantmill.worker.conversion import opened

    description, method = read_description(artifact)
    check_digests(artifact, description)
    planned = plan_folder(method, against, description["params"])
    with (
        TemporaryDirectory(prefix="quantmill-") as beside,
        open_checkpoint(against) as source,
        opened(source, method, planned.params, beside=Path(beside)) as worked,
    ):
        plan = as_described(worked.plan(method, planned.params), description)
        verification = verify_weights(worked.checkpoint, plan, method, planned.params, artifact)
        result = worked.with_conversion(verification).to_json()
    if as_json:
        show_json({"digest": description["digest"], "verification": result})
    else:
        say(f"{artifact} is what it should be")
        show_fields({name: value for name, value in result.items() if not isinstance(value, dict | list)})


def evaluate(
    artifact: options.LocalArtifact,
    against: options.Against,
    text: options.Text,
    window: options.Window = None,
    stride: options.Stride = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    prompts: options.Prompts = 16,
    context: options.Context = None,
    speed: options.Speed = True,
    task: options.Tasks = None,
    task_documents: options.TaskDocuments = None,
    calibration: options.Calibration = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Measure what ARTIFACT has lost on a text against the checkpoint that it was made from."""
    from quantmill.checkpoints import open_checkpoint
    from quantmill.domain.evaluation import EvaluationOptions
    from quantmill.evaluation import Artifact, Text, measure
    from quantmill.texts import read_documents
    from quantmill.worker.conversion import opened

    asked = EvaluationOptions(window, stride, device, dtype, prompts, context, speed, tuple(task or ()), task_documents)
    description, method = read_description(artifact)
    made = Artifact(
        functools.partial(method.weights, artifact),
        artifact,
        sum(file["size"] for file in description["files"]),
        [runtime.name for runtime in method.runtimes_of(description["params"])],
    )
    used = threads or options.settings().threads
    seen = read_documents(calibration) if calibration else None
    params = method.params.model_validate(description["params"])
    with (
        TemporaryDirectory(prefix="quantmill-") as beside,
        open_checkpoint(against) as source,
        opened(source, method, params, beside=Path(beside), threads=used, any_source=True) as worked,
    ):
        measured = measure(worked.checkpoint, made, Text.read(text), asked, calibration=seen, threads=used)
    if as_json:
        metrics = [vars(metric) for metric in measured.metrics]
        show_json({**measured.to_json(), "metrics": metrics})
        return
    show_metrics(measured.metrics)
    say_shortcomings(measured.to_json())


def say_shortcomings(measured: Mapping[str, Any]) -> None:
    """What was left out of an evaluation and why, and what makes it doubtful."""
    for each in measured.get("left_out", ()):
        note(f"not measured: {each['what']}: {each['reason']}")
    warn(measured.get("warnings", ()))


def show_metrics(metrics: Sequence[Metric]) -> None:
    columns = ("subject", "metric", "value", "95 % interval", "unit", "n")
    show_table(
        columns,
        [
            (each.subject, each.name, each.value, interval(each.ci_low, each.ci_high), each.unit, each.n)
            for each in metrics
        ],
    )


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


# Running a job


def refuse_occupied(output: Path) -> None:
    """Before any work: an artifact never mixes with other files."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RequestRejected(f"{output} exists and is not an empty folder; name a new one", path=str(output))


def with_real_files(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the absolute paths of the files that they name, relative to where the user is."""
    from quantmill.plugins import load_plugins

    named = named_files(load_plugins().method(method).params.model_json_schema(), params)
    return {**params, **{name: str(Path(path).resolve()) for name, path in named.items()}}


def files_of(request: JobRequest | VariantRequest) -> list[Path]:
    """The files that a request's parameters name."""
    from quantmill.plugins import load_plugins

    schema = load_plugins().method(request.method).params.model_json_schema()
    return [Path(path) for path in named_files(schema, request.params).values()]


@contextmanager
def embedded_store(data_dir: Path | None, named: Iterable[Path | None], threads: int | None) -> Iterator[Services]:
    """The embedded store, up to date. Whoever sits at the terminal may read the files that they named."""
    from quantmill.services import Services
    from quantmill.store.migrate import upgrade

    roots = tuple(path.resolve() for path in named if path)
    services = Services.open(options.settings(data_dir=data_dir, source_roots=roots, threads=threads, broker_url=None))
    try:
        upgrade(services.database)
        yield services
    finally:
        services.close()


def history_here(asked: JobRequest, data_dir: Path | None) -> History:
    """What such jobs took on this machine, where the embedded store is there; it is not made for that."""
    from quantmill.jobs.estimates import history_of
    from quantmill.store.database import Database
    from quantmill.store.migrate import is_current

    found = options.settings(data_dir=data_dir)
    if found.database_url is None and not found.data_dir.is_dir():
        return UNKNOWN_HISTORY
    database = Database.open(found.database)
    try:
        return history_of(database, asked) if is_current(database) else UNKNOWN_HISTORY
    finally:
        database.dispose()


def run_to_end(services: Services, request: JobRequest, watching: Watch) -> Job:
    """Submit and follow one job; an interrupt cancels it and waits for its end."""
    from quantmill.jobs.cancel import cancel
    from quantmill.jobs.submit import submit

    job = submit(services, request)
    with watching:
        try:
            return follow(services, job.id, watching)
        except KeyboardInterrupt:
            note("canceling")
            cancel(services, job.id)
            return follow(services, job.id, watching)


def give_up_unplaceable(services: Services, job: Job) -> None:
    """Cancel a job that this machine cannot run: it is the only worker that there will be. Raises ResourceExhausted."""
    from quantmill.jobs.cancel import cancel

    if job.waiting is not None and job.waiting.reason in ("no_eligible_worker", "waiting_workers"):
        cancel(services, job.id)
        raise ResourceExhausted(f"this machine cannot run the job: {'; '.join(job.waiting.missing)}")


def follow(services: Services, job_id: UUID, watching: Watch) -> Job:
    from quantmill.jobs.inspect import get

    while True:
        job = get(services, job_id)
        watching.show(job)
        if job.state in FINAL:
            return job
        give_up_unplaceable(services, job)
        time.sleep(POLL_SECONDS)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM means what Ctrl-C means."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# What came out


def report_failure(job: Job, as_json: bool) -> int:
    if as_json:
        show_json({"job": str(job.id), "state": job.state.value, "error": job.error})
    else:
        error = job.error or {}
        note(f"{error.get('title', 'The job ended').rstrip('.')}: {error.get('detail', job.state.value)}")
    return OF_STATE[job.state]


def show_result(
    job: Job, artifact: Artifact, metrics: list[Metric], method: Method, output: Path, as_json: bool
) -> None:
    from quantmill.api.schemas import ArtifactView

    runtimes = method.runtimes_of(job.request.params)
    commands = {runtime.name: command(runtime.command, artifact, output) for runtime in runtimes}
    description, _ = read_description(output)
    warnings = description["plan"]["warnings"]
    if as_json:
        view = ArtifactView.with_metrics(artifact, metrics).model_dump(mode="json")
        about = {"job": str(job.id), "state": job.state.value, "output": str(output), "run": commands}
        show_json({**about, "warnings": warnings, **view})
        return
    measured = {(metric.subject, metric.name): metric.value for metric in metrics}
    fields: dict[str, Any] = {
        "artifact": artifact.digest,
        "folder": output,
        "size": size(artifact.size),
        "bits per weight": f"{measured['artifact', 'bits_per_weight']:.3f}",
        "verified": "yes, every tensor against its source",
    }
    if ("artifact", "perplexity") in measured:
        source, made = measured["source", "perplexity"], measured["artifact", "perplexity"]
        fields["perplexity"] = f"{made:.4f} (source {source:.4f}, {100 * (made / source - 1):+.2f} %)"
    if job.steps:
        tried = [step.params for step in job.steps]
        changed = [name for name, value in job.request.params.items() if any(each.get(name) != value for each in tried)]
        before = ", ".join(" ".join(f"{name}={each.get(name)}" for name in changed) for each in tried)
        fields["escalated"] = f"to {' '.join(f'{name}={job.request.params[name]}' for name in changed)}, after {before}"
    show_fields(fields | {f"run with {name}": line for name, line in commands.items()})
    warn(warnings)
    say_shortcomings(description["measured"])
    say_shortcomings(description.get("calibration", {}))
    say_notes(description["notes"])


def say_notes(notes: Sequence[Mapping[str, Any]]) -> None:
    """What the method found of single tensors: a line for each kind; quantmill.json has them all."""
    tensors: dict[str, list[str]] = {}
    for each in notes:
        tensors.setdefault(each["found"], []).append(each["tensor"])
    for found, names in tensors.items():
        more = f" and {len(names) - NAMED} more (quantmill.json)" if len(names) > NAMED else ""
        note(f"{found}: {', '.join(names[:NAMED])}{more}")


def command(template: str, artifact: Artifact, folder: Path) -> str:
    main = max(artifact.files, key=lambda file: file.size).path
    first = re.sub(r"-\d{5}-of-(\d{5})\.gguf$", r"-00001-of-\1.gguf", main)  # a split model is loaded by its first part
    return template.format(file=folder / first, folder=folder)


def estimate_fields(expected: Estimate) -> dict[str, str]:
    seconds, memory = expected.seconds, expected.memory_bytes
    known = f"from {expected.runs} such jobs" if expected.runs else "no such job has run here yet"
    return {
        "expected time": f"{seconds.expected:.1f} s, {seconds.least:.1f} to {seconds.most:.1f} ({known})",
        "expected memory": f"{size(int(memory.expected))}, at most {size(int(memory.most))}",
        "scratch disk": size(expected.scratch_bytes),
    }


def show_plan(planned: Planned, expected: Estimate, threads: int) -> None:
    plan = planned.plan
    columns = ("tensor", "shape", "from", "scheme", "bytes", "reason")
    show_table(
        columns,
        [
            (
                tensor.name,
                "x".join(map(str, tensor.shape)),
                tensor.source_dtype,
                tensor.scheme,
                tensor.nbytes,
                tensor.reason,
            )
            for tensor in plan.tensors
        ],
    )
    show_fields(
        {
            "source": size(planned.index.nbytes),
            "artifact": size(plan.nbytes),
            **budget_fields(plan),
            "bits per weight": f"{plan.bits_per_weight:.3f}",
            "quantized tensors": f"{plan.quantized_bits_per_weight:.3f} bits per weight",
            "working memory": size(plan.peak_memory_bytes),
            **calibration_fields(planned, threads),
            **estimate_fields(expected),
            **{f"{name} file": digest for name, digest in plan.inputs.items()},
        }
    )
    warn(plan.warnings)


def budget_fields(plan: Plan) -> dict[str, str]:
    """Of a plan that fits its schemes to a size: the size, and what that is thought to cost."""
    if plan.limit_bytes is None:
        return {}
    count = sum(bool(tensor.candidates) for tensor in plan.tensors)
    fields = {"at most": size(plan.limit_bytes)}
    if count:
        fields["not yet decided"] = f"{count} tensors get their schemes once the weights are measured"
    if plan.predicted_loss is not None:
        fields["predicted loss"] = f"{plan.predicted_loss:.3g} nats per token of divergence from the source"
    return fields


def calibration_fields(planned: Planned, threads: int) -> dict[str, str]:
    from quantmill.api.schemas import CalibrationPlan

    found = CalibrationPlan.of(planned, threads)
    if found is None:
        return {}
    needed = f"{size(found.memory_bytes)} of memory and {size(found.disk_bytes)} of disk"
    return {"calibration": f"{needed} for {found.windows} windows of {found.window} tokens, {threads} threads"}


# An artifact's folder


def read_description(folder: Path) -> tuple[dict[str, Any], Method]:
    """The folder's quantmill.json and the method that it names. Raises SourceRejected, UnknownMethod."""
    from quantmill.domain.artifacts import DESCRIPTION_FILE
    from quantmill.plugins import load_plugins

    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_bytes())
        name, _ = (
            str(description["method"]["name"]),
            (description["params"], description["files"], description["digest"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceRejected(
            f"{folder} is not an artifact's folder: {DESCRIPTION_FILE} cannot be read ({error})"
        ) from None
    return description, load_plugins().method(name)


def as_described(plan: Plan, description: Mapping[str, Any]) -> Plan:
    """`plan`, or where it leaves schemes open, what the artifact's job settled it to."""
    try:
        known = Plan.from_json(description["plan"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SourceRejected(f"quantmill.json holds no plan that can be read: {error}") from None
    return known if known.settles(plan) else plan


def check_digests(folder: Path, description: dict[str, Any]) -> None:
    """Raises ArtifactDamaged, naming the first file that is missing or not what it was."""
    from quantmill.files.blobs import digest_of

    for file in description["files"]:
        path = folder / file["path"]
        try:
            with path.open("rb") as opened:
                found = digest_of(opened)
        except OSError as error:
            raise ArtifactDamaged(f"{path} cannot be read: {error.strerror}", path=file["path"]) from None
        if found != file["digest"]:
            raise ArtifactDamaged(f"{path} has the digest {found}, not {file['digest']}", path=file["path"])
