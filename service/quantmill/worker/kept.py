"""What long work has come to, on disk, so that a later attempt goes on from there and not from the beginning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from quantmill.contract.errors import PluginBroken, QuantmillError
from quantmill.contract.safetensors import TensorFile
from quantmill.files.atomic import exhaustion_reported
from quantmill.worker.units import os_error

DIGEST = "quantmill.kept"
_NAME = re.compile(r"[a-z0-9-]{1,100}")


class KeptState:
    """Named arrays in a folder, a file for each name. A file that was cut off or damaged counts as none.

    Attempts share the folder. One that has lost its lease without knowing may still write: the same source and plan
    make the same state, only an earlier one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep `arrays` in place of what was kept under `name`.

        Raises PluginBroken for a name that is not of lower-case letters, digits and hyphens, ResourceExhausted when
        there is no room.
        """
        path = self._path(name)
        whole = {key: np.asarray(array, order="C") for key, array in arrays.items()}
        part = path.with_name(f".{uuid4().hex}.part")
        with exhaustion_reported(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                save_file(whole, part, metadata={DIGEST: _digest(whole)})
                part.replace(path)
            except SafetensorError as error:
                raise os_error(error, part) from error
            finally:
                part.unlink(missing_ok=True)

    def get(self, name: str) -> Mapping[str, NDArray[Any]] | None:
        """Copies of what was kept last, None where there is nothing or it is not what was written."""
        try:
            with TensorFile(self._path(name)) as file:
                arrays = {key: file.values(key).copy() for key in file.tensors}
                return arrays if _digest(arrays) == file.metadata.get(DIGEST) else None
        except (OSError, QuantmillError):
            return None

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise PluginBroken(f"{name[:100]!r} is no name to keep anything under: letters, digits and hyphens are")
        return self._folder / f"{name}.safetensors"


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = blake3()
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape}\n".encode())
        digest.update(arrays[key].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
