"""Reading FP8, NVFP4 and MX folders back, without the encoder's code: the formats' definitions in numpy.

E4M3 as ml_dtypes has it; E2M1 and E8M0: OCP Microscaling Formats (MX) Specification 1.0, section 5.3; NVFP4's two
scales and the order of its nibbles: compressed-tensors 0.19, compressors/nvfp4.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.model_folder import ModelFolder, read_kept
from quantmill.contract.reading import DecodedRows, ReadTensor
from quantmill.contract.strictjson import parse_object
from quantmill.contract.tensors import FloatArray

Scales = Callable[[NDArray[Any]], FloatArray]  # those of some rows, from what is stored of them


def _pairs(first: FloatArray, second: FloatArray) -> NDArray[np.uint64]:
    """The two values that a code of two parts stands for, as one element: second part above, `first` below."""
    both = np.stack([np.tile(first, len(second)), np.repeat(second, len(first))], axis=1)
    return both.view(np.uint64).reshape(-1)


E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
E4M3_PAIRS = _pairs(E4M3, E4M3)  # of two neighbours
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
E2M1_PAIRS = _pairs(E2M1, E2M1)  # the first of two codes is in the low nibble
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan)).astype(np.float32)  # 255 is NaN
SCALES = (".weight_scale", ".weight_scale_inv", ".weight_global_scale", ".input_scale")
OF_CACHES = (".k_scale", ".v_scale")  # of an attention's keys and values
# They count for the first of these that is quantized
WITH_SCALES_OF_CACHES = ("k_proj", "qkv_proj", "v_proj", "q_proj", "o_proj")
PACKED = ".weight_packed"
# Metadata: experts that the source has in one tensor, and tensors that have another name there
STACKS, NAMES = "quantmill.stacks", "quantmill.names"
BLOCK = 128
CHUNK_VALUES = 1 << 17  # decoded at once, so that they are scaled while they are in the cache


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """Each stored tensor as float32, in the order of the names. Raises VerificationFailed for one that is not whole.

    Experts that the source has in one tensor are given so, and all by the source's names.
    """
    with ModelFolder(folder) as artifact:
        stacked, own_names = _stacks(artifact), _own_names(artifact)
        single = _weights(artifact) - {weight for stack in stacked.values() for weight in stack.weights}
        stored = {own_names.get(name, name): name for name in single}
        for name in sorted(stored.keys() | stacked.keys()):
            if names is None or name in names:
                yield (
                    _read_stack(artifact, name, stacked[name])
                    if name in stacked
                    else replace(_read(artifact, stored[name]), name=name)
                )


def _weights(artifact: ModelFolder) -> set[str]:
    scales = (*SCALES, *OF_CACHES) if _caches_are_quantized(artifact) else SCALES
    stored = (name for name in artifact.tensors if not name.endswith(scales))
    return {f"{name.removesuffix(PACKED)}.weight" if name.endswith(PACKED) else name for name in stored}


@dataclass(frozen=True)
class _Stack:
    """`experts` matrices, each of the rows of as many weights as `patterns` has; the source's are `transposed`."""

    experts: int
    patterns: tuple[str, ...]
    transposed: bool

    def names(self, expert: int) -> list[str]:
        return [pattern.replace("*", str(expert)) for pattern in self.patterns]

    @property
    def weights(self) -> Iterator[str]:
        return (name for expert in range(self.experts) for name in self.names(expert))


def _stacks(artifact: ModelFolder) -> dict[str, _Stack]:
    """What the files' metadata says of experts that the source has in one tensor."""
    return {name: _stack(entry, len(artifact.tensors)) for name, entry in _said(artifact, STACKS).items()}


def _own_names(artifact: ModelFolder) -> dict[str, str]:
    """The source's names of tensors that are stored under others, by those."""
    said = _said(artifact, NAMES)
    own = {stored: name for name, stored in said.items() if isinstance(stored, str)}
    known = own.keys() <= artifact.tensors.keys() and not said.keys() & artifact.tensors.keys()
    _require(known and len(own) == len(said), f"names {said!r:.200}")
    return own


def _said(artifact: ModelFolder, key: str) -> dict[str, Any]:
    try:
        return parse_object(artifact.metadata.get(key, "{}").encode())
    except ValueError as error:
        raise VerificationFailed(f"the metadata's {key} cannot be read: {error}") from error


