"""Artifacts: published once, by the job's current holder, together with everything that is known about them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

import rfc8785
from sqlalchemy import Connection, Row, func, insert, literal, select, tuple_, update

from quantmill.contract.errors import NotFound
from quantmill.domain.artifacts import Artifact, ArtifactFile, Lineage, Metric
from quantmill.domain.jobs import Job, State
from quantmill.store import tables
from quantmill.store.jobs import get_job, transition
from quantmill.store.types import clock
from quantmill.store.upsert import upsert

QUANTIZED = "quantized"  # derivation.relation
SOURCE, CALIBRATION = "source", "calibration"  # job_input.role
DEEPEST_LINEAGE = 100


def publish(
    tx: Connection,
    job_id: UUID,
    epoch: int,
    artifact: Artifact,
    *,
    source_digest: str,
    source_uri: str,
    metrics: Sequence[Metric],
    environment: Mapping[str, Any],
    verification: Mapping[str, Any],
    calibration: tuple[str, str] | None = None,
) -> Job:
    """Publish what a job made: files, lineage, metrics, environment, and running -> succeeded, all or nothing.

    Content that another job made before keeps its rows and its `created_at`; this job's inputs, output, derivation
    and metrics are added. Raises IllegalTransition when the job is not held at this epoch.
    """
    _insert_artifact(tx, artifact)
    transition(
        tx,
        job_id,
        epoch=epoch,
        to=State.SUCCEEDED,
        payload={"artifact": artifact.digest},
        artifact_digest=artifact.digest,
        source_digest=source_digest,
    )
    _insert_provenance(tx, job_id, artifact, source_digest, source_uri, verification)
    if calibration is not None:
        digest, uri = calibration
        tx.execute(insert(tables.job_input).values(job_id=job_id, role=CALIBRATION, digest=digest, uri=uri))
    _insert_environment(tx, job_id, epoch, environment)
    _insert_metrics(tx, job_id, artifact.digest, metrics)
    return get_job(tx, job_id)


def _insert_artifact(tx: Connection, artifact: Artifact) -> None:
    described = [artifact.description] if artifact.description else []
    files = [*artifact.files, *described]
    # Two jobs that publish the same content at once must take its rows in one order
    for digest, size in sorted({(file.digest, file.size) for file in files}):
        _insert_missing(tx, tables.blob, digest=digest, size=size, created_at=clock())
    _insert_missing(
        tx,
        tables.artifact,
        digest=artifact.digest,
        kind=artifact.kind,
        format=artifact.format,
        size=artifact.size,
        file_count=len(artifact.files),
        created_at=clock(),
    )
    for file in sorted(files, key=lambda file: file.path):
        _insert_missing(
            tx,
            tables.artifact_file,
            artifact_digest=artifact.digest,
            path=file.path,
            blob_digest=file.digest,
            size=file.size,
            media_type=file.media_type,
            in_manifest=file is not artifact.description,
        )


def _insert_missing(tx: Connection, table: Any, **values: Any) -> None:
    tx.execute(upsert(tx, table).values(**values).on_conflict_do_nothing())


def _insert_provenance(
    tx: Connection,
    job_id: UUID,
    artifact: Artifact,
    source_digest: str,
    source_uri: str,
    verification: Mapping[str, Any],
) -> None:
    seen = {"verified_at": clock()}
    tx.execute(
        upsert(tx, tables.artifact_location)
        .values(digest=source_digest, uri=source_uri, **seen)
        .on_conflict_do_update(index_elements=["digest", "uri"], set_=seen)
    )
    tx.execute(insert(tables.job_input).values(job_id=job_id, role=SOURCE, digest=source_digest, uri=source_uri))
    tx.execute(
        insert(tables.job_output).values(
            job_id=job_id,
            artifact_digest=artifact.digest,
            description_digest=artifact.description.digest if artifact.description else None,
            verification=dict(verification),
        )
    )
    tx.execute(
        insert(tables.derivation).values(
            child_digest=artifact.digest, parent_digest=source_digest, job_id=job_id, relation=QUANTIZED
        )
    )


def _insert_environment(tx: Connection, job_id: UUID, epoch: int, environment: Mapping[str, Any]) -> None:
    digest = f"sha256:{hashlib.sha256(rfc8785.dumps(dict(environment))).hexdigest()}"
    _insert_missing(tx, tables.environment, digest=digest, description=dict(environment), created_at=clock())
    attempt = tables.attempt
    tx.execute(
        update(attempt).where(attempt.c.job_id == job_id, attempt.c.epoch == epoch).values(environment_digest=digest)
    )


def _insert_metrics(tx: Connection, job_id: UUID, digest: str, metrics: Iterable[Metric]) -> None:
    rows = [
        {
            "job_id": job_id,
            "subject": each.subject,
            "name": each.name,
            "artifact_digest": digest,
            "value": None if math.isnan(each.value) else each.value,
            "unit": each.unit,
            "n": each.n,
            "higher_is_better": each.higher_is_better,
            "ci_low": each.ci_low,
            "ci_high": each.ci_high,
        }
        for each in metrics
    ]
    if rows:
        tx.execute(insert(tables.metric), rows)


# Read


def get_artifact(tx: Connection, digest: str) -> Artifact:
    """The artifact with its files in the order of their paths. Raises NotFound."""
    row = tx.execute(select(tables.artifact).where(tables.artifact.c.digest == digest)).one_or_none()
    if row is None:
        raise NotFound(f"there is no artifact {digest}", digest=digest)
    return _with_files(tx, [row])[0]


def list_artifacts(tx: Connection, *, after: str | None = None, limit: int) -> list[Artifact]:
    """Artifacts, newest first, from the one behind the digest `after` on."""
    artifact = tables.artifact
    place = tuple_(artifact.c.created_at, artifact.c.digest)
    wanted = select(artifact).order_by(artifact.c.created_at.desc(), artifact.c.digest.desc()).limit(limit)
    if after is not None:
        before = select(artifact.c.created_at, artifact.c.digest).where(artifact.c.digest == after)
        wanted = wanted.where(place < before.scalar_subquery())
    return _with_files(tx, tx.execute(wanted).all())


def _with_files(tx: Connection, rows: Sequence[Row[Any]]) -> list[Artifact]:
    files = _files(tx, [row.digest for row in rows])
    return [
        Artifact(
            digest=row.digest,
            kind=row.kind,
            format=row.format,
            files=tuple(_to_file(file) for file in files[row.digest] if file.in_manifest),
            description=next((_to_file(file) for file in files[row.digest] if not file.in_manifest), None),
            created_at=row.created_at,
        )
        for row in rows
    ]


def _files(tx: Connection, digests: Collection[str]) -> dict[str, list[Row[Any]]]:
    file = tables.artifact_file
    found: dict[str, list[Row[Any]]] = {digest: [] for digest in digests}
    for row in tx.execute(select(file).where(file.c.artifact_digest.in_(digests)).order_by(file.c.path)):
        found[row.artifact_digest].append(row)
    return found


def _to_file(row: Row[Any]) -> ArtifactFile:
    return ArtifactFile(path=row.path, digest=row.blob_digest, size=row.size, media_type=row.media_type)


def metrics_of(tx: Connection, digest: str) -> list[Metric]:
    """What was measured on the artifact, by subject and name; of several jobs that made it, the newest one's word."""
    metric = tables.metric
    rows = tx.execute(select(metric).where(metric.c.artifact_digest == digest).order_by(metric.c.job_id))
    newest = {(row.subject, row.name): _to_metric(row) for row in rows}
    return [newest[key] for key in sorted(newest)]


