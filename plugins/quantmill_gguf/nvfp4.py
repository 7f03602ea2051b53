"""NVFP4: the codes of a compressed-tensors checkpoint in GGML's blocks. No weight is rounded, and none is encoded.

Both have E2M1 codes and an E4M3 scale for 16 of them. compressed-tensors divides by the scale of the matrix, llama.cpp
multiplies by a tensor of its own beside it, so that one number for a matrix is a reciprocal, rounded to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import ParamsRejected, RangeExceeded, SourceRejected
from quantmill.contract.gguf import NVFP4
from quantmill.contract.model_folder import QUANTIZATION
from quantmill.contract.tensors import FloatArray, ModelIndex
from quantmill_gguf.families import ExpectedTensor
from quantmill_gguf.policies import Choice, Place, fall_back, kept_at

FILE_TYPE = 39  # llama.h, LLAMA_FTYPE_MOSTLY_NVFP4
STORED = "nvfp4-pack-quantized"
REMEDY = "another type takes them by their values, with allow_requantize"
LARGEST_SCALE = 0x7E  # 448 in E4M3; after it come NaN and those below zero

# Architectures, by GGUF's names, whose graphs multiply by the factors. Others load them, leave them out, and compute
# other numbers without a word; tests/conformance/llama_nvfp4 compares (llama-cpp-python 0.3.36).
GRAPHS = ("llama", "qwen3", "qwen3moe")

# Matrices that llama.cpp multiplies by a factor of theirs (llama_model::load_tensors)
SCALED = frozenset(
    (
        *("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"),
        *(f"ffn_{part}{ending}" for part in ("gate", "up", "down") for ending in ("", "_exps", "_shexp")),
    )
)


def said_of(index: ModelIndex) -> tuple[str, ...]:
    """What the plan says of the source. Raises SourceRejected for one that has no NVFP4, or more than that."""
    formats = sorted({weight.format for weight in index.stored.values()})
    if formats != [STORED]:
        held = f"holds {', '.join(formats)}" if formats else "is not quantized"
        raise SourceRejected(
            f"type NVFP4 encodes nothing: it takes the codes of a checkpoint in {STORED}, as fp8 with scheme=NVFP4A16 "
            f"writes them, and the source {held}",
            key=QUANTIZATION,
        )
    activations = [name for name, weight in index.stored.items() if "input_global_scale" in weight.parts]
    left = f"input_global_scale of {len(activations)} weights is left out: llama.cpp quantizes activations by itself"
    return (
        f"the source is quantized ({STORED}): {len(index.stored)} weights keep their codes",
        "run the file in llama.cpp: transformers' gguf_file passes the factors of NVFP4 by, and computes other numbers",
        *((left,) if activations else ()),
        *index.defects,
    )


def choice_of(tensor: ExpectedTensor, place: Place, index: ModelIndex, asked: Choice | None) -> Choice:
    """NVFP4 for what the source has in it; all else what the parameters ask for by name, or the source's dtype.

    Raises ParamsRejected for a matrix that a GGUF file cannot hold so, or that is asked for otherwise.
    """
    if tensor.name in index.stored:
        if obstacle := _obstacle(tensor, place, index, asked):
            message = f"{tensor.name} cannot keep its NVFP4 codes: {obstacle}; {REMEDY}"
            error = {"pointer": "/params/type", "code": "not_lossless", "message": message}
            raise ParamsRejected(f"gguf: {message}", [error])
        return Choice(NVFP4.name)
    kept = kept_at(place)
    if kept is not None:
        return kept
    dtype = index.tensors[tensor.name].dtype
    return fall_back(asked or Choice(dtype, f"{dtype} as in the source: type NVFP4 encodes nothing"), place.shape[-1])


def _obstacle(tensor: ExpectedTensor, place: Place, index: ModelIndex, asked: Choice | None) -> str | None:
    if asked is not None:
        return asked.reason
    if place.architecture not in GRAPHS:
        return f"llama.cpp leaves their factors out of the graph of {place.architecture}, not of {', '.join(GRAPHS)}"
    if tensor.role not in SCALED:
        return f"llama.cpp has no factor for {tensor.output}"
    if tensor.role.startswith("ffn") and f"{tensor.name.removesuffix('weight')}bias" in index.tensors:
        return "it has a bias, and llama.cpp adds none to the product of a feed-forward network's factors"
    if not NVFP4.divides(tensor.stored[-1]):
        return f"rows of {tensor.stored[-1]} values do not divide into GGML's blocks of {NVFP4.block_values}"
    return None


def packed_of(name: str, parts: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """GGML's blocks, uint8 (rows, row_bytes), of weight_packed (rows, cols / 2) and weight_scale (rows, cols / 16).

    Raises RangeExceeded for a scale that is negative or NaN: GGML's have no sign, and it takes NaN for zero.
    """
    codes = parts["weight_packed"].reshape(len(parts["weight_packed"]), -1, 4, 2, 4)  # (rows, blocks, 4, halves, 4)
    scales = parts["weight_scale"].view(np.uint8)
    if (scales > LARGEST_SCALE).any():
        raise RangeExceeded(f"{name}: GGML's NVFP4 holds no scale that is negative or NaN", tensor=name)
    rows, count = codes.shape[:2]
    blocks = np.empty((rows, count, NVFP4.block_bytes), np.uint8)
    blocks[:, :, :4] = scales.reshape(rows, count, 4)
    # Pairs of neighbours, (0, 1) ... (14, 15), become pairs of the two halves, (0, 8) ... (7, 15)
    first, second = codes[:, :, :, 0], codes[:, :, :, 1]  # (rows, blocks, 4, 4)
    pairs = blocks[:, :, 4:].reshape(rows, count, 4, 4, 2)
    pairs[..., 0] = (first & 15) | (second << 4)
    pairs[..., 1] = (first >> 4) | (second & 0xF0)
    blocks[:, :, 4:] = pairs.reshape(rows, count, 32)
    return blocks.reshape(rows, -1)


def factor_of(name: str, parts: Mapping[str, NDArray[Any]]) -> FloatArray:
    """What the blocks' values are to be multiplied by, float32 (1,). Raises RangeExceeded where there is none."""
    with np.errstate(divide="ignore", over="ignore"):
        factor: FloatArray = np.reciprocal(parts["weight_global_scale"], dtype=np.float32)
    if not (np.isfinite(factor).all() and (factor > 0).all()):
        stated = parts["weight_global_scale"].tolist()
        raise RangeExceeded(f"{name}: weight_global_scale {stated} has no reciprocal above zero", tensor=name)
    return factor
