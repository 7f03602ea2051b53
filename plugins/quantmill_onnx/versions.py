"""What each version of ONNX Runtime loads.

Measured: the latest opset and IR version of a graph that each runs on a processor, and the first that knows the
operator; tests/conformance/onnxruntime_1_16 loads our graphs in the oldest of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

RuntimeVersion = Literal[
    "1.15", "1.16", "1.17", "1.18", "1.19", "1.20", "1.21", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27", "1.28",
    "1.29", "1.30", "1.31",
]  # fmt: skip


class Loads(NamedTuple):
    """The latest versions that it takes, and the bits of MatMulNBits' weights."""

    opset: int
    ir_version: int
    block_bits: tuple[int, ...]


LATEST: RuntimeVersion = "1.31"
RUNTIMES: Mapping[RuntimeVersion, Loads] = {
    "1.15": Loads(19, 9, ()),
    "1.16": Loads(19, 9, ()),
    "1.17": Loads(20, 9, (4,)),
    "1.18": Loads(21, 10, (4,)),
    "1.19": Loads(21, 10, (4,)),
    "1.20": Loads(21, 10, (4,)),
    "1.21": Loads(22, 10, (4,)),
    "1.22": Loads(22, 10, (4, 8)),
    "1.23": Loads(23, 11, (4, 8)),
    "1.24": Loads(25, 13, (4, 8)),
    "1.25": Loads(26, 13, (4, 8)),
    "1.26": Loads(26, 13, (4, 8)),
    "1.27": Loads(26, 13, (4, 8)),
    "1.28": Loads(26, 13, (4, 8)),
    "1.29": Loads(26, 13, (4, 8)),
    "1.30": Loads(26, 13, (4, 8)),
    "1.31": Loads(26, 13, (4, 8)),
}
LEAST_IR = 4  # before it, initializers had to be inputs as well


def ir_version(source: int, runtime: RuntimeVersion) -> int:
    """That of the artifact: the source's, as far as the runtime takes it."""
    return min(max(source, LEAST_IR), RUNTIMES[runtime].ir_version)
