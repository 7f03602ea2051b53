"""GGML's blocks back to values, in numpy, written from the format's description.

Verification reads artifacts through this module, so it shares nothing with the native encoders. Each decoder takes
blocks, uint8 (n, block_bytes), and gives float32 (n, block_values).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.tensors import FloatArray

Blocks = NDArray[np.uint8]


def f32(blocks: Blocks) -> FloatArray:
    return blocks.view("<f4")


def f16(blocks: Blocks) -> FloatArray:
    return _half(blocks)


def q8_0(blocks: Blocks) -> FloatArray:
    """d f16, q i8[32]: x = d * q."""
    return _half(blocks[:, :2]) * blocks[:, 2:].view(np.int8).astype(np.float32)


def q4_0(blocks: Blocks) -> FloatArray:
    """d f16, qs[16]: x = d * (q - 8); byte j holds q[j] in its low and q[j + 16] in its high half."""
    qs = blocks[:, 2:]
    q = np.concatenate([qs & 15, qs >> 4], axis=1)  # (n, 32)
    return _half(blocks[:, :2]) * (q.astype(np.float32) - 8)


def q4_k(blocks: Blocks) -> FloatArray:
    """d f16, dmin f16, scales[12], qs[128]: x = d * scale * q - dmin * min, in 8 sub-blocks of 32."""
    return _scale_and_min(blocks, _nibbles(blocks[:, 16:144]))


def q5_k(blocks: Blocks) -> FloatArray:
    """d f16, dmin f16, scales[12], qh[32], qs[128]: as q4_k, bit s of qh[l] being bit 4 of sub-block s's element l."""
    qh = blocks[:, None, 16:48]  # (n, 1, 32)
    fifth: Blocks = (qh >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)  # (n, 8, 32)
    q: Blocks = _nibbles(blocks[:, 48:176]) | (fifth << np.uint8(4))
    return _scale_and_min(blocks, q)


def q6_k(blocks: Blocks) -> FloatArray:
    """ql[128], qh[64], scales i8[16], d f16: x = d * scale * (q - 32), in 16 sub-blocks of 16.

    Each half of 128 has 64 bytes of ql and 32 of qh. Its quarter k takes the low (k < 2) or high halves of
    ql[32 * (k % 2) :][:32] and the bits 2k and 2k + 1 of qh.
    """
    n = len(blocks)
    ql = blocks[:, :128].reshape(n, 2, 1, 2, 32)
    qh = blocks[:, 128:192].reshape(n, 2, 1, 32)
    low = np.concatenate([ql & 15, ql >> 4], axis=2).reshape(n, 2, 4, 32)
    high = (qh >> np.array([[0], [2], [4], [6]], np.uint8)) & 3  # (n, 2, 4, 32)
    q = (low | (high << 4)).reshape(n, 16, 16).astype(np.float32) - 32
    scale: FloatArray = _half(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8)  # (n, 16)
    values: FloatArray = scale[:, :, None] * q
    return values.reshape(n, 256)


def _half(raw: Blocks) -> FloatArray:
    """(n, 2k) bytes -> (n, k) values."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(qs: Blocks) -> Blocks:
    """(n, 128) bytes -> (n, 8, 32): 32 bytes hold one sub-block in their low and the next in their high halves."""
    chunks = qs.reshape(len(qs), 4, 1, 32)
    return np.concatenate([chunks & 15, chunks >> 4], axis=2).reshape(len(qs), 8, 32)


def _scale_and_min(blocks: Blocks, q: Blocks) -> FloatArray:
    """x = d * scale * q - dmin * min, for q of shape (n, 8, 32).

    Scales and minima are 6-bit numbers in the 12 bytes S at 4: of the first four, S[j] & 63 and S[j + 4] & 63; of the
    others, the halves of S[j + 4] below the top bits of S[j - 4] and S[j].
    """
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)  # (n, 8)
    mins = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)  # (n, 8)
    step: FloatArray = _half(blocks[:, :2]) * scales  # (n, 8)
    offset: FloatArray = _half(blocks[:, 2:4]) * mins  # (n, 8)
    values: FloatArray = step[:, :, None] * q - offset[:, :, None]
    return values.reshape(len(blocks), 256)


DECODERS: Mapping[str, Callable[[Blocks], FloatArray]] = {
    "F32": f32,
    "F16": f16,
    "Q4_0": q4_0,
    "Q8_0": q8_0,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
}
