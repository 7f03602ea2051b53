"""Decoding of each GGML format against gguf-py, which gives the same values."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from kernels.bench.codecs import COLS, heavy_tailed
from kernels.bench.peers.cases import Case
from kernels.bench.peers.timing import Arrays

import quantmill_kernels as kernels

VALUES = 1 << 20  # 4 MiB of float32, more than the level 2 cache
STORED_AS_THEY_ARE = {"F32"}  # gguf-py gives a view


def cases() -> Iterator[Case]:
    values = heavy_tailed(VALUES)
    for name in [name for name in kernels.formats() if name not in STORED_AS_THEY_ARE]:
        packed = kernels.encode(name, values)
        yield Case(
            what=f"{name} decode",
            values=VALUES,
            inputs={"packed": packed},
            ours=partial(decode, name, packed),
            agreement=equality,
        )


def decode(name: str, packed: np.ndarray) -> Arrays:
    return {"values": kernels.decode(name, packed, COLS)}


def equality(ours: Arrays, theirs: Arrays) -> str:
    differing = np.count_nonzero(ours["values"] != theirs["values"])
    return "equal values" if differing == 0 else f"{differing} values differ"
