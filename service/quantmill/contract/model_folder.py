"""Artifacts that are model folders as Hugging Face writes them: sharded safetensors, config.json, tokenizer files.

The writer knows where each byte will stand before the first one is written, so tensors stream through it one at a
time, in the plan's order, whatever the order in the file is. The reader shares no code with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import PluginBroken, SourceRejected
from quantmill.contract.placement import Place, Placement, WeightFile, write_placed
from quantmill.contract.reading import BlockBound, DecodedRows, ReadTensor, matrix_of
from quantmill.contract.safetensors import DTYPES, TensorFile
from quantmill.contract.strictjson import parse_object, shown
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, SourceTensor, TensorInfo, TensorPlan

CONFIG, SINGLE, SHARDED = "config.json", "model.safetensors", "model.safetensors.index.json"
METADATA = {"format": "pt"}  # transformers refuses a file that does not say it
SHARD_BYTES = 5 * 10**9  # of tensors in a file; transformers' own limit
JSON_LIMIT = 100_000_000  # bytes

QUANTIZATION = "quantization_config"
PLACES = ("_name_or_path",)  # keys of config.json that may name a folder of the machine it was written on

# The bounds of tensors that are stored as they are, by their schemes: no error.
KEPT_ERROR_BOUNDS = dict.fromkeys(DTYPES, 0.0)
KEPT_BLOCK_BOUNDS = dict.fromkeys(DTYPES, BlockBound(32, 0.0))

# Planning


# Formats of models that are trained or published in them: their values are the model's
AS_GOOD_AS_PLAIN = ("fp8", "float-quantized")


def require_unquantized(index: ModelIndex, allow_requantize: bool | None = None) -> tuple[str, ...]:
    """What a plan has to say of a source that is quantized itself; nothing of a plain one.

    Raises SourceRejected for a GGUF file, for a quantized source whose values cannot be had, and for one whose codes
    are coarser than FP8 unless `allow_requantize`, which is None where a method has no such parameter.
    """
    if index.gguf is not None:
        raise SourceRejected(
            "the source is a GGUF file, which this method does not take; give the checkpoint that it was made from, "
            "with config.json, the tokenizer's files and safetensors, or make another GGUF file with the method gguf",
            architecture=index.architecture,
        )
    quantization = index.config.get(QUANTIZATION)
    if not quantization:
        return ()
    how = quantization.get("quant_method", "unnamed") if isinstance(quantization, Mapping) else quantization
    formats = sorted({weight.format for weight in index.stored.values()})
    if not formats:
        raise SourceRejected(
            f"the source is quantized already ({shown(how)}); give the model that it was made from", key=QUANTIZATION
        )
    if not allow_requantize and not set(formats) <= set(AS_GOOD_AS_PLAIN):
        raise SourceRejected(
            f"the source is quantized already ({', '.join(formats)}), and its errors would add to the new ones; "
            f"give the model that it was made from{'' if allow_requantize is None else ', or set allow_requantize'}",
            key=QUANTIZATION,
        )
    return (
        f"the source is quantized ({', '.join(formats)}): {len(index.stored)} weights are read as what they stand for",
        *index.defects,
    )


def kept_row(info: TensorInfo, reason: str) -> TensorPlan:
    """The plan of a tensor that is stored as it is: the source's name, dtype and bytes."""
    return TensorPlan(info.name, info.shape, info.dtype, "keep", info.dtype, info.name, info.nbytes, reason)


# Writing


@dataclass(frozen=True)
class StoredPart:
    """One array of a quantized tensor as the files hold it.

    part    its key in QuantizedTensor.parts
    name    its name in the file: model.layers.0.mlp.up_proj.weight_packed
    dtype   safetensors' name: U8, I32, F8_E4M3, BF16 ...
    """

    part: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].itemsize


Layout = Callable[[TensorPlan], Sequence[StoredPart]]

KEPT = "values"  # the one part of a tensor that is stored as it is


