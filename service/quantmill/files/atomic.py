"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from quantmill.contract.errors import ResourceExhausted

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this process or file system allows",
}


@contextmanager
def exhaustion_reported(path: Path) -> Iterator[None]:
    """Turn the operating system's "no room left" into ResourceExhausted, naming `path`. Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ResourceExhausted(
            f"{path} cannot be written: {FULL[error.errno]}. Make room or choose another disk, then try again.",
            path=str(path),
        ) from error


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write beside `path`, then rename: a reader sees the old bytes or the new, never half, even after a crash.

    `mode` is "wb", or "w" for UTF-8 text. Raises ResourceExhausted when there is no room; nothing is left behind.
    """
    part = part_of(path)
    encoding = None if "b" in mode else "utf-8"
    with exhaustion_reported(path):
        try:
            with open_new(part, mode, encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A name beside `path` that nothing has yet, for its content while it is not whole."""
    return path.with_name(f".{path.name[:100]}.{uuid4().hex}.part")


def open_new(path: Path, mode: str = "wb", encoding: str | None = None) -> IO[Any]:
    """Create `path` and open it; FileExistsError when it is there already, as a link too."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), mode, encoding=encoding)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
