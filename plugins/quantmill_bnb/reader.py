"""Reading bitsandbytes folders back, without the encoder's code: the format's definition in numpy.

Codes and tables: bitsandbytes 0.50, functional.get_4bit_type and create_dynamic_map; Dettmers et al. 2023, QLoRA.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.model_folder import ModelFolder, read_kept
from quantmill.contract.reading import DecodedRows, ReadTensor, matrix_of
from quantmill.contract.tensors import FloatArray

STATE = ".quant_state.bitsandbytes__"
NESTED = ("nested_absmax", "nested_quant_map")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCK = 256
CHUNK_VALUES = 1 << 17  # decoded at once, so that they are scaled while they are in the cache


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """Each stored tensor as float32, in the order of the names. Raises VerificationFailed for one that is not whole."""
    with ModelFolder(folder) as artifact:
        for name in sorted(_weights(artifact)):
            if names is None or name in names:
                yield _read(artifact, name)


def _weights(artifact: ModelFolder) -> set[str]:
    """The names of the source's tensors: those that are no companion of a quantized weight."""
    companions = set()
    for name in artifact.tensors:
        weight, state, _ = name.partition(STATE)
        if state:
            companions |= {name, *(f"{weight}.{part}" for part in ("absmax", "quant_map", *NESTED))}
        elif name.endswith(".SCB"):
            companions |= {name, f"{name.removesuffix('.SCB')}.weight_format"}
    return set(artifact.tensors) - companions


def _read(artifact: ModelFolder, name: str) -> ReadTensor:
    states = [stored for stored in artifact.tensors if stored.startswith(name + STATE)]
    scale = f"{name.removesuffix('.weight')}.SCB"
    if states:
        return _four_bit(artifact, name, states)
    if scale in artifact.tensors:
        return _int8(artifact, name, scale)
    return read_kept(artifact, name)


def _nbytes(artifact: ModelFolder, names: Collection[str]) -> int:
    return sum(artifact.tensors[name].nbytes for name in names)


def _int8(artifact: ModelFolder, name: str, scale: str) -> ReadTensor:
    layout = f"{name.removesuffix('.weight')}.weight_format"
    if artifact.values(layout).tolist() != 0:
        raise VerificationFailed(f"{layout} is {artifact.values(layout).tolist()}; 0 (row) is what bitsandbytes reads")
    codes, absmax = artifact.values(name), artifact.values(scale)
    if codes.dtype != np.int8 or codes.ndim != 2 or absmax.shape != codes.shape[:1] or absmax.dtype != np.float32:
        raise VerificationFailed(
            f"{name}: int8 (rows, cols) and float32 (rows,) do not fit: {codes.shape}, {absmax.shape}"
        )
    steps = (absmax / np.float32(127)).astype(np.float32, copy=False)[:, None]

    def decode(first: int, last: int) -> FloatArray:
        values = codes[first:last].astype(np.float32)
        values *= steps[first:last]
        return values

    rows = DecodedRows(codes.shape, decode)
    return ReadTensor(name, "INT8", _nbytes(artifact, [name, scale, layout]), rows)


def _four_bit(artifact: ModelFolder, name: str, states: list[str]) -> ReadTensor:
    if len(states) != 1:
        raise VerificationFailed(f"{name} has {len(states)} quantization states: {states}")
    state = _state(artifact, states[0])
    shape, block = tuple(state["shape"]), state["blocksize"]
    table = artifact.values(f"{name}.quant_map")
    absmax, nested = _absmax(artifact, name, state)
    packed = artifact.values(name).reshape(-1).view(np.uint8)
    blocks = -(-prod(shape) // block)
    if packed.size < -(-prod(shape) // 2) or absmax.shape != (blocks,) or table.shape != (16,):
        raise VerificationFailed(
            f"{name}: {packed.size} bytes and {absmax.size} absmax cannot be {shape} in blocks of {block}"
        )
    scheme = f"{str(state['quant_type']).upper()}-{block}{'-DQ' if nested else ''}"
    parts = [name, states[0], f"{name}.quant_map", f"{name}.absmax"]
    parts += [f"{name}.{part}" for part in NESTED if nested]
    rows = DecodedRows(shape, _four_bit_rows(packed, absmax, table, shape, block))
    return ReadTensor(name, scheme, _nbytes(artifact, parts), rows)


def _state(artifact: ModelFolder, name: str) -> dict[str, Any]:
    try:
        state = json.loads(artifact.values(name).tobytes().decode("utf-8"))
        sizes = [state["blocksize"], *state["shape"]]
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationFailed(f"{name} cannot be read: {error!r}") from error
    known = state["blocksize"] in BLOCK_SIZES and state.get("nested_blocksize", NESTED_BLOCK) == NESTED_BLOCK
    whole = all(type(size) is int and size > 0 for size in sizes)
    if not (known and whole and state.get("quant_type") == name.rpartition("__")[2]):
        raise VerificationFailed(f"{name} does not describe the weight: {state}")
    return dict(state)


def _absmax(artifact: ModelFolder, name: str, state: dict[str, Any]) -> tuple[FloatArray, bool]:
    """The absmax of each block, and whether they were quantized themselves."""
    stored = artifact.values(f"{name}.absmax")
    if "nested_offset" not in state:
        return stored.astype(np.float32, copy=False), False
    table, scales = artifact.values(f"{name}.nested_quant_map"), artifact.values(f"{name}.nested_absmax")
    if stored.dtype != np.uint8 or table.shape != (256,) or scales.shape != (-(-stored.size // NESTED_BLOCK),):
        raise VerificationFailed(f"{name}: its nested absmax do not fit: {stored.shape}, {scales.shape}, {table.shape}")
    each = np.repeat(scales, NESTED_BLOCK)[: stored.size]
    return table[stored] * each + np.float32(state["nested_offset"]), True


def _four_bit_rows(
    packed: NDArray[np.uint8], absmax: FloatArray, table: FloatArray, shape: tuple[int, ...], block: int
) -> Callable[[int, int], FloatArray]:
    """How to decode rows of a matrix whose blocks run over the flattened values."""
    cols = matrix_of(shape)[1]
    both = np.stack([np.repeat(table, 16), np.tile(table, 16)], axis=1).astype(np.float32)  # (256, 2)
    pairs = both.view(np.uint64)[:, 0]

    def decode(first: int, last: int) -> FloatArray:
        start, end = first * cols // block * block, last * cols  # from the beginning of a block on
        scales = absmax[start // block : -(-end // block)]
        values = _decoded(packed[start // 2 : -(-end // 2)], scales, pairs, end - start, block)
        return values[first * cols - start :].reshape(-1, cols)

    return decode


def _decoded(
    packed: NDArray[np.uint8], absmax: FloatArray, pairs: NDArray[np.uint64], n: int, block: int
) -> FloatArray:
    """`n` values; the first of each pair of codes is in the high nibble. A byte is looked up as its two values."""
    values = np.empty(2 * -(-n // 2), np.float32)
    step = max(1, CHUNK_VALUES // block) * block
    for start in range(0, n, step):
        chunk = values[start : start + step]
        raw = packed[start // 2 : (start + chunk.size) // 2]
        pairs.take(raw, mode="clip", out=chunk.view(np.uint64))  # no byte is out of the table
        scales = absmax[start // block : -(-(start + chunk.size) // block)]
        whole = chunk.size // block
        chunk[: whole * block].reshape(-1, block)[:] *= scales[:whole, None]
        chunk[whole * block :] *= scales[-1] if scales.size else np.float32(1)
    return values[:n]
