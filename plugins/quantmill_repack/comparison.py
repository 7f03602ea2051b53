"""Whether a folder stands for the values of the GGUF file that it was made from: names, rows and bits of float32.

Has its own table of names, undoes the order of rows and decodes by its own code, and shares none with what wrote the
folder. A value is code * scale * (1 / weight_global_scale), the reciprocal rounded to float32 and the product once, as
llama.cpp has it of the factor, and vLLM of weight_global_scale (compressed_tensors_w4a4_nvfp4.py). The code for minus
zero is 0 to llama.cpp, and counts as that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.gguf import BlockTensor
from quantmill.contract.model_folder import ModelFolder
from quantmill.contract.session import Figure, Session
from quantmill.contract.tensors import FloatArray, SourceTensor

PARTS = ("weight_packed", "weight_scale", "weight_global_scale")
CHUNK_VALUES = 1 << 18  # compared at once

ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_A_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{each}_proj": f"attn_{each}" for each in "qkv"},
    **{f"self_attn.{each}_norm": f"attn_{each}_norm" for each in "qk"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{each}_proj": f"ffn_{each}" for each in ("gate", "up", "down")},
    **dict.fromkeys(("mlp.gate", "block_sparse_moe.gate"), "ffn_gate_inp"),
    **{f"mlp.experts.{each}_proj": f"ffn_{each}_exps" for each in ("gate", "up", "down")},
    **{f"block_sparse_moe.experts.w{n}": f"ffn_{each}_exps" for n, each in ((1, "gate"), (2, "down"), (3, "up"))},
}
_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)", re.ASCII)
_EXPERT = re.compile(r"(.+\.experts)\.(0|[1-9]\d{0,5})(\..+)", re.ASCII)


def compare(folder: Path, session: Session, dropped: Mapping[str, str]) -> Mapping[str, Figure]:
    """What was compared. Raises VerificationFailed naming the first tensor that is not the file's to the bit."""
    with ModelFolder(folder) as artifact:
        modules = {name.removesuffix(".weight_packed") for name in artifact.tensors if name.endswith(".weight_packed")}
        parts = {f"{module}.{part}" for module in modules for part in PARTS}
        names = {*(f"{module}.weight" for module in modules), *(artifact.tensors.keys() - parts)}
        in_file: dict[str, dict[int, str]] = {}  # names in the folder, by the file's and the number of the matrix
        for name in sorted(names):
            theirs, part = _name_in_file(name)
            in_file.setdefault(theirs, {})[part] = name
        _check_names(in_file, session, dropped)
        values, divided = 0, 0.0
        for theirs, parts_of in in_file.items():
            source = session.tensor(theirs)
            order = _order(theirs, source.info.shape[-2:][0], artifact.config, session)
            for part, name in parts_of.items():
                session.pause()
                module = name.removesuffix(".weight")
                if module in modules:
                    arrays = [artifact.values(f"{module}.{each}") for each in PARTS]
                    _compare_blocks(name, source, arrays, part * len(order) + order)
                    divided = max(divided, _when_divided(*arrays[1:]))
                else:
                    _compare_plain(name, source, artifact.values(name), part, order)
            values += source.info.values
    return {
        "tensors": len(names),
        "matrices in NVFP4": len(modules),
        "values": values,
        "values that differ": 0,
        "largest relative difference where scales are divided first": divided,
    }


def _name_in_file(name: str) -> tuple[str, int]:
    """What the file calls it, and which of the matrices there it is."""
    module, _, ending = name.rpartition(".")
    expert = _EXPERT.fullmatch(module)
    if expert:
        module = f"{expert[1]}{expert[3]}"
    found = _BLOCK.fullmatch(module)
    theirs = f"blk.{found[1]}.{IN_A_BLOCK.get(found[2], found[2])}" if found else ENDS.get(module, module)
    return f"{theirs}.{ending}", int(expert[2]) if expert else 0


