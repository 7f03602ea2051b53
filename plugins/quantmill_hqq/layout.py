"""How a group-wise quantized weight is stored: names, dtypes and shapes of its arrays.

hqq 0.2.8: core/quantize.py (HQQLinear.state_dict), core/bitpack.py, core/utils.py (encode_safetensor_type).
Those of compressed-tensors are in `contract.compressed_tensors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.compressed_tensors import packed_parts
from quantmill.contract.model_folder import StoredPart, kept_part
from quantmill.contract.tensors import TensorPlan
from quantmill_hqq.params import WHOLE, HqqParams

# Source dtype -> what it is called as `compute_dtype`; and that -> the dtype that scales and zeros are stored in
COMPUTE_DTYPES = MappingProxyType({"F32": "float32", "F16": "float16", "BF16": "bfloat16"})
STORED = MappingProxyType({name: dtype for dtype, name in COMPUTE_DTYPES.items()})

SIZES = (8, 16, 32, 64, 128, 256)  # group sizes with a label of their own


@dataclass(frozen=True)
class Packing:
    """hqq's name, how many rows of the grouped matrix share a word, and the word's dtype."""

    name: str
    rows: int
    dtype: str
    torch_dtype: str


PACKINGS: Mapping[int, Packing] = MappingProxyType(
    {
        **dict.fromkeys((8, 6, 5), Packing("8bit_u8", 1, "U8", "torch.uint8")),
        4: Packing("4bit_u8", 2, "U8", "torch.uint8"),
        3: Packing("3bit_32", 10, "I32", "torch.int32"),
        2: Packing("2bit_u8", 4, "U8", "torch.uint8"),
        1: Packing("1bit_u8", 8, "U8", "torch.uint8"),
    }
)


@dataclass(frozen=True)
class Grouping:
    """How a weight of `shape` (out, in) is cut into groups.

    With axis 1 it is reshaped to (-1, group_size), with axis 0 to (group_size, -1); scale and zero have one value for
    each row, or column, of that.
    """

    nbits: int
    group_size: int
    axis: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, module: str, shape: tuple[int, ...], params: HqqParams) -> Grouping:
        nbits, size = params.settings_of(module)
        return cls(nbits, shape[params.axis] if size == WHOLE else size, params.axis, shape)

    @property
    def groups(self) -> int:
        return prod(self.shape) // self.group_size

    @property
    def matrix(self) -> tuple[int, int]:
        """The shape that the weight is reshaped to."""
        return (self.groups, self.group_size) if self.axis == 1 else (self.group_size, self.groups)

    @property
    def packing(self) -> Packing:
        return PACKINGS[self.nbits]

    def label(self, params: HqqParams) -> str:
        """What plans call it: HQQ4-64, HQQ4-64-AXIS0, HQQ4-ROW, HQQ4-COL, INT4-64-ASYM."""
        size = str(self.group_size) if self.group_size in SIZES else ("COL", "ROW")[self.axis]
        if params.format == "compressed-tensors":
            return f"INT{self.nbits}-{size}-ASYM"
        return f"HQQ{self.nbits}-{size}{'-AXIS0' if self.axis == 0 and size != 'COL' else ''}"


def grouping_of(row: TensorPlan, params: HqqParams) -> Grouping:
    return Grouping.of(row.name.removesuffix(".weight"), row.shape, params)


def parts_of(row: TensorPlan, params: HqqParams) -> Sequence[StoredPart]:
    """The arrays that the files hold for a tensor of the plan."""
    if row.action == "keep":
        return (kept_part(row),)
    return _hqq(row, params) if params.format == "hqq" else _pack_quantized(row, params)


def _hqq(row: TensorPlan, params: HqqParams) -> Sequence[StoredPart]:
    module, grouping = row.name.removesuffix(".weight"), grouping_of(row, params)
    rows, cols = grouping.matrix
    words = -(-rows // grouping.packing.rows)
    per_group = (rows, 1) if grouping.axis == 1 else (1, cols)
    dtype = STORED[compute_dtype(row, params)]
    return (
        StoredPart("W_q", f"{module}.W_q", grouping.packing.dtype, (words, cols)),
        StoredPart("scale", f"{module}.scale", dtype, per_group),
        StoredPart("zero", f"{module}.zero", dtype, per_group),
        *(
            StoredPart(key, f"{module}.{key}", DTYPE_OF[value.dtype], value.shape)
            for key, value in metadata(row, params).items()
        ),
    )


def _pack_quantized(row: TensorPlan, params: HqqParams) -> Sequence[StoredPart]:
    module, grouping = row.name.removesuffix(".weight"), grouping_of(row, params)
    groups = row.shape[1] // grouping.group_size
    return packed_parts(module, row.shape, grouping.nbits, groups, row.source_dtype, zero_points=True)


def compute_dtype(row: TensorPlan, params: HqqParams) -> str:
    return params.compute_dtype or COMPUTE_DTYPES[row.source_dtype]


DTYPE_OF = {np.dtype(np.uint8): "U8", np.dtype(np.int32): "I32", np.dtype(np.int64): "I64"}


def metadata(row: TensorPlan, params: HqqParams) -> Mapping[str, NDArray[Any]]:
    """What is no array, as hqq encodes it for safetensors: transformers builds a layer when all of it is there."""
    grouping = grouping_of(row, params)
    values: dict[str, bool | int | str] = {
        "nbits": grouping.nbits,
        "group_size": grouping.group_size,
        "axis": grouping.axis,
        "packing": grouping.packing.name,
        "unpack_view_dtype": grouping.packing.torch_dtype,
        "compute_dtype": f"torch.{compute_dtype(row, params)}",
        "view_as_float": False,
        "quant_scale": False,
        "quant_zero": False,
        "offload_meta": False,
        "encoded_state_dict": True,
        "stores_quant_config": True,
        "channel_wise": True,
        "optimize": True,
        "round_zero": params.whole_zeros,
    }
    return {"shape": np.array(row.shape, np.int64), **{key: _encoded(value) for key, value in values.items()}}


def _encoded(value: bool | int | str) -> NDArray[Any]:
    if isinstance(value, bool):
        return np.array(int(value), np.uint8)
    if isinstance(value, int):
        return np.array(value, np.int32)
    return np.frombuffer(value.encode(), np.uint8)
