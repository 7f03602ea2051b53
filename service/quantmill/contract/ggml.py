"""GGML's blocks back to values, in numpy, written from the format's description.

Verification reads artifacts and sources through this module, so it shares nothing with the native codecs. Each decoder
takes blocks, uint8 (n, block_bytes), and gives float32 (n, block_values).
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


def bf16(blocks: Blocks) -> FloatArray:
    """The upper half of a float32."""
    return (np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def q8_0(blocks: Blocks) -> FloatArray:
    """d f16, q i8[32]: x = d * q."""
    return _half(blocks[:, :2]) * blocks[:, 2:].view(np.int8).astype(np.float32)


def q4_0(blocks: Blocks) -> FloatArray:
    """d f16, qs[16]: x = d * (q - 8); byte j holds q[j] in its low and q[j + 16] in its high half."""
    return _half(blocks[:, :2]) * (_far_halves(blocks[:, 2:]).astype(np.float32) - 8)


def q4_1(blocks: Blocks) -> FloatArray:
    """d f16, m f16, qs[16] as in q4_0: x = d * q + m."""
    q = _far_halves(blocks[:, 4:]).astype(np.float32)
    return _half(blocks[:, :2]) * q + _half(blocks[:, 2:4])


def q5_0(blocks: Blocks) -> FloatArray:
    """d f16, qh u32, qs[16]: x = d * (q - 16); bit j of qh is bit 4 of q[j]."""
    q = _five_bits(blocks[:, 2:6], blocks[:, 6:]).astype(np.float32)
    return _half(blocks[:, :2]) * (q - 16)


def q5_1(blocks: Blocks) -> FloatArray:
    """d f16, m f16, qh u32, qs[16] as in q5_0: x = d * q + m."""
    q = _five_bits(blocks[:, 4:8], blocks[:, 8:]).astype(np.float32)
    return _half(blocks[:, :2]) * q + _half(blocks[:, 2:4])


# The 16 values of IQ4_NL and IQ4_XS: closer together near zero
CURVE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)

# The 16 values of MXFP4, doubled: sign, two bits of exponent, one of mantissa
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def iq4_nl(blocks: Blocks) -> FloatArray:
    """d f16, qs[16] as in q4_0: x = d * CURVE[q]."""
    return _half(blocks[:, :2]) * CURVE[_far_halves(blocks[:, 2:])]


def iq4_xs(blocks: Blocks) -> FloatArray:
    """d f16, scales_h u16, scales_l[4], qs[128]: x = d * (scale - 32) * CURVE[q], in 8 sub-blocks of 32.

    Sub-block s has the four low bits of its scale in half s % 2 of scales_l[s // 2], two more at bit 2s of scales_h,
    and its 16 bytes of qs as in q4_0.
    """
    n = len(blocks)
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(n, 8)
    high = (np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)) & 3  # (n, 8)
    scale: FloatArray = _half(blocks[:, :2]) * ((low | (high << 4)).astype(np.float32) - 32)
    values: FloatArray = scale[:, :, None] * CURVE[_far_halves(blocks[:, 8:].reshape(n, 8, 16))]
    return values.reshape(n, 256)


def mxfp4(blocks: Blocks) -> FloatArray:
    """e u8, qs[16] as in q4_0: x = E2M1[q] / 2 * 2 ** (e - 127)."""
    scale = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return scale * E2M1[_far_halves(blocks[:, 1:])]


def nvfp4(blocks: Blocks) -> FloatArray:
    """d[4], qs[32]: x = d * E2M1[q] / 2, in 4 sub-blocks of 16 with 8 bytes of qs each.

    Byte j of a sub-block holds q[j] in its low and q[j + 8] in its high half. d has 4 bits of exponent and 3 of
    mantissa, and no sign; all ones is NaN, which llama.cpp takes for 0.
    """
    exponent, mantissa = (blocks[:, :4] >> 3 & 15).astype(np.int32), (blocks[:, :4] & 7).astype(np.float32)  # (n, 4)
    eighths = np.where(exponent == 0, mantissa, mantissa + 8)
    scale = np.ldexp(eighths, np.maximum(exponent, 1) - 11)  # half of it, as E2M1 is doubled
    scale[blocks[:, :4] & 127 == 127] = np.nan
    values: FloatArray = scale[:, :, None] * E2M1[_far_halves(blocks[:, 4:].reshape(-1, 4, 8))]
    return values.reshape(len(blocks), 64)


def q2_k(blocks: Blocks) -> FloatArray:
    """scales[16], qs[64], d f16, dmin f16: x = d * scale * q - dmin * min, in 16 sub-blocks of 16.

    Byte j of scales holds a scale in its low and a minimum in its high half.
    """
    step: FloatArray = _half(blocks[:, 80:82]) * (blocks[:, :16] & 15)  # (n, 16)
    offset: FloatArray = _half(blocks[:, 82:84]) * (blocks[:, :16] >> 4)
    values: FloatArray = step[:, :, None] * _pairs_of_bits(blocks[:, 16:80]) - offset[:, :, None]
    return values.reshape(len(blocks), 256)


def q3_k(blocks: Blocks) -> FloatArray:
    """hmask[32], qs[64], scales[12], d f16: x = d * (scale - 32) * (q - 4), in 16 sub-blocks of 16.

    Bit k of hmask[l] is bit 2 of element 32k + l. The low four bits of scale j lie in byte j % 8 of scales, in its
    low half for j < 8; the other two in byte 8 + j % 4 at bit 2 * (j // 4).
    """
    n = len(blocks)
    third = (blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None]) & 1  # (n, 8, 32)
    q = _pairs_of_bits(blocks[:, 32:96]) | (third.reshape(n, 16, 16) << 2)
    low = np.concatenate([blocks[:, 96:104] & 15, blocks[:, 96:104] >> 4], axis=1)  # (n, 16)
    high = (blocks[:, None, 104:108] >> np.array([[0], [2], [4], [6]], np.uint8)) & 3  # (n, 4, 4)
    scale: FloatArray = _half(blocks[:, 108:]) * ((low | (high.reshape(n, 16) << 4)).astype(np.float32) - 32)
    values: FloatArray = scale[:, :, None] * (q.astype(np.float32) - 4)
    return values.reshape(n, 256)


def tq2_0(blocks: Blocks) -> FloatArray:
    """qs[64], d f16: x = d * (q - 1); bits 2k of the 32 bytes of each half of 128 are elements 32k on."""
    q = _pairs_of_bits(blocks[:, :64]).reshape(len(blocks), 256)
    return _half(blocks[:, 64:]) * (q.astype(np.float32) - 1)


def tq1_0(blocks: Blocks) -> FloatArray:
    """qs[48], qh[4], d f16: x = d * (digit - 1), five base-3 digits to a byte of qs and four to one of qh.

    Digit k of the first 32 bytes is element 32k + l, of the next 16 element 160 + 16k + l, of qh 240 + 4k + l.
    """
    parts = ((blocks[:, :32], 5), (blocks[:, 32:48], 5), (blocks[:, 48:52], 4))
    digits = np.concatenate([_base_3(raw, count) for raw, count in parts], axis=1)  # (n, 256)
    return _half(blocks[:, 52:]) * (digits.astype(np.float32) - 1)


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


def _far_halves(qs: Blocks) -> Blocks:
    """(..., 16) bytes -> (..., 32): the low halves of all, then the high ones."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1)


def _five_bits(qh: Blocks, qs: Blocks) -> Blocks:
    """(n, 4) and (n, 16) bytes -> (n, 32): `qs` as `_far_halves`, below the 32 bits of `qh`, lowest first."""
    fifth: Blocks = np.unpackbits(qh, axis=1, bitorder="little") << np.uint8(4)
    return _far_halves(qs) | fifth


def _pairs_of_bits(qs: Blocks) -> Blocks:
    """(n, 64) bytes -> (n, 16, 16): of each half's 32 bytes first bits 0 and 1, then bits 2 and 3, and so on."""
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    pairs: Blocks = (qs.reshape(len(qs), 2, 1, 32) >> shifts) & np.uint8(3)  # (n, 2, 4, 32)
    return pairs.reshape(len(qs), 16, 16)


def _base_3(raw: Blocks, count: int) -> Blocks:
    """(n, k) bytes -> (n, count * k): first every byte's first digit, then every second one.

    A byte is a number of five digits, scaled from 243 to 256 and rounded up: times 3 ** i, what is left below 256
    begins with digit i.
    """
    powers = np.array([[1], [3], [9], [27], [81]][:count], np.uint8)
    rest: Blocks = raw[:, None, :] * powers  # (n, count, k), modulo 256
    digits = (rest.astype(np.uint16) * 3) >> 8
    return digits.astype(np.uint8).reshape(len(raw), -1)


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
    "BF16": bf16,
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
    "TQ1_0": tq1_0,
    "TQ2_0": tq2_0,
    "MXFP4": mxfp4,
    "NVFP4": nvfp4,
}
