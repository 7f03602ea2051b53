from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from quantmill.contract.errors import ArtifactDamaged, NotFound
from quantmill.files.blobs import Blob, BlobStore, KnownDigest, digest_early

HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.txt"
    path.write_bytes(b"hello")
    return path


def stored(blobs: BlobStore) -> list[str]:
    return sorted(str(path.relative_to(blobs.root)) for path in blobs.root.rglob("*") if not path.is_dir())


def test_a_blob_is_named_by_its_sha256_and_read_only(blobs: BlobStore) -> None:
    blob = blobs.put_bytes(b"hello")

    assert blob == Blob(HELLO, 5)
    assert stored(blobs) == ["sha256/2c/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"]
    assert stat.S_IMODE(blobs.path(HELLO).stat().st_mode) == 0o444
    assert blobs.open(HELLO).read() == b"hello"


def test_storing_the_same_bytes_twice_is_harmless(blobs: BlobStore, hello: Path) -> None:
    blobs.put_bytes(b"hello")

    assert blobs.put_file(hello) == Blob(HELLO, 5)
    assert len(stored(blobs)) == 1


def test_storing_the_bytes_again_repairs_a_damaged_blob(blobs: BlobStore) -> None:
    blobs.put_bytes(b"hello")
    blobs.path(HELLO).chmod(0o644)
    blobs.path(HELLO).write_bytes(b"jello")

    blobs.put_bytes(b"hello")

    blobs.verify(HELLO)


@pytest.mark.parametrize("move", [False, True])
def test_a_file_is_copied_or_moved(blobs: BlobStore, hello: Path, move: bool) -> None:
    assert blobs.put_file(hello, expect=HELLO, move=move) == Blob(HELLO, 5)

    assert hello.exists() is not move


def test_a_file_of_another_file_system_can_be_moved_in(blobs: BlobStore) -> None:
    if not os.access("/dev/shm", os.W_OK) or Path("/dev/shm").stat().st_dev == blobs.root.parent.stat().st_dev:
        pytest.skip("this machine has no second writable file system at /dev/shm")
    path = Path(f"/dev/shm/quantmill-test-{os.getpid()}")
    path.write_bytes(b"hello")

    assert blobs.put_file(path, move=True) == Blob(HELLO, 5)

    assert not path.exists()


@pytest.mark.parametrize("move", [False, True])
def test_a_file_with_other_bytes_than_expected_is_refused_and_kept(blobs: BlobStore, hello: Path, move: bool) -> None:
    with pytest.raises(ArtifactDamaged) as refused:
        blobs.put_file(hello, expect="sha256:" + "0" * 64, move=move)

    assert refused.value.fields["actual_digest"] == HELLO
    assert stored(blobs) == []
    assert hello.read_bytes() == b"hello"


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("kind", ["link", "fifo", "missing"])
def test_only_regular_files_are_stored(blobs: BlobStore, tmp_path: Path, hello: Path, kind: str, move: bool) -> None:
    path = tmp_path / "odd"
    {"link": lambda: path.symlink_to(hello), "fifo": lambda: os.mkfifo(path), "missing": lambda: None}[kind]()

    with pytest.raises(OSError):
        blobs.put_file(path, move=move)

    assert stored(blobs) == []
    assert os.path.lexists(path) is (kind != "missing")


@pytest.mark.parametrize("damage", [b"jello", b"hell", b"hello!", b""])
def test_a_damaged_blob_is_found(blobs: BlobStore, damage: bytes) -> None:
    blobs.put_bytes(b"hello")
    blobs.path(HELLO).chmod(0o644)
    blobs.path(HELLO).write_bytes(damage)

    with pytest.raises(ArtifactDamaged) as found:
        blobs.verify(HELLO)

    assert found.value.fields == {
        "expected_digest": HELLO,
        "actual_digest": f"sha256:{hashlib.sha256(damage).hexdigest()}",
    }


def test_a_missing_blob_is_damage_to_verify_and_not_found_to_open(blobs: BlobStore) -> None:
    with pytest.raises(ArtifactDamaged, match="missing"):
        blobs.verify(HELLO)
    with pytest.raises(NotFound):
        blobs.open(HELLO)


