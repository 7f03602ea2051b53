from typing import Any, Literal

import numpy
import numpy.typing


def isa() -> str:
    """
    The instruction set that runs: scalar, avx2, avx512 or neon. QUANTMILL_ISA forces one; read at import.
    """

class Format:
    """
    A storage format: how many values share a block, and how long the block is.
    """

    @property
    def name(self) -> str:
        """GGML's own spelling, for instance Q4_K."""

    @property
    def block_values(self) -> int:
        """Values that share a block; columns are a multiple of this."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per value, scales included."""

    def __repr__(self) -> str: ...

def formats() -> dict[str, Format]:
    """Every known format by name."""

def encode(format: str, values: numpy.typing.NDArray[Any], *, imatrix: numpy.typing.NDArray[numpy.float32] | None = None, threads: int = 1) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Quantize each row of a matrix: (rows, cols) values to (rows, row_bytes) bytes.

    `values` is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous, finite; cols is a
    multiple of the format's block_values. `imatrix`, float32 (cols,), finite and not negative, weights the squared error of
    each column; formats that know no importance matrix ignore it. The bytes do not depend on `threads`.

    Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.
    """

def decode(format: str, packed: numpy.typing.NDArray[numpy.uint8], cols: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of packed rows: (rows, row_bytes) uint8, C-contiguous, to (rows, cols) float32.

    Any bytes are accepted; a scale that is not finite gives values that are not finite.

    Raises ValueError for a shape or a name that does not fit, TypeError for a dtype.
    """

def solve_gptq(weights: numpy.typing.NDArray[Any], factor: numpy.typing.NDArray[numpy.float32], *, bits: int, group_size: int = -1, symmetric: bool = True, scales: numpy.typing.NDArray[numpy.float32] | None = None, zeros: numpy.typing.NDArray[numpy.uint8] | None = None, group_index: numpy.typing.NDArray[numpy.int32] | None = None, mse: float = 0.0, scale_dtype: Literal['float32', 'float16', 'bfloat16'] = 'float32', threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32]]:
    """
    GPTQ (Frantar et al., arXiv 2210.17323): codes (out, in) whose outputs are closest to those of `weights`.

    Gives codes uint8 (out, in), scales float32 (out, groups), zeros uint8 (out, groups) and losses float32 (out,). A weight
    is scale * (code - zero). A loss is half the sum over the columns of (error / factor's diagonal value) squared: half of
    (W - Q) H (W - Q)^T.

    `weights` is float32, float16 or bfloat16 (out, in), C-contiguous, columns in the order in which they are solved.
    `factor` is float32 (in, in), C-contiguous, the upper triangular U with U^T U = H^-1 for the damped Hessian H of the
    same order; what is below the diagonal is not read. Set columns that no input reaches to 0 in `weights`, and their
    diagonal value of H to 1. `bits` is 2 to 8.

    Groups are `group_size` columns that follow each other, or with -1 the row. Scale and zero are found when a group's
    first column is reached, from the weights with all earlier errors subtracted: the range of the group and 0, with
    `symmetric` as wide on both sides of 0 and zero 2^(bits-1). With `mse` p > 0 (2.4 is usual) 80 ranges down to 0.21 of
    that are tried for the least sum of |error|^p. `scale_dtype` rounds a scale to what will be stored, before codes are
    chosen for it. Or `scales` and, unless symmetric, `zeros` are given; then `group_index`, int32 (in,), may say the group
    of each column.

    The bits of the result are those of the plain algorithm, one column after the other in float32, on every instruction
    set, and do not depend on `threads`.

    Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.
    """

def find_gptq_scales(weights: numpy.typing.NDArray[Any], *, bits: int, group_size: int = -1, symmetric: bool = True, mse: float = 0.0, scale_dtype: Literal['float32', 'float16', 'bfloat16'] = 'float32', threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint8]]:
    """
    Scales float32 (out, groups) and zeros uint8 (out, groups) of weights as they are, by the rules of solve_gptq.

    For static groups: found in the order of the checkpoint, given to solve_gptq with the columns in another one.

    Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.
    """

