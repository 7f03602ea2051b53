"""Looks at artifacts: their files, what was measured on them, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quantmill.contract.errors import ArtifactDamaged, NotFound
from quantmill.domain.artifacts import Artifact, ArtifactFile, Lineage, Metric
from quantmill.services import Services
from quantmill.store import artifacts as rows


def get(services: Services, digest: str) -> tuple[Artifact, list[Metric]]:
    """One artifact and its metrics. Raises NotFound."""
    with services.database.read() as tx:
        return rows.get_artifact(tx, digest), rows.metrics_of(tx, digest)


def page(services: Services, *, after: str | None, limit: int) -> list[Artifact]:
    """At most `limit` artifacts, newest first, that come after the artifact `after`."""
    with services.database.read() as tx:
        return rows.list_artifacts(tx, after=after, limit=limit)


def find_file(services: Services, digest: str, path: str) -> tuple[ArtifactFile, Path]:
    """One file of an artifact and where its bytes lie. Only paths that the artifact lists exist.

    Raises NotFound, and ArtifactDamaged where the bytes are gone.
    """
    with services.database.read() as tx:
        artifact = rows.get_artifact(tx, digest)
    for file in artifact.all_files:
        if file.path == path:
            return file, _present(services, file)
    raise NotFound(f"artifact {digest} has no file {path!r}; it lists its files at /v1/artifacts/{digest}")


def _present(services: Services, file: ArtifactFile) -> Path:
    if not services.blobs.exists(file.digest):
        raise ArtifactDamaged(f"the bytes of {file.path} are not stored any more", digest=file.digest)
    return services.blobs.path(file.digest)


def lineage(services: Services, digest: str, *, direction: Literal["up", "down"], depth: int) -> list[Lineage]:
    """The artifact's ancestors ("up") or descendants ("down"), nearest first. Raises NotFound."""
    with services.database.read() as tx:
        rows.get_artifact(tx, digest)
        return rows.lineage(tx, digest, direction=direction, depth=depth)
