"""What happens when there is no room: once on a file system that is really full, once at a file size limit.

Both run in a child process, because mounts and limits are a process's own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, resource, sys
from datetime import UTC, datetime
from pathlib import Path

from quantmill.contract.errors import ResourceExhausted
from quantmill.domain.artifacts import Artifact, ArtifactFile
from quantmill.files.artifacts import materialize
from quantmill.files.atomic import atomic_file
from quantmill.files.blobs import BlobStore

place, source, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
blobs_elsewhere = BlobStore(source.parent / "blobs")
blob = blobs_elsewhere.put_file(source)
artifact = Artifact(
    "sha256:0", "model", "gguf", (ArtifactFile("model.gguf", blob.digest, blob.size),), None, datetime.now(UTC)
)


def write_atomically():
    with atomic_file(place / "file") as file:
        file.write(source.read_bytes())


attempts = {
    "atomic_file": write_atomically,
    "put_bytes": lambda: BlobStore(place / "blobs").put_bytes(source.read_bytes()),
    "put_file": lambda: BlobStore(place / "blobs").put_file(source),
    "materialize": lambda: materialize(artifact, blobs_elsewhere, place / "artifact"),
}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "wrote everything")
    except ResourceExhausted as error:
        print(name, error.detail.partition(": ")[2].partition(".")[0])
print("left:", sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()))
"""

FULL = "the disk is full"
LIMITED = "the file would be larger than this process or file system allows"


def outcome(stdout: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in stdout.splitlines())


def expected(reason: str) -> dict[str, str]:
    return {
        "atomic_file": reason,
        "put_bytes": reason,
        "put_file": reason,
        "materialize": reason,
        "left:": "[]",
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "three_megabytes"
    path.write_bytes(bytes(3 << 20))
    return path


def test_a_full_disk_is_reported_and_nothing_is_left(tmp_path: Path, source: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a small file system (unshare -rm)")
    place = tmp_path / "small"
    place.mkdir()
    command = f'mount -t tmpfs -o size=1m tmpfs "{place}" && exec "$@"'

    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", sys.executable, "-c", SCRIPT, place, source, "0"],
        capture_output=True,
        text=True,
    )

    assert ran.stderr == ""
    assert outcome(ran.stdout) == expected(FULL)


def test_a_file_size_limit_is_reported_and_nothing_is_left(tmp_path: Path, source: Path) -> None:
    place = tmp_path / "limited"
    place.mkdir()

    ran = subprocess.run([sys.executable, "-c", SCRIPT, place, source, str(1 << 20)], capture_output=True, text=True)

    assert ran.stderr == ""
    assert outcome(ran.stdout) == expected(LIMITED)