def pack_gptq(codes: numpy.typing.NDArray[numpy.uint8], bits: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.int32]:
    """
    GPTQ's qweight: codes (out, in) uint8, in the order of the checkpoint's weight, to words (in * bits / 32, out).

    `bits` is 2, 3, 4 or 8. Column o of the words is row o of the codes, a little-endian stream of bits: eight 4-bit codes
    1 to 8 are 0x87654321, 32 codes of 3 bits fill three words. in * bits is a multiple of 32, with 3 bits in is one.

    Raises ValueError for a shape, or a code of 2^bits or above, whose row and column it names, TypeError for a dtype.
    """

def unpack_gptq(qweight: numpy.typing.NDArray[numpy.int32], bits: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Codes (out, in) of GPTQ's qweight, int32 (in * bits / 32, out): the inverse of pack_gptq.

    Raises ValueError for a shape, TypeError for a dtype.
    """

def pack_gptq_zeros(zeros: numpy.typing.NDArray[numpy.uint8], bits: int, *, format: Literal['gptq', 'gptq_v2'] = 'gptq', threads: int = 1) -> numpy.typing.NDArray[numpy.int32]:
    """
    GPTQ's qzeros: zero points (out, groups) uint8 to words (groups, out * bits / 32).

    `format` "gptq" (v1) stores zero - 1 modulo 2^bits, to which readers add 1: a zero of 0 reads as 2^bits where they
    do not wrap. "gptq_v2" stores the zero itself. out * bits is a multiple of 32, with 3 bits out is one.

    Raises ValueError for a shape, or a zero of 2^bits or above, whose row and column it names, TypeError for a dtype.
    """

def unpack_gptq_zeros(qzeros: numpy.typing.NDArray[numpy.int32], bits: int, *, format: Literal['gptq', 'gptq_v2'] = 'gptq', threads: int = 1) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Zero points (out, groups) of GPTQ's qzeros, int32 (groups, out * bits / 32): the inverse of pack_gptq_zeros.

    Raises ValueError for a shape, TypeError for a dtype.
    """

def pack_awq(codes: numpy.typing.NDArray[numpy.uint8], *, threads: int = 1) -> numpy.typing.NDArray[numpy.int32]:
    """
    AWQ's qweight in the GEMM version: 4-bit codes (out, in) uint8 to words (in, out / 8).

    Nibble i of a word, from the low end, is output 0, 2, 4, 6, 1, 3, 5, 7 of its eight: codes 1 to 8 are 0x86427531. The
    same makes qzeros (groups, out / 8) of zero points (out, groups). out is a multiple of 8.

    Raises ValueError for a shape, or a code above 15, whose row and column it names, TypeError for a dtype.
    """

def unpack_awq(words: numpy.typing.NDArray[numpy.int32], *, threads: int = 1) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Codes (out, in) of AWQ's qweight, int32 (in, out / 8), or zero points (out, groups) of its qzeros.

    Raises ValueError for a shape, TypeError for a dtype.
    """

def pack_quantized(codes: numpy.typing.NDArray[numpy.int8] | numpy.typing.NDArray[numpy.uint8], bits: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.int32]:
    """
    compressed-tensors' weight_packed: codes (out, in) of 1 to 8 bits to words (out, ceil(in * bits / 32)).

    int8 codes are -2^(bits-1) to 2^(bits-1) - 1 and stored 2^(bits-1) higher; uint8 codes are stored as they are, so that
    a solver's codes around the zero point 2^(bits-1) need no subtraction. Each row is a little-endian stream of bits
    without gaps: the 4-bit codes -8, -7, 0, 1, 7, -1, 2, 3 are 0xBA7F9810. Bits that no code fills are zero.

    Raises ValueError for a shape, or a code that bits do not hold, whose row and column it names, TypeError for a dtype.
    """

def unpack_quantized(packed: numpy.typing.NDArray[numpy.int32], bits: int, cols: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.int8]:
    """
    Signed codes (out, cols) of compressed-tensors' weight_packed, int32 (out, ceil(cols * bits / 32)).

    Raises ValueError for a shape, TypeError for a dtype.
    """

def pack_quantized_zeros(zeros: numpy.typing.NDArray[numpy.int8] | numpy.typing.NDArray[numpy.uint8], bits: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.int32]:
    """
    compressed-tensors' weight_zero_point: zero points (out, groups) to words (ceil(out * bits / 32), groups).

    Each column is a stream of bits; values are stored as pack_quantized stores codes.

    Raises ValueError for a shape, or a zero that bits do not hold, whose row and column it names, TypeError for a dtype.
    """

def unpack_quantized_zeros(packed: numpy.typing.NDArray[numpy.int32], bits: int, rows: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.int8]:
    """
    Signed zero points (rows, groups) of compressed-tensors' weight_zero_point.

    Raises ValueError for a shape, TypeError for a dtype.
    """

def encode_4bit(quant_type: str, values: numpy.typing.NDArray[Any], *, block_size: int = 64, threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32]]:
    """
    Quantize a matrix to bitsandbytes' NF4 or FP4: (packed, absmax).

    `quant_type` is nf4 or fp4. `values`, (rows, cols), is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as
    uint16), C-contiguous, finite. Blocks of `block_size` (a power of two, 32 to 4096) run over the flattened matrix, across
    rows; the last one may be shorter. `packed` is uint8 (ceil(rows * cols / 2),), the first of two values in the high half
    of a byte; `absmax` is float32 (ceil(rows * cols / block_size),). Both are what bitsandbytes gives on a CPU.

    Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.
    """

def decode_4bit(quant_type: str, packed: numpy.typing.NDArray[numpy.uint8], absmax: numpy.typing.NDArray[numpy.float32], shape: tuple[int, int], *, block_size: int = 64, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of what encode_4bit gave: quant_map(quant_type)[code] * absmax, float32 of that shape.

    Any bytes are accepted; an absmax that is not finite gives values that are not finite.

    Raises ValueError for a size or a name that does not fit, TypeError for a dtype.
    """

