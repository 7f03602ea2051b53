"""GGUF files in NVFP4 as compressed-tensors' folders: the same codes, scales of 16, and number of each matrix.

GGML's blocks have 64 codes and the four scales of 16 of them each, and llama.cpp multiplies a matrix by a factor in a
tensor of its own; compressed-tensors has codes and scales apart, and divides by weight_global_scale. The result's is
the number whose reciprocal, rounded to float32, is the factor to the bit: so the file is what `gguf` with `type=NVFP4`
makes of the result. Nothing is rounded; a factor without such a number is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import RangeExceeded, SourceRejected
from quantmill.contract.gguf import NVFP4, BlockTensor, GgufSource
from quantmill.contract.linears import LINEARS
from quantmill.contract.method import Conversion
from quantmill.contract.model_folder import (
    CONFIG,
    KEPT,
    QUANTIZATION,
    StoredPart,
    kept_part,
    kept_row,
    place_model_folder,
)
from quantmill.contract.placement import write_placed
from quantmill.contract.safetensors import DTYPES
from quantmill.contract.session import Session
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, TensorInfo, TensorPlan, Unit
from quantmill_repack import comparison
from quantmill_repack.export import nvfp4_pack_quantized
from quantmill_repack.gguf_config import check_divisors, config_of
from quantmill_repack.gguf_model import ROPE_FACTORS, Described, Held, describe
from quantmill_repack.gguf_tokenizer import tokenizer_of
from quantmill_repack.layouts import NVFP4_PACKED, nvfp4_parts, peak_memory
from quantmill_repack.params import RepackParams

LARGEST_SCALE = 0x7E  # 448 in E4M3; after it come NaN and those below zero
LARGEST_CODE_TIMES_SCALE = np.float32(6 * 448)  # which an encoder divides by the largest weight
SMALLEST = np.finfo(np.float32).tiny  # below, programs may take a number for zero
SCHEME = "NVFP4"
UNCHANGED = "not quantized in the source"


@dataclass(frozen=True)
class Remade:
    """What becomes of a file: config.json and the tokenizer's files that are made, and the names of those carried."""

    described: Described
    config: Mapping[str, Any]
    made: Mapping[str, bytes]
    carried: Mapping[str, Path]

    @property
    def said(self) -> tuple[str, ...]:
        """What the plan says of it."""
        inputs = sum(name.endswith(".input_scale") for name in self.described.dropped)
        lines = {
            "rebuilt from the GGUF file's metadata: {}": [*([] if CONFIG in self.carried else [CONFIG]), *self.made],
            "taken from beside the GGUF file: {}": sorted(self.carried),
            "input_scale of {} weights is left out: NVFP4A16 leaves inputs as they are": [str(inputs)]
            if inputs
            else [],
            "{} experts a block: transformers 5.23 leaves out their weight_global_scale, and computes other numbers": (
                [str(self.described.experts)] if self.described.experts else []
            ),
        }
        return tuple(line.format(", ".join(words)) for line, words in lines.items() if words)


def remade(index: ModelIndex, source: GgufSource) -> Remade:
    """What the file becomes, from headers and the files beside it. Raises SourceRejected where it cannot."""
    described = describe(index, source)
    config = config_of(index, source, described)
    return Remade(described, config, tokenizer_of(index, source, described.vocab), index.files)


def forecast(index: ModelIndex, source: GgufSource) -> Plan:
    """What will become of each tensor, by the file's names. Raises what `remade` raises."""
    found = remade(index, source)
    held = {name: tuple(parts) for name, parts in groupby(found.described.held, key=lambda each: each.source)}
    rows = tuple(
        _whole(info, held[name]) if name in held else _dropped(info, found.described.dropped[name])
        for name, info in index.tensors.items()
    )
    converting = max(4 * row.values + 2 * row.nbytes for row in rows)
    peak = max(converting, peak_memory(map(_row, found.described.held)))  # of what is repacked then
    units = tuple(Unit(row.name, (row.name,)) for row in rows)
    converts = f"a checkpoint in {NVFP4_PACKED}, its codes and scales as they are in the GGUF file"
    return Plan(rows, units, peak, found.said, converts=converts)


