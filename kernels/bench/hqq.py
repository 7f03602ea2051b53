"""Half-quadratic quantization of groups, and hqq's packings."""

from collections.abc import Iterator
from functools import partial

from kernels.bench.codecs import COLS, heavy_tailed
from kernels.bench.harness import Case

import quantmill_kernels as kernels

VALUES = 1 << 21
SETTINGS = {  # nbits, group_size, axis
    "4b g64": (4, 64, 1),
    "4b cols": (4, 64, 0),
    "2b g16": (2, 16, 1),
    "8b g128": (8, 128, 1),
}
PACKINGS = {4: "4bit_u8", 2: "2bit_u8", 8: "8bit_u8"}


def cases(threads: int) -> Iterator[Case]:
    values = heavy_tailed(VALUES)
    for name, (nbits, group_size, axis) in SETTINGS.items():
        packing = PACKINGS[nbits]
        solve = partial(kernels.solve_hqq, values, nbits=nbits, group_size=group_size, axis=axis, threads=threads)
        codes, scale, zero = solve()
        packed = kernels.pack_hqq(packing, codes)
        decode = partial(kernels.decode_hqq, codes, scale, zero, (VALUES // COLS, COLS), threads=threads)
        operations = {
            "solve hqq": (values.nbytes + codes.nbytes, solve),
            "decode hqq": (values.nbytes + codes.nbytes, decode),
            "pack hqq": (codes.nbytes + packed.nbytes, partial(kernels.pack_hqq, packing, codes, threads=threads)),
            "unpack hqq": (
                codes.nbytes + packed.nbytes,
                partial(kernels.unpack_hqq, packing, packed, len(codes), threads=threads),
            ),
        }
        for operation, (moved, run) in operations.items():
            yield Case(name, operation, values.size, moved, run)
