"""How a quantized weight is stored: names, dtypes and shapes of its arrays, and what its scheme is called.

Integer products: ONNX's MatMulInteger, codes (in, out), a scale for each output. Tables: codes as they are, a scale for
each row. Filters of convolutions: codes as they are, a scale for each output. Blocks: com.microsoft MatMulNBits,
onnxruntime 1.31 docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.tensors import TensorInfo
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.sites import Site

# TensorProto.DataType of what is stored
ONNX_TYPES = {"F32": 1, "U8": 2, "I8": 3, "F16": 10, "BF16": 16}
BYTES = {"F32": 4, "U8": 1, "I8": 1, "F16": 2, "BF16": 2}

CODES, SCALE, ZERO, RESTORED = "quantized", "scale", "zero_point", "dequantized"
SMOOTHING = "smoothing"
HALF, HALVES = "F16-ROUNDED", "float16"  # the scheme of a float32 weight that is stored as float16, what that is called


@dataclass(frozen=True)
class Part:
    """One array of a weight as the graph holds it: an initializer."""

    part: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * BYTES[self.dtype]


def scheme_of(site: Site, params: OnnxParams, smoothed: Collection[str]) -> str:
    """INT8-CHANNEL, INT8-TENSOR, INT8-ROW (with -ASYM, -REDUCED, -SMOOTH), UINT8-CHANNEL, INT8-FILTER, or
    INT4-32, INT8-64-ASYM, INT4-32-GPTQ in blocks."""
    if site.is_table:
        return "INT8-ROW-REDUCED" if site.is_product and params.reduced else "INT8-ROW"
    if site.is_filters:
        return f"INT8-{'FILTER' if params.per_channel else 'TENSOR'}{'-REDUCED' if params.reduced else ''}"
    asymmetric = "" if params.symmetric else "-ASYM"
    if params.mode == "weight_only":
        return f"INT{params.weight_bits}-{params.block_size}{asymmetric}{'-GPTQ' if params.solves else ''}"
    reduced = "-REDUCED" if params.reduced and not params.unsigned else ""
    smooth = "-SMOOTH" if site.activation in smoothed else ""
    kind = "UINT8" if params.unsigned else "INT8"
    return f"{kind}-{'CHANNEL' if params.per_channel else 'TENSOR'}{asymmetric}{reduced}{smooth}"


def parts_of(site: Site, params: OnnxParams) -> Sequence[Part]:
    """The arrays of a quantized weight."""
    name, shape = site.weight.info.name, site.weight.info.shape
    if site.is_filters:
        return (
            Part(CODES, f"{name}_{CODES}", "I8", shape),
            Part(SCALE, f"{name}_{SCALE}", "F32", (site.outputs,) if params.per_channel else ()),
        )
    rows, cols = shape
    if site.is_table:
        return (
            Part(CODES, f"{name}_{CODES}", "I8", (rows, cols)),
            Part(SCALE, f"{name}_{SCALE}", "F32", (rows, 1)),
        )
    inputs, outputs = (cols, rows) if site.turned else (rows, cols)
    if params.mode == "weight_only":
        return _blocks(name, inputs, outputs, params)
    scales = (outputs,) if params.per_channel else ()
    kind = "U8" if params.unsigned else "I8"
    return (
        Part(CODES, f"{name}_{CODES}", kind, (inputs, outputs)),
        Part(SCALE, f"{name}_{SCALE}", "F32", scales),
        *(() if params.symmetric else (Part(ZERO, f"{name}_{ZERO}", kind, scales),)),
    )


def _blocks(name: str, inputs: int, outputs: int, params: OnnxParams) -> Sequence[Part]:
    blocks, bits = -(-inputs // params.block_size), params.weight_bits
    return (
        Part(CODES, f"{name}_{CODES}", "U8", (outputs, blocks, params.block_size * bits // 8)),
        Part(SCALE, f"{name}_{SCALE}", "F32", (outputs, blocks)),
        *(() if params.symmetric else (Part(ZERO, f"{name}_{ZERO}", "U8", (outputs, -(-blocks * bits // 8))),)),
    )


def activation_parts(names: Sequence[str], params: OnnxParams, smoothed: Mapping[str, int]) -> Sequence[Part]:
    """What stands in the graph once for each activation: static's scale and zero point, and 1 / s by channel."""
    parts: list[tuple[str, str, tuple[int, ...]]] = []
    for name in names:
        if params.mode == "static":
            parts.append((f"{name}_{SCALE}", "F32", ()))
            parts.append((f"{name}_{ZERO}", "I8" if params.activation_type == "s8" else "U8", ()))
        if name in smoothed:
            parts.append((f"{name}_{SMOOTHING}", "F32", (smoothed[name],)))
    return [Part(name, name, kind, shape) for name, kind, shape in parts]


def kept_part(info: TensorInfo, scheme: str) -> Part:
    """A weight that is stored as it is, or as float16."""
    if scheme == HALF:
        return Part("values", f"{info.name}_{HALVES}", "F16", info.shape)
    return Part("values", info.name, info.dtype, info.shape)


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit codes in a byte along the last axis, the first in the low half; an odd one is followed by 0."""
    if codes.shape[-1] % 2:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
    packed = codes[..., 1::2] << np.uint8(4)
    packed |= codes[..., ::2]
    return packed
