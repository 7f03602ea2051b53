"""FP8, NVFP4 and the MX formats from a bfloat16 weight, beside compressed-tensors and plain torch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from kernels.bench.codecs import heavy_tailed
from kernels.bench.peers.cases import Case
from kernels.bench.peers.timing import Arrays

import quantmill_kernels as kernels

VALUES = 1 << 22

ENCODERS: dict[str, Callable[..., Any]] = {
    "FP8 tensor": partial(kernels.encode_fp8, strategy="tensor", scale_dtype="bfloat16"),
    "FP8 channel": partial(kernels.encode_fp8, strategy="channel", scale_dtype="bfloat16"),
    "FP8 channel, float32 scale": partial(kernels.encode_fp8, strategy="channel"),
    "FP8 block": partial(kernels.encode_fp8, strategy="block", scale_dtype="bfloat16"),
    "NVFP4": kernels.encode_nvfp4,
    "MXFP4": kernels.encode_mxfp4,
    "MXFP8": kernels.encode_mxfp8,
}


def cases() -> Iterator[Case]:
    values = heavy_tailed(VALUES).astype(ml_dtypes.bfloat16).view(np.uint16)
    for name, encode in ENCODERS.items():
        yield Case(name, values.size, {"values": values}, partial(codes_of, encode, values), agreement)


def codes_of(encode: Callable[..., Any], values: np.ndarray) -> Arrays:
    return {"codes": encode(values)[0]}


def agreement(ours: Arrays, theirs: Arrays) -> str:
    differing = int((ours["codes"] != theirs["codes"]).sum())
    return f"{differing} bytes differ" if differing else "equal bytes"
