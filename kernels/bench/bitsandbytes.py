"""The formats of bitsandbytes, on values that fit the L2 cache and on values that do not, beside a plain copy."""

from collections.abc import Iterator
from functools import partial

import ml_dtypes
import numpy as np
from kernels.bench.codecs import IN_L2, IN_RAM, heavy_tailed
from kernels.bench.harness import Case

import quantmill_kernels as kernels


def cases(threads: int) -> Iterator[Case]:
    for n in (IN_L2, IN_RAM):
        values = heavy_tailed(n)
        half = values.astype(ml_dtypes.bfloat16)
        yield Case("-", "copy bf16", n, 2 * half.nbytes, half.copy)
        for quant_type in ("nf4", "fp4"):
            yield from four_bits(quant_type, values, half, threads)
        codes, absmax = kernels.encode_int8_rows(half)
        int8 = {
            "encode": (values, partial(kernels.encode_int8_rows, values, threads=threads)),
            "encode bf16": (half, partial(kernels.encode_int8_rows, half, threads=threads)),
            "decode": (values, partial(kernels.decode_int8_rows, codes, absmax, threads=threads)),
        }
        for operation, (floats, run) in int8.items():
            yield Case("int8", operation, n, floats.nbytes + codes.nbytes, run)


def four_bits(quant_type: str, values: np.ndarray, half: np.ndarray, threads: int) -> Iterator[Case]:
    packed, absmax = kernels.encode_4bit(quant_type, values)
    encode = partial(kernels.encode_4bit, quant_type, threads=threads)
    operations = {
        "encode": (values, partial(encode, values)),
        "encode bf16": (half, partial(encode, half)),
        "encode double": (half, partial(double_quantized, quant_type, half, threads)),
        "decode": (values, partial(kernels.decode_4bit, quant_type, packed, absmax, values.shape, threads=threads)),
    }
    for operation, (floats, run) in operations.items():
        yield Case(quant_type, operation, values.size, floats.nbytes + packed.nbytes + absmax.nbytes, run)


def double_quantized(quant_type: str, values: np.ndarray, threads: int) -> object:
    packed, absmax = kernels.encode_4bit(quant_type, values, threads=threads)
    return packed, kernels.encode_absmax(absmax)
