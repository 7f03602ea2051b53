"""Encoding by llama.cpp's libggml-base, in the environment of llama-cpp-python."""

import ctypes
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from kernels.bench.peers.timing import Arrays, Run, serve

# enum ggml_type of ggml.h
TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ4_NL": 20, "IQ4_XS": 23, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39,
}  # fmt: skip
VARIANTS = ("", " imatrix", " model", " model imatrix")


def library() -> ctypes.CDLL:
    """libggml-base alone, without what the package loads when it is imported."""
    package = find_spec("llama_cpp")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("llama_cpp")
    ggml = ctypes.CDLL(str(Path(package.origin).with_name("lib") / "libggml-base.so"))
    ggml.ggml_row_size.restype = ctypes.c_size_t
    ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    ggml.ggml_quantize_init.argtypes = [ctypes.c_int]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # values
        ctypes.c_void_p,  # packed
        ctypes.c_int64,  # first value
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # columns
        ctypes.c_void_p,  # importance matrix, or none
    ]
    return ggml


def encode(kind: int, inputs: Arrays) -> Run:
    values, imatrix = inputs["values"], inputs.get("imatrix")
    rows, cols = values.shape
    ggml = library()
    ggml.ggml_quantize_init(kind)
    packed = np.empty((rows, ggml.ggml_row_size(kind, cols)), np.uint8)
    weights = None if imatrix is None else imatrix.ctypes.data

    def run() -> Arrays:
        ggml.ggml_quantize_chunk(kind, values.ctypes.data, packed.ctypes.data, 0, rows, cols, weights)
        return {"packed": packed}

    return run


CASES: dict[str, Callable[[Arrays], Run]] = {
    name + variant: partial(encode, kind) for (name, kind), variant in product(TYPES.items(), VARIANTS)
}

if __name__ == "__main__":
    serve(CASES)
