"""The column solver of GPTQ, 4 bits in groups of 128."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from kernels.bench.harness import Case

import quantmill_kernels as kernels


def cases(threads: int) -> Iterator[Case]:
    for n in (1024, 2048):
        rng = np.random.default_rng(14)
        weights = (rng.standard_t(5, (n, n)) * 0.02).astype(np.float32)
        factor = np.triu(rng.standard_normal((n, n), np.float32) * np.float32(0.1 / np.sqrt(n)), 1)
        factor += np.eye(n, dtype=np.float32)
        asked = {"bits": 4, "group_size": 128, "threads": threads}
        runs = {
            "solve": partial(kernels.solve_gptq, weights, factor, **asked),
            "scales": partial(kernels.find_gptq_scales, weights, **asked),
            "scales mse": partial(kernels.find_gptq_scales, weights, mse=2.4, **asked),
        }
        for operation, run in runs.items():
            moved = weights.nbytes + weights.size + factor.nbytes // 2 * (operation == "solve")
            yield Case("gptq4", operation, weights.size, moved, run)