def _check_names(in_file: Mapping[str, Mapping[int, str]], session: Session, dropped: Mapping[str, str]) -> None:
    tensors = session.index.tensors
    wanted = tensors.keys() - dropped.keys()
    if other := sorted(in_file.keys() ^ wanted):
        raise VerificationFailed(f"the folder and the GGUF file do not have the same tensors: {other[:3]}")
    for theirs, parts in in_file.items():
        shape = tensors[theirs].shape
        count = shape[0] if len(shape) == 3 else 1
        if sorted(parts) != [*range(count)]:
            raise VerificationFailed(f"the folder has {len(parts)} matrices of {theirs}, the GGUF file {count}")


def _order(name: str, rows: int, config: Mapping[str, Any], session: Session) -> NDArray[np.int64]:
    """Where in the file each row of a matrix is, or element of a vector: rope of llama's turns neighbours there."""
    order = np.arange(rows)
    role = name.split(".")[-2]
    if session.index.architecture != "llama" or role not in ("attn_q", "attn_k"):
        return order
    size = rows // config["num_attention_heads" if role == "attn_q" else "num_key_value_heads"]
    head, place = order // size, order % size
    half = size // 2
    result: NDArray[np.int64] = head * size + np.where(place < half, 2 * place, 2 * (place - half) + 1)
    return result


def _compare_plain(name: str, source: SourceTensor, found: NDArray[Any], part: int, order: NDArray[np.int64]) -> None:
    wanted = source.values
    if wanted.ndim == 3:
        wanted = wanted[part]
    if isinstance(source, BlockTensor) or found.dtype != wanted.dtype or found.shape != wanted.shape:
        raise VerificationFailed(f"{name} is not stored as the GGUF file has it", tensor=name)
    step = max(1, CHUNK_VALUES // max(1, found[0].size))
    for first in range(0, len(found), step):
        some = slice(first, first + step)
        if found[some].tobytes() != wanted[order[some]].tobytes():
            raise VerificationFailed(f"{name} differs from the GGUF file from row {first} on", tensor=name)


def _compare_blocks(name: str, source: SourceTensor, arrays: list[NDArray[Any]], order: NDArray[np.int64]) -> None:
    if not isinstance(source, BlockTensor):
        raise VerificationFailed(f"{name} is not quantized in the GGUF file", tensor=name)
    packed, scales, overall = arrays
    rows, cols = len(order), source.info.shape[-1]
    if packed.shape != (rows, cols // 2) or scales.shape != (rows, cols // 16) or overall.shape != (1,):
        raise VerificationFailed(f"{name} is stored in arrays of other shapes", tensor=name)
    step = max(1, CHUNK_VALUES // cols)
    for first in range(0, rows, step):
        some = slice(first, first + step)
        found, wanted = _decoded(packed[some], scales[some], overall), source.at(order[some])
        different = found != wanted
        if different.any():
            row, column = (int(each) for each in np.argwhere(different)[0])
            raise VerificationFailed(
                f"{name} is {found[row, column]} at [{first + row}, {column}], and {wanted[row, column]} in the GGUF "
                f"file's {source.info.name}",
                tensor=name,
            )


MAGNITUDES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float32) / 2


def _decoded(packed: NDArray[np.uint8], scales: NDArray[Any], overall: NDArray[np.float32]) -> FloatArray:
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
    values: FloatArray = np.where(codes & 8, -MAGNITUDES[codes & 7], MAGNITUDES[codes & 7])
    values *= np.repeat(scales.astype(np.float32), 16, axis=1)  # exact: 4 bits times 2
    values *= np.float32(1) / overall[0]
    return values


def _when_divided(scales: NDArray[Any], overall: NDArray[np.float32]) -> float:
    """How far code * (scale / weight_global_scale), as compressed-tensors computes it, is off at most."""
    each = np.unique(scales.view(np.uint8)).view(scales.dtype).astype(np.float32)[:, None]
    codes = MAGNITUDES[None, 1:]
    each = each[each[:, 0] > 0]
    if not each.size:
        return 0.0
    multiplied = (codes * each * (np.float32(1) / overall[0])).astype(np.float64)
    divided = (codes * (each / overall[0])).astype(np.float64)
    return float((np.abs(divided - multiplied) / multiplied).max())
