"""From a verified export folder to an artifact: blobs first, then one transaction that makes it true."""

from __future__ import annotations

from pathlib import Path

from quantmill.domain.artifacts import DESCRIPTION_FILE, Artifact, ArtifactFile, Metric
from quantmill.domain.jobs import Job, Outcome, Phase
from quantmill.files.artifacts import describe, store_folder
from quantmill.files.manifest import manifest_digest
from quantmill.services import Services
from quantmill.store import artifacts, jobs
from quantmill.worker.messages import Finished


def publish(services: Services, job: Job, result: Finished, folder: Path) -> Job:
    """Store the folder's files as blobs and move the job to succeeded.

    Blobs are written before the transaction and named by their content: an attempt that turns out to be fenced leaves
    bytes that nobody refers to, never a reference without bytes. Raises IllegalTransition when the epoch has passed.
    """
    with services.database.write() as tx:
        jobs.record_progress(tx, job.id, job.epoch, Phase.PUBLISH, None, event=True)
        source_digest = jobs.get_job(tx, job.id).source_digest or ""
    files = store_folder(folder, services.blobs)
    digest = manifest_digest(files)
    metrics = [Metric(**dict(metric)) for metric in result.metrics]
    description = services.blobs.put_bytes(
        describe(
            digest=digest,
            files=files,
            job=job,
            source_digest=source_digest,
            plan=result.plan,
            verification=result.verification,
            metrics=metrics,
            environment=result.environment,
        )
    )
    artifact = Artifact(
        digest=digest,
        kind="model",
        format=result.format,
        files=files,
        description=ArtifactFile(DESCRIPTION_FILE, description.digest, description.size, "application/json"),
        created_at=job.created_at,
    )
    with services.database.write() as tx:
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
            metrics=metrics,
            environment=result.environment,
            verification=result.verification,
        )
