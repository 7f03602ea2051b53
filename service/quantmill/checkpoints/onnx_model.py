"""Folders that hold an ONNX model: its file, and those beside it that its weights lie in."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quantmill.checkpoints.confined import check_name, open_inside, real_path
from quantmill.contract.errors import NotFound, SourceRejected
from quantmill.contract.mapped import MappedFile
from quantmill.contract.onnx import OnnxGraph, Stored, read_graph
from quantmill.contract.safetensors import DTYPES
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import TensorInfo

SUFFIX = ".onnx"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # a folder with these is no ONNX model's
FILES_LIMIT = 512  # each holds a descriptor open; exporters that write a file for each tensor are refused


class OnnxFile(MappedFile):
    """A file in which weights of an ONNX model lie."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path, descriptor)
        self.tensors: Mapping[str, TensorInfo] = {}
        self._begins: Mapping[str, int] = {}

    def take(self, weights: Mapping[str, Stored]) -> None:
        """Note which weights lie here. Raises SourceRejected for one that reaches beyond the file's end."""
        for name, stored in weights.items():
            if stored.begin + stored.info.nbytes > self.size:
                raise SourceRejected(
                    f"{self.path.name} has {self.size} bytes; the weight {shown(name)} would end at byte "
                    f"{stored.begin + stored.info.nbytes}. The file may be truncated.",
                    file=self.path.name,
                    tensor=name,
                )
        self.tensors = {name: stored.info for name, stored in weights.items()}
        self._begins = {name: stored.begin for name, stored in weights.items()}

    def values(self, name: str) -> NDArray[Any]:
        """A weight as `MappedFile.array` gives it. Raises NotFound, and SourceRejected when the file has changed."""
        if name not in self.tensors:
            raise NotFound(f"{self.path.name} holds no weight {shown(name)}.", tensor=name)
        info = self.tensors[name]
        return self.array(self._begins[name], info.shape, info.nbytes, DTYPES[info.dtype])


def onnx_file(folder: Path) -> str | None:
    """The name of the model's file, where `folder` holds an ONNX model. Raises SourceRejected for several."""
    if any(os.path.lexists(folder / name) for name in WEIGHTS):
        return None
    names = sorted(path.name for path in folder.iterdir() if path.suffix == SUFFIX)
    if len(names) > 1:
        raise SourceRejected(
            f"The folder holds {len(names)} ONNX models ({', '.join(map(shown, names[:4]))}); give each a folder of "
            "its own, with its external data and its tokenizer.",
            file=names[1],
        )
    return names[0] if names else None


def open_onnx(folder: Path, model: str) -> tuple[OnnxGraph, tuple[OnnxFile, ...]]:
    """The graph, and the opened files that the weights lie in, the model's own first. No weight is read.

    Raises SourceRejected for what is not an ONNX model, and for weights that are not there, or outside of the folder.
    """
    with ExitStack() as opened:
        own = opened.enter_context(OnnxFile(folder / model, open_inside(folder, model)))
        graph = _read(own, real_path(folder, model))
        files = {"": own}
        for name in sorted({stored.file for stored in graph.weights.values()} - {""}):
            if len(files) > FILES_LIMIT:
                raise SourceRejected(f"{model} keeps its weights in more than {FILES_LIMIT} files.", file=model)
            check_name(name, model)
            files[name] = opened.enter_context(OnnxFile(folder / name, open_inside(folder, name)))
        for name, file in files.items():
            file.take({key: stored for key, stored in graph.weights.items() if stored.file == name})
        if not graph.weights:
            raise SourceRejected(f"{model} holds no weights that could be made smaller.", file=model)
        opened.pop_all()
    return graph, tuple(files.values())


def _read(file: OnnxFile, path: Path) -> OnnxGraph:
    if not file.size:
        raise SourceRejected(f"{path.name} is empty.", file=path.name)
    with mmap.mmap(file.descriptor, file.size, access=mmap.ACCESS_READ) as mapping, memoryview(mapping) as data:
        return read_graph(data, path)
