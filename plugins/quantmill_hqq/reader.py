"""Reading HQQ folders back, without the encoder's code: the formats' definitions in numpy.

hqq 0.2.8: core/quantize.py (Quantizer.dequantize), core/bitpack.py. compressed-tensors 0.19: compressors/
pack_quantized, a row of codes as a little-endian stream of bits, zero points as streams along the outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.model_folder import ModelFolder, read_kept
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import FloatArray

W_Q, PACKED = ".W_q", ".weight_packed"
ARRAYS = ("W_q", "scale", "zero")
METADATA = (
    "shape",
    "nbits",
    "group_size",
    "axis",
    "packing",
    "unpack_view_dtype",
    "compute_dtype",
    "view_as_float",
    "quant_scale",
    "quant_zero",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
)
COMPRESSED = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")

# Bits -> packing, dtype of its words, shift of each part of the rows, first to last
PACKINGS: dict[int, tuple[str, type[np.generic], tuple[int, ...]]] = {
    8: ("8bit_u8", np.uint8, (0,)),
    6: ("8bit_u8", np.uint8, (0,)),
    5: ("8bit_u8", np.uint8, (0,)),
    4: ("4bit_u8", np.uint8, (4, 0)),
    3: ("3bit_32", np.int32, tuple(range(27, -1, -3))),
    2: ("2bit_u8", np.uint8, (6, 4, 2, 0)),
    1: ("1bit_u8", np.uint8, (7, 6, 5, 4, 3, 2, 1, 0)),
}
LABELED = (8, 16, 32, 64, 128, 256)
LONGEST_TEXT = 32  # bytes of a packing or a dtype
CHUNK_VALUES = 1 << 16  # decoded at once, so that they are scaled while they are in the cache


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """Each stored tensor as float32, in the order of the names. Raises VerificationFailed for one that is not whole."""
    with ModelFolder(folder) as artifact:
        modules = _modules(artifact)
        companions = {f"{module}.{part}" for module, parts in modules.items() for part in parts}
        kept = set(artifact.tensors) - companions
        for name in sorted({*kept, *(f"{module}.weight" for module in modules)}):
            if names is None or name in names:
                module = name.removesuffix(".weight")
                if name in kept:  # where a module has both, the weight is what a consumer would look at first
                    yield read_kept(artifact, name)
                else:
                    yield _read(artifact, module, modules[module])


def _modules(artifact: ModelFolder) -> dict[str, tuple[str, ...]]:
    """The quantized modules, and the parts that each must have."""
    found = {name.removesuffix(W_Q): (*ARRAYS, *METADATA) for name in artifact.tensors if name.endswith(W_Q)}
    compressed = (name.removesuffix(PACKED) for name in artifact.tensors if name.endswith(PACKED))
    return found | dict.fromkeys(compressed, COMPRESSED)


def _read(artifact: ModelFolder, module: str, parts: tuple[str, ...]) -> ReadTensor:
    missing = [part for part in parts if f"{module}.{part}" not in artifact.tensors]
    if missing:
        raise VerificationFailed(f"{module}.weight is not whole: {', '.join(missing)} are not stored")
    arrays = {part: artifact.values(f"{module}.{part}") for part in parts}
    label, values = (_compressed if parts == COMPRESSED else _hqq)(module, arrays)
    nbytes = sum(artifact.tensors[f"{module}.{part}"].nbytes for part in parts)
    return ReadTensor(f"{module}.weight", label, nbytes, values)


def _hqq(module: str, arrays: dict[str, NDArray[Any]]) -> tuple[str, FloatArray]:
    """(code - zero) * scale; codes, scale and zero as the grouped matrix has them."""
    nbits, size, axis = (_integer(module, key, arrays[key]) for key in ("nbits", "group_size", "axis"))
    shape = tuple(arrays["shape"].tolist()) if arrays["shape"].shape == (2,) else ()
    stored = f"nbits {nbits}, group_size {size}, axis {axis}, shape {shape}"
    fits = nbits in PACKINGS and axis in (0, 1) and len(shape) == 2 and min(*shape, size) > 0
    _require(module, fits and shape[0] * shape[1] % size == 0, stored)
    packing, word, shifts = PACKINGS[nbits]
    for key, wanted in (("packing", packing), ("unpack_view_dtype", f"torch.{np.dtype(word)}")):
        _require(module, _text(arrays[key]) == wanted, f"{key} {_text(arrays[key])!r} for {nbits} bits")
    groups = shape[0] * shape[1] // size
    rows, cols = (groups, size) if axis == 1 else (size, groups)
    packed, scale, zero = (arrays[part] for part in ARRAYS)
    _require(module, packed.dtype == word and packed.shape == (-(-rows // len(shifts)), cols), f"W_q {packed.shape}")
    each = (rows, 1) if axis == 1 else (1, cols)
    _require(module, scale.shape == zero.shape == each, f"scale {scale.shape}, zero {zero.shape} for {stored}")
    label = f"HQQ{nbits}-{size}" if size in LABELED else f"HQQ{nbits}-{('COL', 'ROW')[axis]}"
    suffix = "-AXIS0" if axis == 0 and size in LABELED else ""
    if size not in LABELED:
        _require(module, size == shape[axis], f"groups of {size}")
    values = _decoded(packed, shifts, 2**nbits - 1, scale, zero, rows).reshape(shape)
    return label + suffix, values


def _decoded(
    packed: NDArray[Any], shifts: tuple[int, ...], largest: int, scale: NDArray[Any], zero: NDArray[Any], rows: int
) -> FloatArray:
    """Part k of the rows stands `shifts[k]` bits above the lowest."""
    scale, zero = scale.astype(np.float32), zero.astype(np.float32)
    count, cols = packed.shape
    values = np.empty((rows, cols), np.float32)
    step = max(1, CHUNK_VALUES // cols)
    mask = 255 if len(shifts) == 1 else largest  # 5 and 6 bits fill a byte
    for part, shift in enumerate(shifts):
        for start in range(0, count, step):
            target = slice(part * count + start, min(part * count + min(start + step, count), rows))
            height = target.stop - target.start
            if height > 0:
                of = slice(None) if len(scale) == 1 else target
                codes = packed[start : start + height] >> shift
                codes &= mask
                np.subtract(codes, zero[of], out=values[target], dtype=np.float32)
                values[target] *= scale[of]
    return values


def _compressed(module: str, arrays: dict[str, NDArray[Any]]) -> tuple[str, FloatArray]:
    """(code - zero point) * scale; both are stored from 0, groups run along the rows."""
    packed, scale, zero, shape = (arrays[part] for part in COMPRESSED)
    _require(module, shape.shape == (2,) and packed.ndim == scale.ndim == 2, f"shape {shape}, scale {scale.shape}")
    outputs, inputs = (int(size) for size in shape)
    _require(module, outputs > 0 and inputs > 0 and len(packed) == len(scale) == outputs, f"packed {packed.shape}")
    nbits, groups = 32 * packed.shape[1] // inputs, scale.shape[1]
    whole = packed.shape[1] * 32 == nbits * inputs and groups > 0 and inputs % groups == 0
    _require(module, nbits in (4, 8) and whole, f"{packed.shape} words and {groups} groups for rows of {inputs}")
    _require(module, zero.shape == (-(-outputs * nbits // 32), groups), f"zero points {zero.shape}")
    _require(module, packed.dtype == zero.dtype == np.int32, f"words of {packed.dtype} and {zero.dtype}")
    zeros = _stream(np.ascontiguousarray(zero.T), nbits).T[:outputs]
    values = np.empty((outputs, inputs), np.float32)
    step = max(1, CHUNK_VALUES // inputs)
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        codes = _stream(packed[rows], nbits).reshape(-1, groups, inputs // groups)
        chunk = values[rows].reshape(codes.shape)
        np.subtract(codes, zeros[rows, :, None], out=chunk, dtype=np.float32)
        chunk *= scale[rows].astype(np.float32)[:, :, None]
    size = inputs // groups
    _require(module, size in LABELED or groups == 1, f"groups of {size}")
    return f"INT{nbits}-{size if size in LABELED else 'ROW'}-ASYM", values


def _stream(words: NDArray[np.int32], nbits: int) -> NDArray[np.uint8]:
    """The codes of each row of words, lowest bits first."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    if nbits == 8:
        return octets
    return np.stack([octets & 15, octets >> 4], axis=2).reshape(len(words), -1)


def _integer(module: str, key: str, value: NDArray[Any]) -> int:
    _require(module, value.shape == () and value.dtype == np.int32, f"{key} {value.dtype} {value.shape}")
    return int(value)


def _text(value: NDArray[Any]) -> str:
    return value[:LONGEST_TEXT].tobytes().decode("ascii", "replace") if value.dtype == np.uint8 and value.ndim else ""


def _require(module: str, holds: bool, found: str) -> None:
    if not holds:
        raise VerificationFailed(f"the arrays of {module} do not fit: {found}")
