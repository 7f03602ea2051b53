"""GGUF files in NVFP4, made of small checkpoints or changed in one way, and what becomes of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import Conversion
from quantmill.contract.safetensors import TensorFile
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import Plan
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill.worker.conversion import opened
from quantmill_fp8.plugin import FP8
from quantmill_gguf.plugin import GGUF
from quantmill_repack.plugin import REPACK

TO = "nvfp4-pack-quantized"
PARAMS = REPACK.params(to=TO)
SMALL = SyntheticLlama(hidden=128, ffn=192, heads=4, kv_heads=2, blocks=1, vocab=301)

Tensors = dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]


def in_nvfp4(plain: Path, folder: Path) -> Path:
    """The checkpoint in NVFP4A16."""
    with open_checkpoint(plain) as checkpoint:
        run = Run(FP8, FP8.params(scheme="NVFP4A16"), checkpoint)
        run.write(run.quantize(), folder)
    return folder


def as_file(nvfp4: Path, folder: Path) -> Path:
    """A folder with the GGUF file that keeps the codes, and nothing beside it that a checkpoint has."""
    with open_checkpoint(nvfp4) as checkpoint:
        run = Run(GGUF, GGUF.params(type="NVFP4"), checkpoint)
        run.write(run.quantize(), folder)
    return folder


@dataclass(frozen=True)
class Back:
    """A checkpoint made of a file again."""

    folder: Path
    forecast: Plan
    conversion: Conversion
    plan: Plan


def back(file: Path, folder: Path) -> Back:
    """What `repack` makes of the file, verified: no value differs."""
    with (
        open_checkpoint(file) as source,
        opened(source, REPACK, PARAMS, beside=folder.parent) as worked,
    ):
        run = Run(REPACK, PARAMS, worked.checkpoint)
        run.write(run.quantize(), folder)
        assert verify(worked.checkpoint, run.plan, REPACK, PARAMS, folder).relative_rmse == 0.0
        assert worked.forecast is not None
        assert worked.conversion is not None
        return Back(folder, worked.forecast, worked.conversion, worked.plan(REPACK, PARAMS))


def planned(file: Path) -> Plan:
    """The plan of a file, from headers alone."""
    with open_checkpoint(file) as source:
        return REPACK.plan.load()(source.index, PARAMS)


def changed(
    file: Path,
    folder: Path,
    keys: Mapping[str, Any] | None = None,
    tensors: Callable[[Tensors], object] = lambda tensors: None,
) -> Path:
    """A folder with the file of `file`, some keys with other values (None: without them), and other tensors."""
    reader = gguf.GGUFReader(next(file.glob("*.gguf")))
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "changed.gguf", "none")
    writer.kv_data[0].clear()
    types = {bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32}
    types[str] = gguf.GGUFValueType.STRING
    others = dict(keys or {})
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value = others.pop(key, field.contents())
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            kept = type(value) is type(field.contents())
            writer.add_key_value(key, value, field.types[0] if kept else types[type(value)])
    for key, value in others.items():
        if value is not None:
            writer.add_key_value(key, value, types[type(value)])
    held: Tensors = {each.name: (np.array(each.data), each.tensor_type) for each in reader.tensors}
    tensors(held)
    for name, (data, type_) in held.items():
        writer.add_tensor(name, data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def beside(file: Path, folder: Path, *files: Path) -> Path:
    """A copy of the file's folder, with files of a checkpoint beside it."""
    shutil.copytree(file, folder)
    for each in files:
        shutil.copyfile(each, folder / each.name)
    return folder


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    with TensorFile(folder / "model.safetensors") as file:
        return {name: (info.dtype, file.values(name).tobytes()) for name, info in file.tensors.items()}