def _whole(info: TensorInfo, parts: Sequence[Held]) -> TensorPlan:
    """The forecast for a tensor of the file, of which one or several of the checkpoint are made."""
    rows = [_row(part) for part in parts]
    return replace(rows[0], name=info.name, shape=info.shape, nbytes=sum(row.nbytes for row in rows))


def _row(held: Held) -> TensorPlan:
    """The plan of a tensor of the checkpoint."""
    dtype = held.info.dtype
    if held.quantized:
        nbytes = sum(part.nbytes for part in nvfp4_parts(held.module, held.shape))
        return TensorPlan(held.name, held.shape, dtype, "quantize", SCHEME, held.name, nbytes)
    return kept_row(TensorInfo(held.name, dtype, held.shape, prod(held.shape) * DTYPES[dtype].itemsize), UNCHANGED)


def _dropped(info: TensorInfo, reason: str) -> TensorPlan:
    return TensorPlan(info.name, info.shape, info.dtype, "drop", info.dtype, info.name, 0, reason)


def convert(session: Session, params: RepackParams, folder: Path) -> Conversion:
    """Write the session's GGUF file to `folder` as a checkpoint, and compare the two.

    Raises what `remade` and `check_divisors` do, RangeExceeded for a scale or a factor that compressed-tensors does not
    hold to the bit, VerificationFailed where the folder does not stand for the file's values.
    """
    index, source = session.index, session.index.gguf
    if source is None:
        raise SourceRejected("only GGUF files are converted")
    found = remade(index, source)
    if found.described.scaled:
        check_divisors(found.config, session.tensor(ROPE_FACTORS).values, found.described.head_dim)
    rows = tuple(map(_row, found.described.held))
    plan = Plan(rows, tuple(Unit(row.name, (row.name,)) for row in rows), 0)
    kept = [row.name.removesuffix(".weight") for row in rows if row.action == "keep" and len(row.shape) == 2]
    settings = nvfp4_pack_quantized([*kept, *(["lm_head"] if found.described.tied else ())])
    carried = {name: path for name, path in index.files.items() if name != CONFIG}
    placement = place_model_folder(
        plan, _parts, replace(index, files=carried), {**found.config, QUANTIZATION: settings}
    )
    placement = replace(placement, plain={**placement.plain, **found.made})
    global_scales: dict[str, np.float32] = {}
    write_placed(_tensors(session, found.described, global_scales), plan, placement, folder)
    observed = comparison.compare(folder, session, found.described.dropped)
    return Conversion(observed, (*found.said, *_apart(global_scales)))


def _apart(global_scales: Mapping[str, np.float32]) -> Iterator[str]:
    """What engines will say that have one global scale for the modules that they compute in one product."""
    products: dict[tuple[str, tuple[str, ...]], set[float]] = {}
    for module, scale in global_scales.items():
        parent, _, leaf = module.rpartition(".")
        products.setdefault((parent, LINEARS.get(leaf, (leaf,))), set()).add(float(scale))
    apart = [f"{parent}.{leaves[0]}" for (parent, leaves), found in products.items() if len(found) > 1]
    if apart:
        yield (
            f"weight_global_scale differs between modules that vLLM computes in one product, {apart[0]} and its "
            f"neighbours ({len(apart)} such products): it takes the largest for all, and computes other numbers"
        )


def _parts(row: TensorPlan) -> tuple[StoredPart, ...]:
    if row.action == "keep":
        return (kept_part(row),)
    return nvfp4_parts(row.name.removesuffix(".weight"), row.shape)


