"""Finished units on disk: one safetensors file each, so that a later attempt goes on where this one stopped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from quantmill.contract.safetensors import TensorFile
from quantmill.contract.tensors import QuantizedTensor

INDEX = "quantmill.unit"


def write_unit(tensors: Sequence[QuantizedTensor], path: Path) -> None:
    """Write all tensors of a unit. The file's parts are named by position; its metadata says what they belong to.

    Raises OSError when it cannot be written.
    """
    arrays = {
        f"{position}/{part}": np.ascontiguousarray(values)
        for position, tensor in enumerate(tensors)
        for part, values in tensor.parts.items()
    }
    index = [{"name": tensor.name, "scheme": tensor.scheme, "shape": list(tensor.shape)} for tensor in tensors]
    try:
        save_file(arrays, path, metadata={INDEX: json.dumps(index)})
    except SafetensorError as error:
        raise _os_error(error, path) from error


def _os_error(error: SafetensorError, path: Path) -> Exception:
    """The library tells what the operating system said only in its message; a full disk has to be known as one."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error


def read_unit(path: Path) -> Iterator[QuantizedTensor]:
    """The tensors of a unit file, memory-mapped; they stay readable until the iterator moves on."""
    with TensorFile(path) as file:
        for position, entry in enumerate(json.loads(file.metadata[INDEX])):
            prefix = f"{position}/"
            parts = {name.removeprefix(prefix): file.values(name) for name in file.tensors if name.startswith(prefix)}
            yield QuantizedTensor(entry["name"], entry["scheme"], tuple(entry["shape"]), parts)
