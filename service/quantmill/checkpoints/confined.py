"""Files of a model folder, opened without ever leaving it.

A name is checked as text first, then opened component by component with O_NOFOLLOW, so that nothing swapped in
between the check and the open can lead elsewhere. One kind of link is followed: the Hugging Face cache keeps a
model's files in `models--org--name/blobs` and links to them from `models--org--name/snapshots/<revision>`.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from quantmill.contract.errors import ResourceExhausted, SourceRejected
from quantmill.contract.strictjson import shown

_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # O_NONBLOCK: opening a FIFO must not wait
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY


def check_name(name: object, where: str) -> str:
    """`name` as the plain name of a file in a model folder. Raises SourceRejected for anything else."""
    if not isinstance(name, str) or not name:
        raise SourceRejected(f"{where} names {shown(name)}, which is not a file name.", file=where)
    if name in {".", ".."} or any(mark in name for mark in "/\\\0") or not name.isprintable():
        raise SourceRejected(
            f"{where} names the file {shown(name)}. Only plain names of files in the same folder are read.", file=where
        )
    return name


def real_path(folder: Path, name: str) -> Path:
    """Where the file `name` in `folder` really lies. Raises SourceRejected when that is outside the folder."""
    return _home_and_target(folder, name)[1]


def open_inside(folder: Path, name: str) -> int:
    """A descriptor of the regular file `name` in `folder`, for reading.

    Raises SourceRejected when there is none, when it is a link that leaves the folder, or not a regular file.
    """
    home, target = _home_and_target(folder, name)
    try:
        descriptor = _open_below(home, target.relative_to(home))
    except OSError as error:
        raise _refusal(name, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceRejected(f"{name} is not a regular file.", file=name)
    return descriptor


def _home_and_target(folder: Path, name: str) -> tuple[Path, Path]:
    target = Path(os.path.realpath(folder / name))
    for home in _homes(folder):
        if home in target.parents:
            return home, target
    raise SourceRejected(f"{name} is a link that leaves the model folder. Replace it by the file itself.", file=name)


def _homes(folder: Path) -> tuple[Path, ...]:
    """The real folders in which the files of `folder` may lie."""
    real = Path(os.path.realpath(folder))
    repository = real.parent.parent
    if real.parent.name == "snapshots" and repository.name.startswith("models--"):
        return real, repository / "blobs"
    return (real,)


def _open_below(home: Path, relative: Path) -> int:
    *folders, name = relative.parts
    parent = os.open(home, _DIRECTORY)
    try:
        for part in folders:
            child = os.open(part, _DIRECTORY, dir_fd=parent)
            os.close(parent)
            parent = child
        return os.open(name, _FILE, dir_fd=parent)
    finally:
        os.close(parent)


def _refusal(name: str, error: OSError) -> SourceRejected | ResourceExhausted:
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return ResourceExhausted(f"Too many open files to read {name}; raise the limit (ulimit -n).", file=name)
    return SourceRejected(f"{name} cannot be opened: {error.strerror}.", file=name)