def encode_absmax(absmax: numpy.typing.NDArray[numpy.float32], *, block_size: int = 256) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32], float]:
    """
    Double quantization of the absmax of 4-bit blocks: (codes, nested_absmax, offset).

    `absmax` is float32 (blocks,), finite; `offset` is its mean, a float32; `codes`, uint8 (blocks,), stand for absmax less
    the offset in units of `nested_absmax`, float32 (ceil(blocks / block_size),). They are what bitsandbytes gives on one
    x86 core; with several threads or on another machine its mean may differ in the last bits.

    Raises ValueError for a value, a size or a sum that does not fit, TypeError for a dtype.
    """

def decode_absmax(codes: numpy.typing.NDArray[numpy.uint8], nested_absmax: numpy.typing.NDArray[numpy.float32], offset: float, *, block_size: int = 256) -> numpy.typing.NDArray[numpy.float32]:
    """
    The absmax that the codes stand for: dynamic_map()[code] * nested_absmax + offset, float32 (blocks,).

    Raises ValueError for a size that does not fit, TypeError for a dtype.
    """

def encode_int8_rows(values: numpy.typing.NDArray[Any], *, threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.int8], numpy.typing.NDArray[numpy.float32]]:
    """
    Quantize each row of a matrix to LLM.int8()'s int8: (codes, absmax).

    `values`, (rows, cols), is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous,
    finite. `codes` is int8 (rows, cols), value * (127 / absmax) rounded half to even; `absmax` is float32 (rows,), the SCB
    of a checkpoint. Both are what bitsandbytes gives on a CPU. A row whose absmax is below 3.8e-37 has the codes 0.

    Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.
    """

