"""An artifact's folder: nothing in it but plain files that mean the same on any machine."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

CHUNK = 1 << 22
END = 32 << 20  # bytes at either end of a file in which formats keep what they say about their tensors
LEAST_PATH = 12  # bytes; a shorter one could stand in gigabytes of weights by chance

PORTABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}(?<!\.)")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows opens devices by these names


def files_below(folder: Path) -> dict[str, os.stat_result]:
    """Everything below `folder` that is not a folder, by its path with slashes. Links are not followed."""
    found = {}
    for inner, folders, names in os.walk(folder, followlinks=False):
        links = [name for name in folders if (Path(inner) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(inner) / name
            found[path.relative_to(folder).as_posix()] = path.lstat()
    return dict(sorted(found.items()))


def irregular(files: dict[str, os.stat_result]) -> dict[str, str]:
    """What is not a plain file: a link, a device, a pipe."""
    return {path: _kind(status.st_mode) for path, status in files.items() if not stat.S_ISREG(status.st_mode)}


def unfit(files: dict[str, os.stat_result]) -> dict[str, str]:
    """Plain files with a name or a mode that an artifact's file must not have."""
    faults = {}
    lower: dict[str, str] = {}
    for path, status in files.items():
        twin = lower.setdefault(path.lower(), path)
        found = [*_faults(path, status.st_mode), *([f"differs from {twin} in capitals only"] if twin != path else [])]
        if found:
            faults[path] = ", ".join(found)
    return faults


def unexpected(files: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Files that are missing, and files that do not belong to the artifact."""
    there, wanted = set(files), set(expected)
    faults = dict.fromkeys(wanted - there, "missing") | dict.fromkeys(there - wanted, "not of this artifact")
    return dict(sorted(faults.items()))


def local_paths(folder: Path, files: Iterable[str], places: Iterable[Path]) -> dict[str, str]:
    """Files that name one of `places` of this machine, by the bytes near their ends."""
    texts = {os.fsencode(form) for place in places for form in (place.absolute(), place.resolve())}
    needles = sorted(text for text in texts if len(text) >= LEAST_PATH)
    faults = {}
    for name in files:
        found = _first_found(folder / name, needles) if needles else None
        if found is not None:
            faults[name] = f"names the path {os.fsdecode(found)} of this machine"
    return faults


def _faults(path: str, mode: int) -> Iterator[str]:
    for part in path.split("/"):
        if not PORTABLE.fullmatch(part) or RESERVED.fullmatch(part):
            yield f"the name {part!r} does not work everywhere"
    if mode & stat.S_IWOTH:
        yield f"anybody may write to it (mode {stat.S_IMODE(mode):o}; a umask of 022 prevents it)"
    if mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH | stat.S_ISUID | stat.S_ISGID):
        yield f"it is marked as a program (mode {stat.S_IMODE(mode):o})"


def _kind(mode: int) -> str:
    return "is a link" if stat.S_ISLNK(mode) else "is not a plain file"


def _first_found(path: Path, needles: list[bytes]) -> bytes | None:
    """The first of `needles` near the file's ends, read in chunks that overlap."""
    overlap = max(map(len, needles)) - 1
    tail = b""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for start in _chunks(size):
            file.seek(start)
            window = tail + file.read(CHUNK)
            for needle in needles:
                if needle in window:
                    return needle
            tail = window[-overlap:]
    return None


def _chunks(size: int) -> Iterator[int]:
    """Where chunks begin: all of a small file, both ends of a large one."""
    for start in range(0, size, CHUNK):
        if start < END or start + CHUNK > size - END:
            yield start
