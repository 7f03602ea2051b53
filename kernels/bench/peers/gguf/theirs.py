"""Decoding by gguf-py, in its environment."""

from collections.abc import Callable
from functools import partial

import gguf
from kernels.bench.peers.timing import Arrays, Run, serve


def decode(kind: gguf.GGMLQuantizationType, inputs: Arrays) -> Run:
    packed = inputs["packed"]
    return lambda: {"values": gguf.dequantize(packed, kind)}


CASES: dict[str, Callable[[Arrays], Run]] = {
    f"{kind.name} decode": partial(decode, kind) for kind in gguf.GGMLQuantizationType
}

if __name__ == "__main__":
    serve(CASES)
