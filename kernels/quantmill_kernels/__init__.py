"""Native codecs: rows of weights to the bytes of a storage format and back."""

from quantmill_kernels._native import Format, decode, encode, formats, isa

__all__ = ["Format", "decode", "encode", "formats", "isa"]
