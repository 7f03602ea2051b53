"""What the values of the domain say of themselves."""

from __future__ import annotations

from datetime import UTC, datetime

from quantmill.domain.artifacts import Artifact, ArtifactFile

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_an_artifact_is_as_large_as_the_files_of_its_manifest() -> None:
    files = (ArtifactFile("a.gguf", "sha256:a", 10), ArtifactFile("b.gguf", "sha256:b", 32))
    description = ArtifactFile("quantmill.json", "sha256:c", 7)

    assert Artifact("sha256:x", "model", "gguf", files, description, NOW).size == 42