def kept_part(row: TensorPlan) -> StoredPart:
    """How the files hold a tensor that is stored as it is: the plan's name, the source's dtype and bytes."""
    return StoredPart(KEPT, row.output, row.source_dtype, row.shape)


def kept_tensor(source: SourceTensor) -> QuantizedTensor:
    """A tensor that is stored as it is; its scheme is its dtype."""
    return QuantizedTensor(source.info.name, source.info.dtype, source.info.shape, {KEPT: source.values})


def write_model_folder(
    tensors: Iterable[QuantizedTensor],
    plan: Plan,
    layout: Layout,
    index: ModelIndex,
    config: Mapping[str, Any],
    folder: Path,
) -> list[Path]:
    """Write the shards, their index where there are several, config.json and the files that belong to the model.

    `tensors` come in the plan's order. Raises PluginBroken when one is not what plan and layout say, OSError when it
    cannot be written.
    """
    return write_placed(tensors, plan, place_model_folder(plan, layout, index, config), folder)


def place_model_folder(
    plan: Plan,
    layout: Layout,
    index: ModelIndex,
    config: Mapping[str, Any],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Placement:
    """Where everything in a model folder stands: shards, their index where there are several, config.json, tokenizer.

    `layout` says what the files hold for each tensor, `config` is the whole config.json, `metadata` what each weight
    file says beside its tensors. Depends on the arguments only. Raises PluginBroken when plan and layout disagree.
    """
    shards = _shards(plan, layout)
    weights: dict[str, WeightFile] = {}
    places: dict[str, tuple[Place, ...]] = {}
    for name, rows in shards.items():
        head, begins, size = _header([part for _, parts in rows for part in parts], metadata)
        weights[name] = WeightFile(head, size)
        for row, parts in rows:
            places[row.name] = tuple(
                Place(part.part, part.name, name, begins[part.name], part.nbytes) for part in parts
            )
    plain = {SHARDED: _json(_index_of(shards))} if len(shards) > 1 else {}
    return Placement(weights, places, {**plain, CONFIG: _json(config)}, dict(index.files))


def quantized_config(index: ModelIndex, quantization: Mapping[str, Any]) -> dict[str, Any]:
    """The source's config.json with its `quantization_config`, and without the places where it lay."""
    config = {key: value for key, value in index.config.items() if key not in PLACES}
    return {**config, QUANTIZATION: quantization}


Rows = list[tuple[TensorPlan, Sequence[StoredPart]]]


def _shards(plan: Plan, layout: Layout) -> dict[str, Rows]:
    """The rows of each file by its name; all parts of a tensor stand in one file."""
    files: list[Rows] = [[]]
    filled = 0
    for row in plan.tensors:
        if row.action == "drop":
            continue
        parts = layout(row)
        nbytes = sum(part.nbytes for part in parts)
        if nbytes != row.nbytes:
            raise PluginBroken(f"{row.name}: its parts take {nbytes} bytes, the plan says {row.nbytes}")
        if files[-1] and filled + nbytes > SHARD_BYTES:
            files.append([])
            filled = 0
        files[-1].append((row, parts))
        filled += nbytes
    if len(files) == 1:
        return {SINGLE: files[0]}
    return {f"model-{number:05}-of-{len(files):05}.safetensors": rows for number, rows in enumerate(files, 1)}


def _header(parts: list[StoredPart], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int], int]:
    """The header's bytes, where in the file each part begins, and the file's size.

    Widest dtypes first, so that every array is aligned to its dtype: the format allows no gaps.
    """
    entries: dict[str, Any] = {"__metadata__": {**METADATA, **metadata}}
    offset = 0
    begins = {}
    for part in sorted(parts, key=lambda part: (-DTYPES[part.dtype].itemsize, part.name)):
        if part.name in begins:
            raise PluginBroken(f"two tensors are to be stored as {part.name!r}", tensor=part.name)
        begins[part.name] = offset
        end = offset + part.nbytes
        entries[part.name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + begin for name, begin in begins.items()}, len(header) + offset


