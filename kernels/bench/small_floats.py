"""FP8, NVFP4, MXFP4, MXFP8 and INT8 from bfloat16 and float32, and back."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from kernels.bench.codecs import IN_RAM, heavy_tailed
from kernels.bench.harness import Case

import quantmill_kernels as kernels

Encoders = dict[str, tuple[Callable[..., Any], Callable[..., Any]]]


def cases(threads: int) -> Iterator[Case]:
    values = heavy_tailed(IN_RAM // 4)
    half = values.astype(ml_dtypes.bfloat16)
    encoders: Encoders = {
        f"fp8 {strategy}": (
            partial(kernels.encode_fp8, strategy=strategy, scale_dtype="bfloat16"),
            partial(kernels.decode_fp8, strategy=strategy),
        )
        for strategy in ("tensor", "channel", "block")
    }
    encoders |= {
        "nvfp4": (kernels.encode_nvfp4, kernels.decode_nvfp4),
        "mxfp4": (kernels.encode_mxfp4, kernels.decode_mxfp4),
        "mxfp8": (kernels.encode_mxfp8, kernels.decode_mxfp8),
    }
    encoders |= {
        f"int8 axis {axis}": (
            partial(kernels.encode_int8_affine, axis=axis),
            partial(kernels.decode_int8_affine, axis=axis),
        )
        for axis in (None, 0, 1)
    }
    for name, (encode, decode) in encoders.items():
        parts = encode(half)
        stored = sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
        runs = {
            "encode": (values.nbytes, partial(encode, values, threads=threads)),
            "encode bf16": (half.nbytes, partial(encode, half, threads=threads)),
            "decode": (values.nbytes, partial(decode, *parts, threads=threads)),
        }
        for operation, (float_bytes, run) in runs.items():
            yield Case(name, operation, values.size, float_bytes + stored, run)