def _tensors(session: Session, described: Described, global_scales: dict[str, np.float32]) -> Iterator[QuantizedTensor]:
    """The checkpoint's tensors; adds to `global_scales`, by module."""
    for name, parts in groupby(described.held, key=lambda each: each.source):
        source = session.tensor(name)
        for held in parts:
            session.pause()
            if isinstance(source, BlockTensor):
                codes, scales, overall = _of_blocks(source, held)
                global_scales[held.module] = overall
                made = {"packed": codes, "scale": scales, "global_scale": np.array([overall])}
            else:
                matrix, rows = source.values.reshape(-1, *held.shape)[held.part], held.rows()
                made = {KEPT: matrix if rows is None else matrix[rows]}
            yield QuantizedTensor(held.name, SCHEME if held.quantized else held.info.dtype, held.shape, made)
            del made  # the plan counts one at a time


def _of_blocks(source: BlockTensor, held: Held) -> tuple[NDArray[np.uint8], NDArray[np.uint8], np.float32]:
    """Codes, scales and global scale of one matrix."""
    first, rows = held.part * held.shape[0], held.rows()
    packed = source.packed[first : first + held.shape[0]]
    factor = np.float32(1) if source.factors is None else source.factors[first]
    return *unpacked(held.source, packed if rows is None else packed[rows]), global_scale(held.source, factor)


def unpacked(name: str, packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """weight_packed (rows, cols / 2) and weight_scale (rows, cols / 16) of GGML's blocks, uint8 (rows, row_bytes).

    Raises RangeExceeded for a scale with a sign, which GGML passes over and E4M3 means, and for one of all ones, which
    is NaN or, to llama.cpp, 0.
    """
    rows = len(packed)
    blocks = packed.reshape(rows, -1, NVFP4.block_bytes)
    scales = np.ascontiguousarray(blocks[:, :, :4]).reshape(rows, -1)
    if (scales > LARGEST_SCALE).any():
        raise RangeExceeded(f"{name}: scales with a sign or of all ones mean something else in E4M3", tensor=name)
    halves = blocks[:, :, 4:].reshape(rows, -1, 4, 4, 2)  # of 16 codes, bytes j and j + 1 hold j, j + 8, j + 1, j + 9
    first, second = halves[..., 0], halves[..., 1]
    codes = np.empty((rows, halves.shape[1], 4, 2, 4), np.uint8)
    codes[:, :, :, 0] = (first & 15) | (second << 4)
    codes[:, :, :, 1] = (first >> 4) | (second & 0xF0)
    return codes.reshape(rows, -1), scales


def global_scale(name: str, factor: np.float32) -> np.float32:
    """weight_global_scale: the float32 number whose reciprocal is `factor` to the bit.

    Two may have the same: then it is the one that an encoder arrives at, which computes in the weights' dtype, or
    divides by the largest weight. Raises RangeExceeded where there is none, as for 17 % of all factors.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        nearest = np.reciprocal(factor, dtype=np.float32)
        near = (nearest, *(np.nextafter(nearest, towards) for towards in (np.float32(0), np.float32(np.inf))))
        fitting = [each for each in near if each >= SMALLEST and 0 < np.reciprocal(each, dtype=np.float32) == factor]
    if not fitting:
        raise RangeExceeded(
            f"{name}: no weight_global_scale has the reciprocal {factor!s}, by which the file multiplies the matrix; "
            "compressed-tensors cannot hold it to the bit",
            tensor=name,
        )
    return max(fitting, key=_is_likely)


SHORT = (DTYPES["BF16"], DTYPES["F16"])


def _is_likely(number: np.float32) -> tuple[bool, bool]:
    """Whether 16 bits hold it, and whether it is what a largest weight of 16 bits gives."""
    with np.errstate(over="ignore", divide="ignore"):
        largest = LARGEST_CODE_TIMES_SCALE / number
        held = any(bool(_rounded(number, dtype) == number) for dtype in SHORT)
        return held, any(bool(LARGEST_CODE_TIMES_SCALE / _rounded(largest, dtype) == number) for dtype in SHORT)


def _rounded(number: np.float32, dtype: Any) -> np.float32:
    rounded: np.float32 = number.astype(dtype).astype(np.float32)
    return rounded