def _index_of(shards: Mapping[str, Rows]) -> dict[str, Any]:
    weight_map = {part.name: name for name, rows in shards.items() for _, parts in rows for part in parts}
    nbytes = sum(part.nbytes for rows in shards.values() for _, parts in rows for part in parts)
    return {"metadata": {"total_size": nbytes}, "weight_map": dict(sorted(weight_map.items()))}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


# Reading


class ModelFolder:
    """An artifact's config.json and safetensors files, opened; a context manager.

    `config` is config.json, `tensors` all stored arrays by name, `metadata` what the first weight file says beside
    them. Raises SourceRejected when the folder does not hold exactly what its files say.
    """

    def __init__(self, folder: Path) -> None:
        self.config = _read_json(folder / CONFIG)
        self._opened = ExitStack()
        try:
            files = [self._opened.enter_context(TensorFile(path)) for path in _weight_files(folder)]
            self._file_of = {name: file for file in files for name in file.tensors}
            if len(self._file_of) < sum(len(file.tensors) for file in files):
                raise SourceRejected("a tensor is stored in two files")
            _check_index(folder, self._file_of)
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = {name: info for file in files for name, info in file.tensors.items()}
        self.metadata: Mapping[str, str] = files[0].metadata if files else {}

    def values(self, name: str) -> NDArray[Any]:
        """A stored array, memory-mapped and read-only. Raises SourceRejected for a name that is not stored."""
        if name not in self._file_of:
            raise SourceRejected(f"the files hold no tensor {shown(name)}", tensor=name)
        return self._file_of[name].values(name)

    def files(self) -> tuple[str, ...]:
        """The weight files, their index and config.json, by name."""
        weights = {file.path.name for file in self._file_of.values()}
        return (*sorted(weights), *([SHARDED] if weights != {SINGLE} else []), CONFIG)

    def close(self) -> None:
        """Close the files; arrays that were handed out stay valid."""
        self._opened.close()

    def __enter__(self) -> ModelFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _weight_files(folder: Path) -> list[Path]:
    single = folder / SINGLE
    if single.is_file() == (folder / SHARDED).is_file():
        raise SourceRejected(f"the folder must hold {SINGLE} or {SHARDED}, and not both")
    if single.is_file():
        return [single]
    names = sorted(set(_weight_map(folder).values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise SourceRejected(f"{SHARDED} names {shown(name)}, which is no file of the folder", file=SHARDED)
    return [folder / name for name in names]


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = _read_json(folder / SHARDED).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise SourceRejected(f'{SHARDED} has no "weight_map" from tensors to files', file=SHARDED)
    return weight_map


def _check_index(folder: Path, file_of: Mapping[str, TensorFile]) -> None:
    if not (folder / SHARDED).is_file():
        return
    stored = {name: file.path.name for name, file in file_of.items()}
    for name, where in sorted(stored.items() ^ _weight_map(folder).items()):
        raise SourceRejected(f"{SHARDED} and the files disagree: {shown(name)} in {where}", tensor=name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise SourceRejected(f"{path.name} is larger than {JSON_LIMIT} bytes", file=path.name)
        return parse_object(path.read_bytes(), non_finite=True)
    except OSError as error:
        raise SourceRejected(f"{path.name} cannot be read: {error.strerror}", file=path.name) from error
    except ValueError as error:
        raise SourceRejected(f"{path.name} cannot be read: {error}", file=path.name) from error


def read_kept(artifact: ModelFolder, name: str) -> ReadTensor:
    """A tensor that is stored as it is. Raises SourceRejected for a dtype that holds no real numbers."""
    info, values = artifact.tensors[name], artifact.values(name)
    matrix = values.reshape(matrix_of(info.shape))
    content = DecodedRows(info.shape, lambda first, last: matrix[first:last].astype(np.float32, copy=False))
    return ReadTensor(name, info.dtype, info.nbytes, content)
