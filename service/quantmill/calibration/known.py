"""Statistics of the source's own pass, on disk: written block by block, kept for the next job that needs the same.

A folder is named by the digest of all that its numbers follow from. It appears whole or not at all; whoever computes
one holds its lock, so that a second job waits for it instead. The folders that were used longest ago go when there is
no room.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors.numpy import save_file

from quantmill.contract.calibration import Statistics
from quantmill.contract.errors import SourceRejected
from quantmill.contract.safetensors import TensorFile
from quantmill.contract.sensitivity import Sensitivity
from quantmill.files.atomic import exhaustion_reported

CODE = "2"  # raise it when the pass gives other values
INDEX = "quantmill.statistics"
ROUTED = "routed.json"
SENSITIVITY = "sensitivity.json"
POLL_SECONDS = 0.2
ARRAYS = tuple(field.name for field in fields(Statistics) if field.name != "tokens")


@dataclass(frozen=True)
class StatisticsCache:
    """A folder of all sources, texts and kinds, with `limit_bytes` at most."""

    folder: Path
    limit_bytes: int

    @contextmanager
    def opened(
        self, key: Mapping[str, Any], make: Callable[[Writing], None], work: Path, pause: Callable[[], None]
    ) -> Iterator[KnownStatistics]:
        """What `make` wrote for this key, now and in the folder `work`, or in an earlier job.

        `pause` is called while another job writes it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        libraries = {name: version(name) for name in ("torch", "transformers")}
        name = hashlib.sha256(json.dumps([CODE, dict(key), libraries], sort_keys=True).encode()).hexdigest()
        with ExitStack() as stack:
            with self._locked(name, pause):
                found = self._open(self.folder / name)
                if found is None:
                    part = work / f"{uuid4().hex}.statistics"
                    stack.callback(_remove, part)
                    make(Writing(part))
                    found = KnownStatistics(self._kept(part, name), from_cache=False)
                stack.callback(found.close)
            yield found

    def _open(self, folder: Path) -> KnownStatistics | None:
        """None for what is not there or cannot be read."""
        if not folder.is_dir():
            return None
        try:
            found = KnownStatistics(folder, from_cache=True)
            os.utime(folder)  # used now: others are older
        except (OSError, ValueError, KeyError, SourceRejected):
            _remove(folder)
            return None
        return found

    def _kept(self, part: Path, name: str) -> Path:
        """Where it lies from now on: under its name, unless it is too large for that or on another disk."""
        nbytes = _size(part)
        if nbytes > self.limit_bytes:
            return part
        folders = [each for each in self.folder.iterdir() if each.is_dir()]
        folders.sort(key=lambda each: each.stat().st_mtime)
        used = sum(map(_size, folders))
        for each in folders:
            if used + nbytes <= self.limit_bytes:
                break
            used -= _size(each)
            _remove(each)
        try:
            return part.rename(self.folder / name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return part

    @contextmanager
    def _locked(self, name: str, pause: Callable[[], None]) -> Iterator[None]:
        with (self.folder / f"{name}.lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    pause()
                    time.sleep(POLL_SECONDS)
            yield


def _remove(folder: Path) -> None:
    """A folder of statistics, which holds plain files only; one that is gone already is fine."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


class Writing:
    """Statistics on their way to disk, one block after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(self, number: int, found: Mapping[str, Statistics]) -> None:
        """Statistics that several weights share are written once."""
        groups = {id(statistics): statistics for statistics in found.values()}
        names: dict[int, list[str]] = {key: [] for key in groups}
        for name, statistics in found.items():
            names[id(statistics)].append(name)
        arrays, index = {}, []
        for position, (key, statistics) in enumerate(groups.items()):
            index.append({"names": names[key], "tokens": statistics.tokens})
            for kind in ARRAYS:
                if (values := getattr(statistics, kind)) is not None:
                    arrays[f"{position}/{kind}"] = np.ascontiguousarray(values)
        with exhaustion_reported(self.folder):
            save_file(arrays, self.folder / f"{number:05}.safetensors", metadata={INDEX: json.dumps(index)})

    def note(self, routed: Mapping[str, list[int]], sensitivity: Mapping[str, Sensitivity]) -> None:
        """What the experts were sent, and what the weights lose."""
        losses = {name: [found.by, [*found.losses.items()]] for name, found in sensitivity.items()}
        with exhaustion_reported(self.folder):
            (self.folder / ROUTED).write_text(json.dumps(routed), "utf-8")
            (self.folder / SENSITIVITY).write_text(json.dumps(losses), "utf-8")


class KnownStatistics:
    """Statistics by weight, mapped, and each weight's sensitivity; `routed` is how many tokens each expert was sent,
    by module."""

    def __init__(self, folder: Path, *, from_cache: bool) -> None:
        self.from_cache = from_cache
        self.routed: dict[str, list[int]] = json.loads((folder / ROUTED).read_text("utf-8"))
        losses = json.loads((folder / SENSITIVITY).read_text("utf-8"))
        self.sensitivity = {name: Sensitivity(by, dict(found)) for name, (by, found) in losses.items()}
        self._where: dict[str, tuple[TensorFile, int, int]] = {}
        with ExitStack() as stack:
            for path in sorted(folder.glob("*.safetensors")):
                file = stack.enter_context(TensorFile(path))
                for position, row in enumerate(json.loads(file.metadata[INDEX])):
                    self._where |= dict.fromkeys(row["names"], (file, position, row["tokens"]))
            self._stack = stack.pop_all()

    def get(self, name: str) -> Statistics | None:
        if name not in self._where:
            return None
        file, position, tokens = self._where[name]
        parts = {kind: f"{position}/{kind}" for kind in ARRAYS}
        return Statistics(tokens, **{kind: file.values(part) for kind, part in parts.items() if part in file.tensors})

    def close(self) -> None:
        self._stack.close()
