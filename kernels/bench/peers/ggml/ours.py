"""Encoding of each GGML format against llama.cpp's own code, on random values and on the shipped model's."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from kernels.bench.codecs import COLS, KNOW_IMATRIX, heavy_tailed
from kernels.bench.peers.cases import Case
from kernels.bench.peers.timing import Arrays

import quantmill_kernels as kernels

MODEL = Path(__file__).resolve().parents[4] / "tests" / "data" / "millstone-4m" / "model.safetensors"
VALUES = 1 << 19  # GGML's searches take a second for ten times as many
NOT_QUANTIZED = {"F32", "F16", "BF16"}


def cases() -> Iterator[Case]:
    imatrix = (np.random.default_rng(8).random(COLS) ** 2 + 0.01).astype(np.float32)
    for of_model, values in (("", heavy_tailed(VALUES)), (" model", matrices_of(MODEL))):
        for name in [name for name in kernels.formats() if name not in NOT_QUANTIZED]:
            yield case(name, name + of_model, values, None)
            if name in KNOW_IMATRIX:
                yield case(name, f"{name}{of_model} imatrix", values, imatrix)


def matrices_of(safetensors: Path) -> np.ndarray:
    """Values of the layers' matrices, in rows of COLS."""
    file = np.fromfile(safetensors, np.uint8)
    start = 8 + int(file[:8].view(np.uint64)[0])
    tensors = json.loads(file[8:start].tobytes())
    spans = [
        tensor["data_offsets"]
        for name, tensor in tensors.items()
        if name.startswith("model.layers.") and tensor["dtype"] == "BF16" and len(tensor["shape"]) == 2
    ]
    bits = np.concatenate([file[start + first : start + last] for first, last in spans]).view(np.uint16)
    values = (bits[: VALUES * 2].astype(np.uint32) << 16).view(np.float32)
    return values[: values.size // COLS * COLS].reshape(-1, COLS)


def case(name: str, what: str, values: np.ndarray, imatrix: np.ndarray | None) -> Case:
    return Case(
        what=what,
        values=values.size,
        inputs={"values": values} | ({} if imatrix is None else {"imatrix": imatrix}),
        ours=partial(encode, name, values, imatrix),
        agreement=partial(error_ratio, name, values, imatrix),
    )


def encode(name: str, values: np.ndarray, imatrix: np.ndarray | None) -> Arrays:
    return {"packed": kernels.encode(name, values, imatrix=imatrix)}


def error_ratio(name: str, values: np.ndarray, imatrix: np.ndarray | None, ours: Arrays, theirs: Arrays) -> str:
    """Our weighted root mean square error over theirs."""
    if np.array_equal(ours["packed"], theirs["packed"]):
        return "equal bytes"
    weights = 1.0 if imatrix is None else imatrix
    decoded = [kernels.decode(name, side["packed"], COLS) for side in (ours, theirs)]
    squared = [float((weights * (side - values) ** 2).sum()) for side in decoded]
    return f"error {np.sqrt(squared[0] / squared[1]):.4f}x"