def test_a_deleted_blob_is_gone_and_deleting_it_again_is_fine(blobs: BlobStore) -> None:
    blobs.put_bytes(b"hello")

    blobs.delete(HELLO)
    blobs.delete(HELLO)

    assert not blobs.exists(HELLO)


@pytest.mark.parametrize(
    "digest",
    ["", "hello", "sha256:", HELLO[:-1], HELLO + "0", HELLO.upper(), "sha256:../../../etc/passwd", HELLO + "\n"],
)
def test_what_is_not_a_digest_never_becomes_a_path(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(NotFound):
        blobs.path(digest)


def test_what_a_killed_process_left_half_stored_is_swept_once_it_is_old(tmp_path, monkeypatch):
    store = BlobStore(tmp_path)
    kept = store.put_bytes(b"whole").digest
    old, young = tmp_path / "incoming" / "old", tmp_path / "incoming" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    later = old.stat().st_ctime + 7200
    os.utime(young, (later, later))
    monkeypatch.setattr("quantmill.files.blobs.time.time", lambda: later)

    assert store.sweep(older_than_seconds=3600) == 1

    assert not old.exists()
    assert young.exists()
    assert store.exists(kept)


def test_an_old_file_that_is_being_moved_in_is_not_swept(
    blobs: BlobStore, hello: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest_while_others_sweep(file: BinaryIO) -> str:
        assert blobs.sweep(older_than_seconds=3600) == 0
        return HELLO

    monkeypatch.setattr("quantmill.files.blobs.digest_of", digest_while_others_sweep)
    os.utime(hello, (0, 0))

    assert blobs.put_file(hello, move=True).digest == HELLO


def test_what_goes_while_others_sweep_is_no_matter(
    blobs: BlobStore, hello: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.put_file(hello)
    gone = hello.with_name("gone")
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([gone]))

    assert blobs.sweep(older_than_seconds=0) == 0


def known_of(path: Path, digest: str) -> KnownDigest:
    status = path.stat()
    return KnownDigest(Blob(digest, status.st_size), status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def test_a_file_whose_digest_is_known_is_not_read_again(blobs: BlobStore, hello: Path) -> None:
    told = f"sha256:{'5' * 64}"

    assert blobs.put_file(hello, move=True, known=known_of(hello, told)).digest == told


def test_a_file_that_was_written_to_since_is_digested_anew(blobs: BlobStore, hello: Path) -> None:
    known = known_of(hello, f"sha256:{'5' * 64}")
    os.utime(hello, ns=(0, known.mtime_ns + 1))

    assert blobs.put_file(hello, move=True, known=known).digest == HELLO


def test_a_file_whose_time_of_writing_was_put_back_is_digested_anew(blobs: BlobStore, hello: Path) -> None:
    known = known_of(hello, f"sha256:{'5' * 64}")
    with hello.open("r+b") as file:
        file.write(b"hello")
    os.utime(hello, ns=(0, known.mtime_ns))
    while hello.stat().st_ctime_ns == known.ctime_ns:  # files' clocks tick slowly
        os.utime(hello, ns=(0, known.mtime_ns))

    assert blobs.put_file(hello, move=True, known=known).digest == HELLO


def test_a_copy_of_a_file_whose_digest_is_known_is_digested_itself(blobs: BlobStore, hello: Path) -> None:
    assert blobs.put_file(hello, known=known_of(hello, f"sha256:{'5' * 64}")).digest == HELLO


def test_an_early_digest_is_the_files_and_none_once_it_was_stopped(hello: Path) -> None:
    stop = threading.Event()

    assert digest_early(hello, stop) == known_of(hello, HELLO)
    stop.set()
    assert digest_early(hello, stop) is None


def test_nothing_is_digested_through_a_link(hello: Path) -> None:
    link = hello.with_name("link")
    link.symlink_to(hello)

    with pytest.raises(OSError, match=r"[Ll]ink"):
        digest_early(link, threading.Event())
