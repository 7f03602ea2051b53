"""Commands that talk to a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer

from quantmill.cli import options
from quantmill.cli.exits import OF_STATE, ExitCode
from quantmill.cli.local import refuse_occupied
from quantmill.cli.output import note, say, show_fields, show_json, show_table, size, warn
from quantmill.contract.errors import Conflict, ResourceExhausted
from quantmill.domain.jobs import FINAL, State

if TYPE_CHECKING:
    from quantmill.api.schemas import EventView, JobSummary, JobView

JobId = Annotated[UUID, typer.Argument(metavar="ID")]
ArtifactDigest = Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:...")]
Label = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be repeated.")]
LabelFilter = Annotated[str | None, typer.Option(metavar="KEY=VALUE")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Seconds; default: however long it takes.")]
TimeLimit = Annotated[int | None, typer.Option(min=1, help="Seconds that the job may run.")]
Limit = Annotated[int, typer.Option(min=1, max=200)]
IdempotencyKey = Annotated[str | None, typer.Option(help="Repeats with this key give the first one's job.")]
RemoteText = Annotated[str | None, typer.Option("--evaluate", metavar="FILE", help="Text to measure perplexity on.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the job's end; the exit code is the job's.")]


def submit(
    model: options.Model,
    method: options.MethodName,
    sets: options.Sets = None,
    evaluate: RemoteText = None,
    measures: options.Measures = None,
    gate: options.Gates = None,
    escalate: options.Escalate = None,
    escalate_mb: options.EscalateMb = None,
    escalate_by: options.EscalateBy = None,
    calibration: options.Calibrate = None,
    calibrate: options.Samples = None,
    seed: options.Seed = 0,
    label: Label = None,
    time_limit: TimeLimit = None,
    idempotency_key: IdempotencyKey = None,
    wait_for_end: Wait = False,
    server: options.Server = None,
    as_json: options.Json = False,
) -> int:
    """Queue a job. A path that exists here is sent absolute, any other as it is written."""
    escalation = options.parse_escalation(escalate, escalate_mb, escalate_by)
    calibrated = options.parse_calibration(as_seen_there(calibration) if calibration else None, calibrate)
    with options.client(server) as service:
        job = service.submit(
            as_seen_there(model),
            method,
            options.parse_sets(sets),
            idempotency_key=idempotency_key,
            evaluation_text=as_seen_there(evaluate) if evaluate else None,
            evaluation=options.parse_measures(measures).asked(),
            seed=seed,
            gates=gate or [],
            escalation=escalation.asked() if escalation else None,
            calibration=calibrated.asked() if calibrated else None,
            labels=options.parse_labels(label),
            timeout_seconds=time_limit,
        )
        if not wait_for_end:
            show_json(job) if as_json else say(str(job.id))
            return 0
        try:
            return _show_job(service.wait(job.id), as_json)
        except KeyboardInterrupt:
            return _show_job(service.wait(service.cancel(job.id).id), as_json)


def jobs(
    state: State | None = None,
    method: str | None = None,
    label: LabelFilter = None,
    limit: Limit = 20,
    server: options.Server = None,
    as_json: options.Json = False,
) -> None:
    """The newest jobs."""
    with options.client(server) as service:
        page = service.list(state=state, method=method, label=label, page_size=limit)
    if as_json:
        show_json(page)
        return
    columns = ("id", "state", "method", "params", "created", "source")
    show_table(columns, [_job_row(job) for job in page.items])


def job(job_id: JobId, server: options.Server = None, as_json: options.Json = False) -> None:
    """One job."""
    with options.client(server) as service:
        _show_job(service.get(job_id), as_json)


def wait(job_id: JobId, timeout: Timeout = None, server: options.Server = None, as_json: options.Json = False) -> int:
    """Wait for a job's end. The exit code is the job's."""
    with options.client(server) as service:
        found = service.wait(job_id, timeout)
    if found.state not in FINAL:
        raise ResourceExhausted(
            f"job {job_id} is still {found.state} after {timeout:g} seconds; it goes on", state=found.state
        )
    return _show_job(found, as_json)


def events(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Leave out events up to this number.")] = 0,
    server: options.Server = None,
    as_json: options.Json = False,
) -> None:
    """Follow a job's events to its end; with --json one object per line."""
    with options.client(server) as service:
        for event in service.events(job_id, after):
            show_json(event, indent=None) if as_json else say(_event_line(event))


def cancel(job_id: JobId, server: options.Server = None, as_json: options.Json = False) -> None:
    """Stop a job."""
    with options.client(server) as service:
        _show_job(service.cancel(job_id), as_json)


def retry(
    job_id: JobId, idempotency_key: IdempotencyKey = None, server: options.Server = None, as_json: options.Json = False
) -> None:
    """Queue a failed, canceled or expired job anew, as another job."""
    with options.client(server) as service:
        found = service.retry(job_id, idempotency_key=idempotency_key)
    show_json(found) if as_json else say(str(found.id))