def _stack(entry: Any, most: int) -> _Stack:
    found = f"experts {entry!r:.200}"
    _require(isinstance(entry, dict) and entry.keys() == {"experts", "weights", "transposed"}, found)
    experts, weights, transposed = entry["experts"], entry["weights"], entry["transposed"]
    _require(type(experts) is int and 0 < experts <= most and type(transposed) is bool, found)
    names = isinstance(weights, list) and all(isinstance(each, str) and each.count("*") == 1 for each in weights)
    _require(names and len(set(weights)) == len(weights) in (1, 2), found)
    return _Stack(experts, tuple(weights), transposed)


def _read_stack(artifact: ModelFolder, name: str, stack: _Stack) -> ReadTensor:
    """The matrices of all experts; one expert's weights are decoded at a time."""
    first = stack.names(0)[0]
    wanted = _codes_shape(artifact, first)
    for weight in stack.weights:  # before there is room for all of them
        shape = _codes_shape(artifact, weight)
        _require(shape == wanted, f"{weight} {list(shape)}, the first expert's are {list(wanted)}")
    rows, cols = _read(artifact, first).values.shape
    outputs = len(stack.patterns) * rows
    matrix = (cols, outputs) if stack.transposed else (outputs, cols)
    values = np.empty((stack.experts, *matrix), np.float32)
    matrices = values.swapaxes(1, 2) if stack.transposed else values
    schemes, nbytes = set(), 0
    for number, weight in enumerate(stack.weights):
        expert, position = divmod(number, len(stack.patterns))
        found = _read(artifact, weight)
        matrices[expert, position * rows : (position + 1) * rows] = found.values
        schemes.add(found.scheme)
        nbytes += found.nbytes
    return ReadTensor(name, " and ".join(sorted(schemes)), nbytes, values, stack.transposed)


def _codes_shape(artifact: ModelFolder, name: str) -> tuple[int, ...]:
    stored = next((each for each in (name, name.removesuffix(".weight") + PACKED) if each in artifact.tensors), None)
    _require(stored is not None, f"there is nothing of {name}")
    return artifact.tensors[str(stored)].shape


def _read(artifact: ModelFolder, name: str) -> ReadTensor:
    module = name.removesuffix(".weight")
    possible = (name, module + PACKED, *(module + scale for scale in SCALES))
    parts = [stored for stored in possible if stored in artifact.tensors]
    _require(bool(parts), f"there is nothing of {name}")
    if parts == [name]:
        return read_kept(artifact, name)
    nbytes = sum(artifact.tensors[part].nbytes for part in parts)
    endings = tuple(part.removeprefix(module) for part in parts)
    if endings not in DECODERS:
        raise VerificationFailed(f"{module} is stored as {', '.join(parts)}, which is no layout of this method")
    scheme, rows = DECODERS[endings](*(artifact.values(part) for part in parts))
    return ReadTensor(name, scheme, nbytes + _of_caches(artifact, module), rows)


def _caches_are_quantized(artifact: ModelFolder) -> bool:
    settings = artifact.config.get("quantization_config")
    return isinstance(settings, Mapping) and settings.get("kv_cache_scheme") is not None


def _of_caches(artifact: ModelFolder, module: str) -> int:
    """What the scales of keys and values take that count for this module."""
    attention = module.rpartition(".")[0]
    candidates = (f"{attention}.{leaf}" for leaf in WITH_SCALES_OF_CACHES)
    first = next((each for each in candidates if f"{each}.weight_scale" in artifact.tensors), None)
    counts = first == module and _caches_are_quantized(artifact)
    names = [attention + ending for ending in OF_CACHES] if counts else []
    return sum(artifact.tensors[each].nbytes for each in names if each in artifact.tensors)


def _scaled(codes: NDArray[Any], scales: Callable[[slice], FloatArray], group: int) -> DecodedRows:
    """E4M3 codes times the scale of their group of `group` columns; `scales` gives those of some rows."""

    def decode(first: int, last: int) -> FloatArray:
        some = slice(first, last)
        return _scaled_rows(codes[some].view(np.uint8), scales(some), group)

    return DecodedRows(codes.shape, decode)


def _scaled_rows(raw: NDArray[np.uint8], scales: FloatArray, group: int) -> FloatArray:
    """In chunks of rows that stay in the cache."""
    rows, cols = raw.shape
    values = np.empty(raw.shape, np.float32)
    table, wide = E4M3, values
    codes: NDArray[Any] = raw
    if cols % 2 == 0:  # two codes are looked up at once
        codes, table, wide = raw.view(np.uint16), E4M3_PAIRS, values.view(np.uint64)
    for chunk in _chunks(rows, cols):
        table.take(codes[chunk], mode="clip", out=wide[chunk])  # no code is out of the table
        _scale(values[chunk], scales[chunk], group)
    return values


