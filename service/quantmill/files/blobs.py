"""Blobs: bytes named by their SHA-256, in a directory.

Layout below the root: `sha256/ab/abcd...` (64 hex digits, mode 0444) and `incoming/` for what is not whole yet.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO, cast
from uuid import uuid4

from quantmill.contract.errors import ArtifactDamaged, NotFound
from quantmill.files.atomic import exhaustion_reported, open_new, sync_folder

CHUNK = 4 << 20
EARLY_CHUNK = 1 << 19  # stays in the processor's cache
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Blob:
    """Stored bytes. `digest` is sha256:<hex>."""

    digest: str
    size: int


@dataclass(frozen=True)
class KnownDigest:
    """What a file's bytes came to, and by what to tell that nobody has written to it since.

    A rename keeps `inode` and `mtime_ns`, but not `ctime_ns`, which whoever writes cannot put back.
    """

    blob: Blob
    inode: int
    mtime_ns: int
    ctime_ns: int

    def holds(self, status: os.stat_result) -> bool:
        """Whether this is the file, which has perhaps been renamed."""
        return (status.st_ino, status.st_mtime_ns, status.st_size) == (self.inode, self.mtime_ns, self.blob.size)

    def holds_in_place(self, status: os.stat_result) -> bool:
        """Whether this is the file where it was digested, and nothing has been done to it."""
        return self.holds(status) and status.st_ctime_ns == self.ctime_ns


class BlobStore:
    """A directory of blobs. Any number of processes may use one at the same time.

    Without `durable` a power cut may damage what was stored last: for bytes that are verified before they are used
    and can be made again.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self._durable = durable

    def put_file(
        self, path: Path, *, expect: str | None = None, move: bool = False, known: KnownDigest | None = None
    ) -> Blob:
        """Store the bytes of the regular file `path`; with `move` it is gone afterwards.

        The digest is computed from the stored copy, or is `known` where that is the very file, unchanged. Storing the
        same bytes again is harmless and repairs a damaged blob. Raises ArtifactDamaged when the digest is not `expect`,
        ResourceExhausted when there is no room, OSError when `path` is a link or not a regular file; then nothing is
        stored and `path` is still there.
        """
        with self._incoming() as part:
            if known is not None and not known.holds_in_place(path.lstat()):
                known = None
            if not (move and _moved(path, part)):
                copy_file(path, part)
            try:
                blob = self._publish(part, expect, known)
            except BaseException:
                if move and not path.exists():
                    part.replace(path)
                raise
        if move:
            path.unlink(missing_ok=True)
        return blob

    def put_bytes(self, data: bytes) -> Blob:
        """Store `data`. Raises ResourceExhausted when there is no room."""
        with self._incoming() as part:
            with open_new(part) as file:
                file.write(data)
            return self._publish(part, None)

    def open(self, digest: str) -> BinaryIO:
        """The blob's bytes, for reading. Raises NotFound."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"There is no blob {digest}.", digest=digest) from error

    def path(self, digest: str) -> Path:
        """Where the blob is or would be; read it, never write there. Raises NotFound when `digest` is not one."""
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise NotFound(f"{digest[:100]!r} is not a digest (sha256: and 64 hex digits).")
        name = found[1]
        return self.root / "sha256" / name[:2] / name

    def exists(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def verify(self, digest: str) -> None:
        """Read the blob again. Raises ArtifactDamaged when it is missing or its bytes are not `digest`'s."""
        try:
            with self.open(digest) as file:
                actual = digest_of(file)
        except NotFound as error:
            raise ArtifactDamaged(f"The blob {digest} is missing.", digest=digest) from error
        _check(digest, actual, f"The blob {digest}")

    def delete(self, digest: str) -> None:
        """Forget the blob; one that is not there is fine."""
        self.path(digest).unlink(missing_ok=True)

    def sweep(self, older_than_seconds: float) -> int:
        """Remove what killed processes left half stored; how many files that were.

        A file that somebody is still writing, or has moved in, is younger than `older_than_seconds`, or loses its work.
        """
        folder, latest = self.root / "incoming", time.time() - older_than_seconds
        stale = [path for path in (folder.iterdir() if folder.is_dir() else ()) if _touched_before(path, latest)]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A new name in the blobs' own file system; what stands there is removed in the end."""
        folder = self.root / "incoming"
        part = folder / uuid4().hex
        with exhaustion_reported(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)

    def _publish(self, part: Path, expect: str | None, known: KnownDigest | None = None) -> Blob:
        """Give the whole file `part` its final name. Renaming over an equal blob changes nothing for its readers."""
        with _open_regular(part) as file:
            os.fchmod(file.fileno(), 0o444)
            if self._durable:
                os.fsync(file.fileno())
            status = os.fstat(file.fileno())
            blob = known.blob if known is not None and known.holds(status) else Blob(digest_of(file), status.st_size)
        if expect is not None:
            _check(expect, blob.digest, "The file to be stored")
        final = self.path(blob.digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        part.replace(final)
        for folder in (final.parent, final.parent.parent, self.root) if self._durable else ():
            sync_folder(folder)
        return blob


def digest_of(file: BinaryIO) -> str:
    """`sha256:<hex>` of the bytes from the file's position to its end."""
    return f"sha256:{hashlib.file_digest(cast(BufferedReader, file), 'sha256').hexdigest()}"


def digest_early(path: Path, stop: threading.Event) -> KnownDigest | None:
    """The digest of the regular file `path`, whose bytes are on the disk then; None where `stop` came first.

    Raises OSError when `path` is a link, no regular file, or gone.
    """
    digest, chunk = hashlib.sha256(), memoryview(bytearray(EARLY_CHUNK))
    with _open_regular(path) as file:
        status = os.fstat(file.fileno())
        os.fsync(file.fileno())
        while length := os.readv(file.fileno(), [chunk]):
            if stop.is_set():
                return None
            digest.update(chunk[:length])
    blob = Blob(f"sha256:{digest.hexdigest()}", status.st_size)
    return KnownDigest(blob, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def copy_file(source: Path, target: Path) -> None:
    """Copy a regular file's bytes to the new file `target`; file systems that can share them until one is changed.

    Anything else as `source`, a link for one, is refused with OSError.
    """
    with _open_regular(source) as from_file, open_new(target) as to_file:
        if not _copied_by_the_kernel(from_file, to_file):
            shutil.copyfileobj(from_file, to_file, CHUNK)


def _open_regular(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _copied_by_the_kernel(source: IO[bytes], target: IO[bytes]) -> bool:
    if not hasattr(os, "copy_file_range"):
        return False
    try:
        while os.copy_file_range(source.fileno(), target.fileno(), 1 << 30):
            pass
    except OSError as error:
        if (
            error.errno in {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
            and not target.tell()
        ):
            return False
        raise
    return True


def _touched_before(path: Path, moment: float) -> bool:
    """Whether the file was neither written nor renamed since; a file that has gone was not."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return max(status.st_mtime, status.st_ctime) < moment


def _moved(path: Path, target: Path) -> bool:
    """Rename `path` to `target`, unless they are in different file systems."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _check(expected: str, actual: str, what: str) -> None:
    if actual != expected:
        raise ArtifactDamaged(
            f"{what} does not hold the bytes that it should.", expected_digest=expected, actual_digest=actual
        )
