"""hqq's solver and packing, by the kernels."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from kernels.bench.peers.cases import Case
from kernels.bench.peers.hqq.settings import SETTINGS, Setting
from kernels.bench.peers.timing import Arrays

import quantmill_kernels as kernels

ROWS, COLS = 1024, 2048


def cases() -> Iterator[Case]:
    values = (np.random.default_rng(7).standard_t(5, (ROWS, COLS)) * 0.02).astype(np.float32)
    for setting in SETTINGS:
        ours, agreement = partial(quantized, values, setting), partial(errors, values, setting)
        yield Case(setting.what, values.size, {"values": values}, ours, agreement)


def quantized(values: np.ndarray, setting: Setting) -> Arrays:
    codes, scale, zero = kernels.solve_hqq(
        values, nbits=setting.nbits, group_size=setting.group_size, axis=setting.axis
    )
    return {"packed": kernels.pack_hqq(setting.packing, codes), "scale": scale, "zero": zero}


def errors(values: np.ndarray, setting: Setting, ours: Arrays, theirs: Arrays) -> str:
    """Our errors over theirs: mean |error|^0.7 and root mean square."""
    (mean, root), (their_mean, their_root) = (errors_of(values, setting, arrays) for arrays in (ours, theirs))
    return f"mean |error|^0.7 {mean / their_mean:.4f}x, RMSE {root / their_root:.4f}x"


def errors_of(values: np.ndarray, setting: Setting, arrays: Arrays) -> tuple[float, float]:
    rows = values.size // setting.group_size if setting.axis == 1 else setting.group_size
    codes = kernels.unpack_hqq(setting.packing, arrays["packed"], rows)
    left = np.abs(kernels.decode_hqq(codes, arrays["scale"], arrays["zero"], values.shape).astype(float) - values)
    return float((left**0.7).mean()), float(np.sqrt((left**2).mean()))