def decode_int8_rows(codes: numpy.typing.NDArray[numpy.int8], absmax: numpy.typing.NDArray[numpy.float32], *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of what encode_int8_rows gave: code * absmax / 127, float32 (rows, cols).

    Raises ValueError for a size that does not fit, TypeError for a dtype.
    """

def quant_map(quant_type: str) -> numpy.typing.NDArray[numpy.float32]:
    """
    The values of the codes of nf4 or fp4, float32 (16,): the quant_map of a checkpoint.
    """

def dynamic_map() -> numpy.typing.NDArray[numpy.float32]:
    """
    The values of the codes of encode_absmax, float32 (256,): the nested_quant_map of a checkpoint.
    """

def encode_fp8(values: numpy.typing.NDArray[Any], *, strategy: str = 'channel', scale_dtype: str = 'float32', scale: numpy.typing.NDArray[numpy.float32] | None = None, threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32]]:
    """
    Quantize a matrix to FP8 E4M3FN: codes uint8 (rows, cols) and scales float32, value = scale * code.

    `strategy` says what shares a scale: "tensor", scale (1,); "channel", a row, scale (rows, 1); "block", 128 x 128 values,
    fewer at the edges, scale (ceil(rows / 128), ceil(cols / 128)). A scale is absmax / 448 rounded to `scale_dtype`
    ("float32", "float16" or "bfloat16"), whose machine epsilon stands for 0. A `scale` that is given, of these shapes, is
    rounded to `scale_dtype` and used instead: to share one between tensors, or, with ones, to cast.

    Codes are those of torch and compressed-tensors: (values / scale).clamp(-448, 448) rounded half to even, after the
    quotient was rounded to the dtype of both where values and scale have the same, else to float32. -0.0 keeps its sign.

    `values` is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous, finite. The bytes do
    not depend on `threads`.

    Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.
    """

def decode_fp8(codes: numpy.typing.NDArray[numpy.uint8], scale: numpy.typing.NDArray[numpy.float32], *, strategy: str = 'channel', threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of FP8 E4M3FN codes: uint8 (rows, cols), C-contiguous, to scale * code, float32 (rows, cols).

    `scale` has the shape that encode_fp8 gives for the `strategy`. The codes 0x7F and 0xFF are NaN.

    Raises ValueError for a shape or a name that does not fit, TypeError for a dtype.
    """

def fp8_scale(absmax: float, *, scale_dtype: str = 'float32') -> float:
    """
    The scale that encode_fp8 gives values of this largest magnitude, to share it between tensors.

    Raises ValueError where absmax is negative or not finite.
    """

def absmax(values: numpy.typing.NDArray[Any], *, threads: int = 1) -> float:
    """
    The largest magnitude of a matrix, (rows, cols) of the dtypes that encode_fp8 takes; 0 for an empty one.

    Raises ValueError for a value that is not finite, naming its row and column, TypeError for a dtype.
    """

def nvfp4_global_scale(absmax: float, *, dtype: str = 'float32') -> float:
    """
    NVFP4's scale of a tensor, 448 * 6 / absmax in the dtype of its values, rounded as compressed-tensors does.

    Tensors that a consumer fuses share that of their common absmax. 1 where it overflows float32; where it overflows float16
    alone (absmax below 0.041) the float32 value is kept.

    Raises ValueError where absmax is negative or not finite.
    """

def encode_nvfp4(values: numpy.typing.NDArray[Any], *, global_scale: float | None = None, threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.uint8], float]:
    """
    Quantize a matrix to NVFP4: packed uint8 (rows, cols / 2), scale uint8 (rows, cols / 16), global scale.

    Sixteen columns share a scale, stored as the bits of E4M3: global_scale * absmax / 6, and 0.125 where that rounds to 0.
    value = code * scale / global_scale; codes are E2M1 (sign, then 0, 0.5, 1, 1.5, 2, 3, 4, 6), ties to the even code, the
    even column in the low half of the byte. `global_scale` is nvfp4_global_scale of these values unless given. The bytes are
    compressed-tensors' own, which divides absmax by 6 in the dtype of the values. `values` as in encode_fp8.

    Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.
    """

