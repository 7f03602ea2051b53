"""Native codecs: rows of weights to the bytes of a storage format and back."""

from quantmill_kernels._native import (
    Format,
    decode,
    encode,
    formats,
    isa,
    pack_awq,
    pack_gptq,
    pack_gptq_zeros,
    pack_quantized,
    pack_quantized_zeros,
    unpack_awq,
    unpack_gptq,
    unpack_gptq_zeros,
    unpack_quantized,
    unpack_quantized_zeros,
)

__all__ = [
    "Format",
    "decode",
    "encode",
    "formats",
    "isa",
    "pack_awq",
    "pack_gptq",
    "pack_gptq_zeros",
    "pack_quantized",
    "pack_quantized_zeros",
    "unpack_awq",
    "unpack_gptq",
    "unpack_gptq_zeros",
    "unpack_quantized",
    "unpack_quantized_zeros",
]