def replay(job_id: JobId, server: options.Server = None, as_json: options.Json = False) -> int:
    """Make a job's artifact anew, and say whether its bytes are the same: exit code 0, or 1 where they are not."""
    with options.client(server) as service:
        first = service.get(job_id)
        if first.artifact_digest is None:
            raise Conflict(f"job {job_id} is {first.state}; only a job that made an artifact can be replayed")
        asked = first.calibration.model_dump(mode="json", exclude_none=True) if first.calibration else None
        how: dict[str, Any] = {"seed": first.seed, "calibration": asked, "labels": {"replay_of": str(job_id)}}
        again = service.wait(service.submit(first.source, first.method, first.params, **how).id)
    if again.artifact_digest is None:
        return _show_job(again, as_json)
    same = again.artifact_digest == first.artifact_digest
    found = {"artifact": first.artifact_digest, "replay": again.id, "replayed": again.artifact_digest, "same": same}
    show_json(found) if as_json else show_fields({**found, "same": "yes" if same else "no"})
    for what, before, now in (
        ("source", first.source_digest, again.source_digest),
        ("method", first.method_version, again.method_version),
    ):
        if before != now:
            note(f"the {what} is another one since: {before} then, {now} now")
    return ExitCode.DONE if same else ExitCode.FAILED


def artifacts(limit: Limit = 20, server: options.Server = None, as_json: options.Json = False) -> None:
    """The newest artifacts."""
    with options.client(server) as service:
        page = service.artifacts(page_size=limit)
    if as_json:
        show_json(page)
        return
    columns = ("digest", "format", "size", "created")
    show_table(
        columns, [(each.digest, each.format, size(each.size), f"{each.created_at:%F %T}") for each in page.items]
    )


def lineage(
    digest: ArtifactDigest,
    direction: Annotated[Literal["up", "down"], typer.Option(help="Ancestors or descendants.")] = "up",
    depth: Annotated[int, typer.Option(min=1, max=100)] = 10,
    server: options.Server = None,
    as_json: options.Json = False,
) -> None:
    """What an artifact was made from, or what was made from it."""
    with options.client(server) as service:
        steps = service.lineage(digest, direction=direction, depth=depth)
    if as_json:
        show_json(list(steps))
        return
    for step in steps:
        say(f"{step.child}\n  {step.relation} from {step.parent}")
        say(f"  by {step.method} {step.method_version} {_params(step.params)} seed={step.seed}, job {step.job_id}")


def download(
    digest: ArtifactDigest, output: options.Output, server: options.Server = None, as_json: options.Json = False
) -> None:
    """Fetch an artifact into the new folder OUTPUT, every file checked against its digest."""
    refuse_occupied(output)
    with options.client(server) as service:
        artifact = service.download(digest, output)
    show_json(artifact) if as_json else say(f"{output}: {len(artifact.files)} files, {size(artifact.size)}")


def as_seen_there(path: str) -> str:
    """A path that exists here absolute, any other as it is written: the service may know it."""
    local = Path(path)
    return str(local.resolve()) if local.exists() else path


def _show_job(job: JobView, as_json: bool) -> int:
    if as_json:
        show_json(job)
    else:
        show_fields(_job_fields(job))
        warn(job.plan.warnings if job.plan else ())
        if job.error:
            note(f"{job.error['title'].rstrip('.')}: {job.error['detail']}")
    return OF_STATE.get(job.state, 0)


def _job_fields(job: JobView) -> dict[str, Any]:
    fields = {
        "job": job.id,
        "state": job.state,
        "waits for": _waits_for(job),
        "phase": job.phase,
        "source": job.source,
        "method": f"{job.method} {job.method_version} {_params(job.params)}",
        "bits per weight": f"{job.plan.bits_per_weight:.3f}" if job.plan else None,
        "expected time": f"{job.estimate.seconds.expected:.0f} s" if job.estimate else None,
        "attempts": len(job.attempts),
        "artifact": job.artifact_digest,
        "retry of": job.retry_of,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _waits_for(job: JobSummary) -> str | None:
    return f"{job.status_reason}: {'; '.join(job.missing)}" if job.missing else job.status_reason


def _job_row(job: JobSummary) -> tuple[Any, ...]:
    state = f"{job.state}: {job.status_reason}" if job.missing else job.state
    return job.id, state, job.method, _params(job.params), f"{job.created_at:%F %T}", job.source


def _params(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in params.items())


def _event_line(event: EventView) -> str:
    said = " ".join(f"{name}={value}" for name, value in event.payload.items() if value not in ("", None))
    return f"{event.at:%F %T}  {event.seq:>4}  {event.type}  {said}".rstrip()
