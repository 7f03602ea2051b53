"""From a verified export folder to an artifact: blobs first, then one transaction that makes it true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from quantmill.contract.tensors import Plan
from quantmill.domain.artifacts import DESCRIPTION_FILE, Artifact, ArtifactFile, Metric
from quantmill.domain.gates import GateVerdict
from quantmill.domain.jobs import Job, Outcome, Phase
from quantmill.files.artifacts import EarlyDigests, describe, description_bytes, store_folder
from quantmill.files.manifest import manifest_digest
from quantmill.services import Services
from quantmill.store import artifacts, gates, jobs
from quantmill.worker.messages import Finished

KIND = "model"


def metrics_of(result: Finished) -> list[Metric]:
    return [Metric(**dict(metric)) for metric in result.metrics]


def size_of(metrics: Iterable[Metric]) -> int:
    """The bytes of all files, as the check of the artifact found them."""
    return next(int(metric.value) for metric in metrics if (metric.subject, metric.name) == ("artifact", "size"))


def calibration_input(job: Job, result: Finished) -> tuple[str, str] | None:
    """Digest and place of the text that the artifact was calibrated on."""
    if job.request.calibration is None or not result.calibration:
        return None
    return result.calibration["text"]["digest"], job.request.calibration.text


def publish(
    services: Services,
    job: Job,
    result: Finished,
    folder: Path,
    verdicts: Sequence[GateVerdict] = (),
    digests: EarlyDigests | None = None,
) -> Job:
    """Store the folder's files as blobs and move the job to succeeded; `digests` are under way or there.

    Blobs are written before the transaction and named by their content: an attempt that turns out to be fenced leaves
    bytes that nobody refers to, never a reference without bytes. Raises IllegalTransition when the epoch has passed.
    """
    with services.database.write() as tx:
        jobs.record_progress(tx, job.id, job.epoch, Phase.PUBLISH, None, event=True)
        source_digest = jobs.get_job(tx, job.id).source_digest or ""
    known = digests.wait() if digests is not None else {}
    files = store_folder(folder, services.blobs, move=True, known=known)
    now = datetime.now(UTC)
    metrics = metrics_of(result)
    description = describe(
        files=files,
        kind=KIND,
        format=result.format,
        source_uri=job.request.source,
        source_digest=source_digest,
        method=job.request.method,
        method_version=job.method_version,
        params=job.request.params,
        seed=job.request.seed,
        plan=Plan.from_json(result.plan),
        verification=result.verification,
        metrics=metrics,
        measured=result.measured,
        calibration=result.calibration,
        notes=[note.model_dump() for note in result.notes],
        environment=result.environment,
        job_id=job.id,
        created_at=now,
        steps=[step.to_json() for step in job.steps],
    )
    described = services.blobs.put_bytes(description_bytes(description))
    artifact = Artifact(
        digest=manifest_digest(files),
        kind=KIND,
        format=result.format,
        files=files,
        description=ArtifactFile(DESCRIPTION_FILE, described.digest, described.size, "application/json"),
        created_at=now,
    )
    with services.database.write() as tx:
        gates.record_verdicts(tx, job.id, verdicts)
        jobs.end_attempt(
            tx, job.id, job.epoch, Outcome.SUCCEEDED, exit_code=0, peak_memory_bytes=result.peak_memory_bytes
        )
        return artifacts.publish(
            tx,
            job.id,
            job.epoch,
            artifact,
            source_digest=source_digest,
            source_uri=job.request.source,
            calibration=calibration_input(job, result),
            metrics=metrics,
            environment=result.environment,
            verification=result.verification,
        )
