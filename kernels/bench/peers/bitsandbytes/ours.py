"""4-bit blocks and int8 rows, against bitsandbytes on a CPU: the same bits, how much sooner."""

from collections.abc import Iterator
from functools import partial

import ml_dtypes
import numpy as np
from kernels.bench.codecs import heavy_tailed
from kernels.bench.peers.cases import Case
from kernels.bench.peers.timing import Arrays, Run

import quantmill_kernels as kernels

VALUES = 1 << 23


def double_quantized(quant_type: str, values: np.ndarray) -> Arrays:
    packed, absmax = kernels.encode_4bit(quant_type, values)
    codes, nested_absmax, offset = kernels.encode_absmax(absmax)
    return {"packed": packed, "codes": codes, "nested_absmax": nested_absmax, "offset": np.float32(offset)}


def int8_rows(values: np.ndarray) -> Arrays:
    codes, absmax = kernels.encode_int8_rows(values)
    return {"codes": codes, "absmax": absmax}


def decoded(values: np.ndarray) -> Run:
    packed, absmax = kernels.encode_4bit("nf4", values)
    return lambda: {"values": kernels.decode_4bit("nf4", packed, absmax, values.shape)}


def agreement(ours: Arrays, theirs: Arrays) -> str:
    unequal = {name: int((ours[name] != theirs[name]).sum()) for name in ours}
    differences = [f"{count} of {ours[name].size} {name} differ" for name, count in unequal.items() if count]
    return ", ".join(differences) or f"equal {', '.join(ours)}"


def cases() -> Iterator[Case]:
    values = heavy_tailed(VALUES)
    bits = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    runs = {
        "nf4 double bf16": (bits, partial(double_quantized, "nf4", bits)),
        "nf4 double f32": (values, partial(double_quantized, "nf4", values)),
        "fp4 double bf16": (bits, partial(double_quantized, "fp4", bits)),
        "nf4 decode": (values, decoded(values)),
        "int8 rows bf16": (bits, partial(int8_rows, bits)),
    }
    for what, (source, run) in runs.items():
        yield Case(what, VALUES, {"values": source}, run, agreement)