def decode_nvfp4(packed: numpy.typing.NDArray[numpy.uint8], scale: numpy.typing.NDArray[numpy.uint8], global_scale: float, *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of NVFP4, code * (scale / global_scale): float32 (rows, cols), from what encode_nvfp4 gives.

    Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.
    """

def encode_mxfp4(values: numpy.typing.NDArray[Any], *, threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.uint8]]:
    """
    Quantize a matrix to MXFP4 as compressed-tensors stores it: packed (rows, cols / 2), exponents (rows, cols / 32).

    value = code * 2^(exponent - 127). The exponent is that of the largest magnitude, one more from 1.75 times a power of two
    on, less 2, at least 0. Codes are packed as in encode_nvfp4. GGML's MXFP4, encode("MXFP4", ...), rounds its exponent and
    orders its codes otherwise. `values` as in encode_fp8.

    Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.
    """

def decode_mxfp4(packed: numpy.typing.NDArray[numpy.uint8], exponents: numpy.typing.NDArray[numpy.uint8], *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of MXFP4: float32 (rows, cols), from what encode_mxfp4 gives. The exponent 255 is NaN.

    Raises ValueError for a shape that does not fit, TypeError for a dtype.
    """

def encode_mxfp8(values: numpy.typing.NDArray[Any], *, threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.uint8]]:
    """
    Quantize a matrix to MXFP8: E4M3 codes (rows, cols), exponents (rows, cols / 32), both uint8.

    value = code * 2^(exponent - 127), the exponent as in encode_mxfp4 but less 8. `values` as in encode_fp8.

    Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.
    """

