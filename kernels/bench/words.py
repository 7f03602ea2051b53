"""Packing codes into words and back, beside a plain copy of the codes."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from kernels.bench.harness import Case

import quantmill_kernels as kernels

OUT, IN = 2048, 4096


def cases(threads: int) -> Iterator[Case]:
    codes = np.random.default_rng(9).integers(0, 256, (OUT, IN), dtype=np.uint8)
    yield Case("-", "copy", codes.size, 2 * codes.nbytes, codes.copy)
    for bits in (3, 4, 8):
        low = codes & (2**bits - 1)
        packed, qweight = kernels.pack_quantized(low, bits), kernels.pack_gptq(low, bits)
        yield from operations(
            f"int{bits}",
            low,
            {
                "pack rows": partial(kernels.pack_quantized, low, bits, threads=threads),
                "unpack rows": partial(kernels.unpack_quantized, packed, bits, IN, threads=threads),
                "pack gptq": partial(kernels.pack_gptq, low, bits, threads=threads),
                "unpack gptq": partial(kernels.unpack_gptq, qweight, bits, threads=threads),
            },
        )
    low = codes & 15
    awq = {
        "pack awq": partial(kernels.pack_awq, low, threads=threads),
        "unpack awq": partial(kernels.unpack_awq, kernels.pack_awq(low), threads=threads),
    }
    yield from operations("int4", low, awq)


def operations(name: str, codes: np.ndarray, runs: dict[str, partial[np.ndarray]]) -> Iterator[Case]:
    word_bytes = codes.size * int(name.removeprefix("int")) // 8
    for operation, run in runs.items():
        yield Case(name, operation, codes.size, codes.nbytes + word_bytes, run)
