"""Artifacts as folders: into the blobs, out of them, and what their quantmill.json says."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

from quantmill.contract.errors import ArtifactDamaged, PluginBroken, RequestRejected
from quantmill.contract.tensors import Plan
from quantmill.domain.artifacts import DESCRIPTION_FILE, Artifact, ArtifactFile, Metric
from quantmill.files.atomic import exhaustion_reported, part_of, sync_folder
from quantmill.files.blobs import BlobStore, KnownDigest, copy_file, digest_early, digest_of
from quantmill.files.manifest import manifest_digest

DESCRIPTION_SCHEMA = "quantmill.artifact.v1"
EARLY_BYTES = 1 << 20  # smaller files are digested at once where they are stored
OCTETS = "application/octet-stream"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".jinja": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}


class EarlyDigests:
    """Digests the large files of `folder` in a thread of its own, while others still read them; `close` ends it.

    A file that is written to afterwards is digested anew where it is stored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._known: dict[str, KnownDigest] = {}
        self._thread = threading.Thread(target=self._run, name="digests", daemon=True)
        self._thread.start()

    def wait(self) -> Mapping[str, KnownDigest]:
        """What is known of the files, by their paths below the folder, once all are digested."""
        self._thread.join()
        return self._known

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for path in sorted(_files_below(self._folder)):
                if (self._folder / path).lstat().st_size < EARLY_BYTES or self._stop.is_set():
                    continue
                known = digest_early(self._folder / path, self._stop)
                if known is not None:
                    self._known[path] = known
        except (OSError, PluginBroken):  # verification and storing say what is wrong with the folder
            return


def store_folder(
    folder: Path, blobs: BlobStore, *, move: bool = False, known: Mapping[str, KnownDigest] = MappingProxyType({})
) -> tuple[ArtifactFile, ...]:
    """Store every file below `folder`, in the order of their paths; with `move` they are gone from it afterwards.

    `known` are digests of some, by their paths. Raises PluginBroken when there is no file, or something that is not a
    plain file: a link, a device, a name that is not portable. ResourceExhausted when there is no room.
    """
    paths = sorted(_files_below(folder))
    if not paths:
        raise PluginBroken("The method wrote no files.")
    return tuple(_store(folder, path, blobs, move, known.get(path)) for path in paths)


def materialize(artifact: Artifact, blobs: BlobStore, folder: Path) -> None:
    """Write the artifact's files, quantmill.json included, as `folder`: all of them, verified, or nothing.

    The files are copies: changing them does not touch the blobs. Raises RequestRejected when `folder` exists and is
    not empty, ArtifactDamaged when a blob is missing or not what it was, ResourceExhausted when there is no room.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or folder.is_symlink() or any(folder.iterdir())):
        raise RequestRejected(f"{folder} exists and is not an empty folder. Name a new one.", path=str(folder))
    described = [artifact.description] if artifact.description is not None else []
    part = part_of(folder)
    with exhaustion_reported(folder):
        try:
            part.mkdir(parents=True)
            for file in [*artifact.files, *described]:
                _write(file, blobs, part)
            for inner, _, _ in os.walk(part):
                sync_folder(Path(inner))
            part.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def describe(
    *,
    files: Sequence[ArtifactFile],
    kind: str,
    format: str,  # noqa: A002  the column's and the JSON key's name
    source_uri: str,
    source_digest: str,
    method: str,
    method_version: str,
    params: Mapping[str, Any],
    seed: int,
    plan: Plan,
    verification: Mapping[str, Any],
    metrics: Sequence[Metric],
    environment: Mapping[str, Any],
    job_id: UUID | None,
    created_at: datetime,
    calibration: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    notes: Sequence[Mapping[str, Any]] = (),
    steps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What quantmill.json says: enough to know what the artifact is and to make it again.

    `calibration` says which windows of which text the method saw, by the digest of all that they follow from.
    `measured` says on what text and how the metrics were measured, and what was left out; `steps` are smaller attempts
    that missed the job's gates; `notes` what the method found of single tensors. `digest` is the artifact's, over
    `files` without quantmill.json itself.
    """
    return {
        "schema": DESCRIPTION_SCHEMA,
        "digest": manifest_digest(files),
        "kind": kind,
        "format": format,
        "created_at": created_at.isoformat(),
        "job_id": None if job_id is None else str(job_id),
        "source": {"uri": source_uri, "digest": source_digest},
        "method": {"name": method, "version": method_version},
        "params": dict(params),
        "seed": seed,
        "steps": [dict(step) for step in steps],
        "notes": [dict(note) for note in notes],
        "calibration_digest": calibration.get("digest") if calibration else None,
        "calibration": dict(calibration or {}),
        "files": [
            {"path": file.path, "digest": file.digest, "size": file.size, "media_type": file.media_type}
            for file in sorted(files, key=lambda file: file.path)
            if file.path != DESCRIPTION_FILE
        ],
        "bits_per_weight": plan.bits_per_weight,
        "plan": plan.to_json(),
        "verification": dict(verification),
        "evaluation": [asdict(metric) for metric in metrics],
        "measured": dict(measured or {}),
        "environment": dict(environment),
    }


def description_bytes(description: Mapping[str, Any]) -> bytes:
    """quantmill.json as it is written: UTF-8, two spaces, keys in the order of `describe`."""
    return (json.dumps(description, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode()


def _files_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """The paths of the files, relative to the outermost folder, with slashes."""
    for entry in os.scandir(folder):
        path = prefix + entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if not _is_portable(path):
            raise PluginBroken(f"The method wrote a file with the name {path!r}, which is not portable.", path=path)
        if stat.S_ISDIR(mode):
            yield from _files_below(Path(entry.path), f"{path}/")
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise PluginBroken(f"The method wrote {path}, which is a link or not a regular file.", path=path)


def _is_portable(path: str) -> bool:
    """Whether `path` is a relative path that means the same below any folder."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and all(part not in {"", ".", ".."} for part in parts)


def _store(folder: Path, path: str, blobs: BlobStore, move: bool, known: KnownDigest | None) -> ArtifactFile:
    blob = blobs.put_file(folder / path, move=move, known=known)
    return ArtifactFile(path, blob.digest, blob.size, MEDIA_TYPES.get(PurePosixPath(path).suffix, OCTETS))


def _write(file: ArtifactFile, blobs: BlobStore, folder: Path) -> None:
    if not _is_portable(file.path):
        raise ArtifactDamaged(f"The artifact names the file {file.path!r}, which would leave its folder.")
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        copy_file(blobs.path(file.digest), target)
    except FileNotFoundError as error:
        raise ArtifactDamaged(f"The blob of {file.path} is missing.", path=file.path, digest=file.digest) from error
    with target.open("rb") as written:
        actual = digest_of(written)
        os.fsync(written.fileno())
    if actual != file.digest:
        raise ArtifactDamaged(
            f"{file.path} does not hold the bytes that it should.",
            path=file.path,
            expected_digest=file.digest,
            actual_digest=actual,
        )
