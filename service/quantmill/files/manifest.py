"""The manifest: which files an artifact consists of. Its digest is the artifact's name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import rfc8785

from quantmill.domain.artifacts import DESCRIPTION_FILE, MANIFEST_MEDIA_TYPE, ArtifactFile


def manifest(files: Sequence[ArtifactFile]) -> bytes:
    """RFC 8785 JSON of the files in the order of their paths; the same files give the same bytes.

    `quantmill.json` is left out: it names machines and times.
    """
    rows: list[dict[str, Any]] = [
        {"path": file.path, "digest": file.digest, "size": file.size, "mediaType": file.media_type}
        for file in sorted(files, key=lambda file: file.path)
        if file.path != DESCRIPTION_FILE
    ]
    return rfc8785.dumps({"mediaType": MANIFEST_MEDIA_TYPE, "files": rows})


def manifest_digest(files: Sequence[ArtifactFile]) -> str:
    """`sha256:<hex>` of the manifest."""
    return f"sha256:{hashlib.sha256(manifest(files)).hexdigest()}"