def metrics_of_jobs(tx: Connection, job_ids: Collection[UUID]) -> dict[UUID, list[Metric]]:
    """What each of these jobs measured, by subject and name; a job that published nothing is left out."""
    metric = tables.metric
    found: dict[UUID, list[Metric]] = {}
    wanted = select(metric).where(metric.c.job_id.in_(job_ids)).order_by(metric.c.subject, metric.c.name)
    for row in tx.execute(wanted):
        found.setdefault(row.job_id, []).append(_to_metric(row))
    return found


def sizes(tx: Connection, digests: Collection[str]) -> dict[str, int]:
    """The bytes of these artifacts' files."""
    artifact = tables.artifact
    wanted = select(artifact.c.digest, artifact.c.size).where(artifact.c.digest.in_(digests))
    return {row.digest: row.size for row in tx.execute(wanted)}


def _to_metric(row: Row[Any]) -> Metric:
    return Metric(
        name=row.name,
        value=math.nan if row.value is None else row.value,
        unit=row.unit,
        subject=row.subject,
        n=row.n,
        higher_is_better=row.higher_is_better,
        ci_low=row.ci_low,
        ci_high=row.ci_high,
    )


def verification_of(tx: Connection, job_id: UUID) -> dict[str, Any]:
    """What the check of the job's artifact found, as it was published. Raises NotFound where nothing was."""
    output = tables.job_output
    found: dict[str, Any] | None = tx.execute(
        select(output.c.verification).where(output.c.job_id == job_id)
    ).scalar_one_or_none()
    if found is None:
        raise NotFound(f"job {job_id} has published nothing", job_id=str(job_id))
    return found


def lineage(tx: Connection, digest: str, *, direction: Literal["up", "down"] = "up", depth: int = 10) -> list[Lineage]:
    """What the artifact was made from ("up") or what was made from it ("down"), nearest first, each step once.

    Steps further away than `depth` (at most 100) are left out. Empty for a digest that nobody derived anything from.
    """
    edge, job = tables.derivation, tables.job
    near, far = {
        "up": (edge.c.child_digest, edge.c.parent_digest),
        "down": (edge.c.parent_digest, edge.c.child_digest),
    }[direction]
    columns = (edge.c.child_digest, edge.c.parent_digest, edge.c.job_id, edge.c.relation)
    walk = (
        select(*columns, far.label("far"), literal(1).label("depth")).where(near == digest).cte("walk", recursive=True)
    )
    walk = walk.union(
        select(*columns, far, walk.c.depth + 1)
        .join(walk, near == walk.c.far)
        .where(walk.c.depth < min(depth, DEEPEST_LINEAGE))
    )
    steps = (
        select(
            walk.c.child_digest,
            walk.c.parent_digest,
            walk.c.job_id,
            walk.c.relation,
            func.min(walk.c.depth).label("depth"),
        )
        .group_by(walk.c.child_digest, walk.c.parent_digest, walk.c.job_id, walk.c.relation)
        .subquery()
    )
    wanted = (
        select(steps, job.c.method, job.c.method_version, job.c.params, job.c.seed)
        .join(job, job.c.id == steps.c.job_id)
        .order_by(steps.c.depth, steps.c.job_id)
    )
    return [_to_lineage(row) for row in tx.execute(wanted)]


def _to_lineage(row: Row[Any]) -> Lineage:
    return Lineage(
        child=row.child_digest,
        parent=row.parent_digest,
        relation=row.relation,
        job_id=row.job_id,
        method=row.method,
        method_version=row.method_version,
        params=row.params,
        seed=row.seed,
        depth=row.depth,
    )
