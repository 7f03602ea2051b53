"""Artifacts, their lineage, and what was measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

MANIFEST_MEDIA_TYPE = "application/vnd.quantmill.manifest.v1+json"
DESCRIPTION_FILE = "quantmill.json"


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact. `digest` is sha256:<hex> of its bytes, which is also its blob's name."""

    path: str
    digest: str
    size: int
    media_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Artifact:
    """What a job produced. `digest` is over the manifest of `files`.

    The manifest leaves out `quantmill.json`, which tells how the artifact was made: it names machines and times, and
    two jobs that make the same bytes must make the same digest. It is listed in `description`.
    """

    digest: str
    kind: str
    format: str
    files: tuple[ArtifactFile, ...]
    description: ArtifactFile | None
    created_at: datetime

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def all_files(self) -> tuple[ArtifactFile, ...]:
        """The files of the manifest and, last, the description."""
        return self.files + ((self.description,) if self.description else ())


@dataclass(frozen=True)
class Metric:
    """One measured number about an artifact, or about what `subject` says: its source, one of its blocks.

    `ci_low` and `ci_high` are the ends of its 95 % confidence interval, where it has one.
    """

    name: str
    value: float
    unit: str
    subject: str = "artifact"
    n: int | None = None  # how many samples (tokens, tensors) it rests on
    higher_is_better: bool | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Lineage:
    """One step of how an artifact came to be: `child` was derived from `parent` by a job."""

    child: str
    parent: str
    relation: str
    job_id: UUID
    method: str
    method_version: str
    params: Mapping[str, Any]
    seed: int
    depth: int
