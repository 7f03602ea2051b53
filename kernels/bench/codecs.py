"""Encoding and decoding of each format, on values that fit the L2 cache and on values that do not."""

from collections.abc import Iterator
from functools import partial

import ml_dtypes
import numpy as np
from kernels.bench.harness import Case

import quantmill_kernels as kernels

COLS = 4096
IN_L2 = 1 << 17  # 512 KiB of float32
IN_RAM = 1 << 24  # 64 MiB of float32
KNOW_IMATRIX = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"}


def heavy_tailed(values: int) -> np.ndarray:
    """(values / COLS, COLS) float32 with the tails of real weights."""
    rng = np.random.default_rng(7)
    return (rng.standard_t(5, (values // COLS, COLS)) * 0.02).astype(np.float32)


def cases(formats: list[str], threads: int) -> Iterator[Case]:
    imatrix = (np.random.default_rng(8).random(COLS) ** 2 + 0.01).astype(np.float32)
    for n in (IN_L2, IN_RAM):
        values = heavy_tailed(n)
        half = values.astype(ml_dtypes.bfloat16)
        for name in formats:
            yield from cases_of(name, values, half, imatrix, threads)


def cases_of(name: str, values: np.ndarray, half: np.ndarray, imatrix: np.ndarray, threads: int) -> Iterator[Case]:
    packed = kernels.encode(name, values, threads=threads)
    operations = {
        "encode": (values, partial(kernels.encode, name, values, threads=threads)),
        "encode bf16": (half, partial(kernels.encode, name, half, threads=threads)),
        "encode imat.": (values, partial(kernels.encode, name, values, imatrix=imatrix, threads=threads)),
        "decode": (values, partial(kernels.decode, name, packed, COLS, threads=threads)),
    }
    for operation, (floats, run) in operations.items():
        if operation != "encode imat." or name in KNOW_IMATRIX:
            yield Case(name, operation, values.size, floats.nbytes + packed.nbytes, run)