def _chunks(rows: int, cols: int) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(1, cols))
    return (slice(start, start + step) for start in range(0, rows, step))


def _scale(values: FloatArray, scales: FloatArray, group: int) -> None:
    """Multiply groups of `group` columns by their scales, in place; the last group of a row may be shorter."""
    rows, cols = values.shape
    if cols % group == 0:
        groups = values.reshape(rows, -1, group)
        groups *= scales[:, :, None]
    else:
        values *= np.repeat(scales, group, axis=1)[:, :cols]


def _fp8(codes: NDArray[Any], scale: NDArray[Any]) -> tuple[str, DecodedRows]:
    """E4M3 with a scale for the tensor, each row or each block, or E8M0 exponents for groups of 32."""
    _require(codes.ndim == 2, f"weights {codes.shape} with scales {scale.shape}")
    _require(codes.dtype == ml_dtypes.float8_e4m3fn, f"weights of {codes.dtype}")
    rows, cols = codes.shape
    if scale.dtype == np.uint8:
        _require(scale.shape == (rows, cols // 32), f"weights {codes.shape} with scales {scale.shape}")
        return "MXFP8", _scaled(codes, lambda some: E8M0[scale[some]], 32)
    scales = scale.astype(np.float32)
    if scale.shape == (1,):
        return "FP8-tensor", _scaled(codes, np.broadcast_to(scales, (rows, 1)).__getitem__, cols)
    if scale.shape == (rows, 1):
        return "FP8", _scaled(codes, scales.__getitem__, cols)
    _require(scale.shape == (-(-rows // BLOCK), -(-cols // BLOCK)), f"weights {codes.shape} with scales {scale.shape}")
    return "FP8-128x128", _scaled(codes, np.repeat(scales, BLOCK, axis=0)[:rows].__getitem__, BLOCK)


def _static_fp8(codes: NDArray[Any], scale: NDArray[Any], input_scale: NDArray[Any]) -> tuple[str, DecodedRows]:
    """The weights are what they are without the scale of their inputs."""
    _require(input_scale.shape == (1,), f"weights {codes.shape} with a scale of inputs {input_scale.shape}")
    return _fp8(codes, scale)


def _four_bit(packed: NDArray[np.uint8], scale: NDArray[Any], scales: Scales, group: int) -> DecodedRows:
    """E2M1 codes times what `scales` makes of the stored `scale` of their group."""
    _require(packed.ndim == 2 and packed.dtype == np.uint8, f"packed {packed.dtype} {packed.shape}")
    rows, cols = packed.shape[0], 2 * packed.shape[1]
    _require(scale.shape == (rows, cols // group), f"{rows} x {cols} weights with scales {scale.shape}")

    def decode(first: int, last: int) -> FloatArray:
        codes, factors = packed[first:last], scales(scale[first:last])
        values = np.empty((last - first, cols), np.float32)
        for chunk in _chunks(last - first, cols):
            E2M1_PAIRS.take(codes[chunk], mode="clip", out=values.view(np.uint64)[chunk])  # no byte is out of the table
            _scale(values[chunk], factors[chunk], group)
        return values

    return DecodedRows((rows, cols), decode)


def _mxfp4(packed: NDArray[Any], scale: NDArray[Any]) -> tuple[str, DecodedRows]:
    _require(scale.dtype == np.uint8, f"scales of {scale.dtype}")
    return "MXFP4", _four_bit(packed, scale, E8M0.__getitem__, 32)


def _nvfp4(packed: NDArray[Any], scale: NDArray[Any], global_scale: NDArray[Any]) -> tuple[str, DecodedRows]:
    _require(global_scale.shape == (1,) and global_scale.dtype == np.float32, f"global scale {global_scale.shape}")
    return "NVFP4", _four_bit(packed, scale, lambda some: some.astype(np.float32) / global_scale[0], 16)


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise VerificationFailed(f"the arrays of a weight do not fit: {found}")


DECODERS: Mapping[tuple[str, ...], Callable[..., tuple[str, DecodedRows]]] = {
    (".weight", ".weight_scale"): _fp8,
    (".weight", ".weight_scale_inv"): _fp8,
    (".weight", ".weight_scale", ".input_scale"): _static_fp8,
    (PACKED, ".weight_scale"): _mxfp4,
    (PACKED, ".weight_scale", ".weight_global_scale"): _nvfp4,
}