def decode_mxfp8(codes: numpy.typing.NDArray[numpy.uint8], exponents: numpy.typing.NDArray[numpy.uint8], *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of MXFP8: float32 (rows, cols), from what encode_mxfp8 gives. The exponent 255 is NaN.

    Raises ValueError for a shape that does not fit, TypeError for a dtype.
    """

def encode_int8_affine(values: numpy.typing.NDArray[Any], *, axis: int | None = None, symmetric: bool = True, dtype: str = 'int8', reduce_range: bool = False, threads: int = 1) -> tuple[numpy.typing.NDArray[Any], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[Any]]:
    """
    Quantize a matrix to 8-bit integers by ONNX Runtime's rules: codes (rows, cols), scale (n,), zero_point (n,).

    value = scale * (code - zero_point). `axis` says what has a scale of its own: None the tensor (n = 1), 0 each row, 1 each
    column. Codes and zero points are of `dtype`, "int8" or "uint8"; scale is float32. The range always holds 0;
    `symmetric` widens it to both signs (the zero point is 0, or 128 for uint8). int8 takes -127 .. 127 symmetric, -128 .. 127
    otherwise, uint8 0 .. 255; `reduce_range` scales for -64 .. 64 or 0 .. 127 but clamps to 8 bits. Codes round half to even.
    A scale below the least normal float32 becomes 1 with the zero point 0. float16 and bfloat16 `values` give the bytes of
    their float32 values. `values` as in encode_fp8.

    Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.
    """

def decode_int8_affine(codes: numpy.typing.NDArray[Any], scale: numpy.typing.NDArray[numpy.float32], zero_point: numpy.typing.NDArray[Any], *, axis: int | None = None, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of 8-bit codes, (code - zero_point) * scale: float32 (rows, cols), from what encode_int8_affine gives.

    Raises ValueError for a shape that does not fit, TypeError for a dtype.
    """

def solve_hqq(values: numpy.typing.NDArray[Any], *, nbits: int, group_size: int | None = None, axis: int = 1, lp_norm: float = 0.7, beta: float = 10.0, kappa: float = 1.01, iters: int = 20, integer_zero: bool = False, compute_dtype: str = 'float32', threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]:
    """
    Quantize a matrix by groups as hqq stores them: (codes, scale, zero) with value ~ (code - zero) * scale.

    `values` is (rows, cols) float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous, finite.
    It is grouped as in hqq 0.2.8: for axis 1 reshaped to (-1, group_size), with scale and zero (groups, 1); for axis 0 to
    (group_size, -1), with scale and zero (1, groups). Without a group_size rows (axis 1) or columns (axis 0) are groups.
    `codes` is uint8 in that shape, 0 .. 2**nbits - 1, not packed; nbits is 1, 2, 3, 4, 5, 6 or 8.

    Scale and zero minimize the squared error, refitted for at most `iters` rounds. Where values lie further than
    beta**(-1 / (2 - lp_norm)) from what stands for them, half-quadratic rounds follow, which lower sum |error|**lp_norm;
    beta grows by kappa in each (Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models).

    `scale` and `zero` are float32 arrays of numbers that `compute_dtype` (float32, float16, bfloat16) holds exactly, and
    the codes are rounded for those. With `integer_zero` zeros are whole numbers in 0 .. 2**nbits - 1, as integer formats
    need them, at a larger error. Nothing depends on `threads`.

    Raises ValueError for a shape, an option or a value that does not fit, naming its row and column; TypeError for a dtype.
    """

def decode_hqq(codes: numpy.typing.NDArray[numpy.uint8], scale: numpy.typing.NDArray[numpy.float32], zero: numpy.typing.NDArray[numpy.float32], shape: tuple[int, int], *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of a group-wise quantized matrix: (code - zero) * scale in float32, reshaped to `shape`.

    `codes`, `scale` and `zero` are as solve_hqq gives them; their shapes tell the axis.

    Raises ValueError for shapes that do not fit each other, TypeError for a dtype.
    """

def pack_hqq(packing: str, codes: numpy.typing.NDArray[numpy.uint8], *, threads: int = 1) -> numpy.typing.NDArray[Any]:
    """
    Pack the rows of a grouped matrix of codes (n, m) as hqq's BitPack does.

    `packing` is 8bit_u8, 4bit_u8, 2bit_u8 or 1bit_u8: 1, 2, 4 or 8 rows in one of uint8, (n / rows, m); or 3bit_32: ten rows
    in one of int32, (ceil(n / 10), m), missing rows being zeros. Part k of the rows stands below part k - 1 in the word.

    Raises ValueError for a number of rows that does not fit, for a code that is too large, naming its row and column, or
    for an unknown packing; TypeError for a dtype.
    """

def unpack_hqq(packing: str, packed: numpy.typing.NDArray[Any], rows: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.uint8]:
    """
    The (rows, m) codes that pack_hqq packed; any bits are accepted.

    `packed` is uint8, or int32 for 3bit_32. Raises ValueError for a number of rows that the packed ones do not hold or an
    unknown packing, TypeError for a dtype.
    """

def compare(values: numpy.typing.NDArray[numpy.float32], source: numpy.typing.NDArray[Any], *, block: int, group: int, relative: float, group_relative: float = 0.0, floor: float = 0.0) -> tuple[float, float, float, float, int, int, float, float]:
    """
    Values (n,) beside those that they stand for, one pass over both.

    `source` is float32, float16 or bfloat16, n values too. Blocks of `block` values stand in groups of `group`; the last
    of each may be shorter. rms(values - source) of a block may be

        relative * largest |source| of the block + group_relative * largest |source| of the group + floor

    Gives the sums of (values - source)^2, source^2 and values * source in float64, the largest |values - source|, how
    many values are not finite (then the sums are NaN), and of the block with the largest share of what it is allowed its
    first value, the sum of its squared differences and what it is allowed.

    Raises ValueError for lengths or bounds that do not fit, TypeError for a dtype.
    """
