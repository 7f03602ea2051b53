"""The schemes as a table: what is stored, and what config.json says about it.

compressed-tensors 0.19: quantization/quant_scheme.py (presets), compressors/; DeepSeek-V3: weight_scale_inv.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import ml_dtypes
import numpy as np

from quantmill.contract.compressed_tensors import arguments
from quantmill.contract.experts import Stack
from quantmill.contract.model_folder import KEPT, StoredPart, kept_part
from quantmill.contract.tensors import TensorPlan
from quantmill_fp8.params import Fp8Params

BLOCK = 128  # rows and columns of a block
Granularity = Literal["channel", "tensor", "block", "nvfp4", "mxfp4", "mxfp8"]


@dataclass(frozen=True)
class Fp8Scheme:
    """One scheme.

    label       what a plan calls a weight that is stored so
    format      compressed-tensors' name of the layout; empty for the native one
    inputs      in_features must be a multiple
    outputs     out_features must be a multiple
    activations compressed-tensors' settings of the input activations; None leaves them as they are
    """

    label: str
    granularity: Granularity
    format: str
    weights: Mapping[str, Any]
    inputs: int = 1
    outputs: int = 1
    activations: Mapping[str, Any] | None = None
    scale: str = "weight_scale"

    @property
    def is_static(self) -> bool:
        """Whether activations have a scale that is stored."""
        return self.activations is not None and not self.activations["dynamic"]


def _settings(bits: int, strategy: str, *, group: int | None = None, **more: Any) -> Mapping[str, Any]:
    return MappingProxyType(arguments(bits, "float", strategy, group_size=group, **more))


def _activations(strategy: str, group: int | None = None, **more: Any) -> Mapping[str, Any]:
    return _settings(8, strategy, group=group, dynamic=True, observer=None, **more)


E8M0 = {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
E4M3 = {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}

CHANNEL = _settings(8, "channel")
STATIC = _settings(8, "tensor", observer="static_minmax")
BLOCKS = _settings(8, "block", block_structure=[BLOCK, BLOCK])
MX8 = _settings(8, "group", group=32, **E8M0)

SCHEMES: Mapping[str, Fp8Scheme] = MappingProxyType(
    {
        "FP8_DYNAMIC": Fp8Scheme("FP8", "channel", "float-quantized", CHANNEL, activations=_activations("token")),
        "FP8": Fp8Scheme("FP8", "channel", "float-quantized", CHANNEL, activations=STATIC),
        "FP8A16": Fp8Scheme("FP8", "channel", "naive-quantized", CHANNEL),
        "FP8_BLOCK": Fp8Scheme(
            "FP8-128x128", "block", "float-quantized", BLOCKS, BLOCK, BLOCK, _activations("group", BLOCK)
        ),
        "FP8_NATIVE": Fp8Scheme(
            "FP8-128x128", "block", "", BLOCKS, BLOCK, BLOCK, _activations("group", BLOCK), "weight_scale_inv"
        ),
        "MXFP8": Fp8Scheme("MXFP8", "mxfp8", "mxfp8-quantized", MX8, 32, activations=_activations("group", 32, **E8M0)),
        "MXFP8A16": Fp8Scheme("MXFP8", "mxfp8", "mxfp8-quantized", MX8, 32),
        "NVFP4A16": Fp8Scheme(
            "NVFP4", "nvfp4", "nvfp4-pack-quantized", _settings(4, "tensor_group", group=16, **E4M3), 16
        ),
        "MXFP4A16": Fp8Scheme("MXFP4", "mxfp4", "mxfp4-pack-quantized", _settings(4, "group", group=32, **E8M0), 32),
    }
)
FP8_TENSOR = Fp8Scheme("FP8-tensor", "tensor", "float-quantized", _settings(8, "tensor"), activations=STATIC)

# compressed-tensors stores scales in the model's dtype: safetensors' name of it, the kernels' name, numpy's dtype
STORED: Mapping[str, tuple[str, Any]] = MappingProxyType(
    {"F32": ("float32", np.float32), "F16": ("float16", np.float16), "BF16": ("bfloat16", ml_dtypes.bfloat16)}
)
SCALE_DTYPES = tuple(STORED)


def scheme_of(params: Fp8Params) -> Fp8Scheme:
    return FP8_TENSOR if params.strategy == "tensor" else SCHEMES[params.scheme]


def cache_parts(attention: str, row: TensorPlan) -> Sequence[StoredPart]:
    """The scales of keys and values of an attention, which a weight of it carries."""
    return [StoredPart(part, f"{attention}.{part}", row.source_dtype, (1,)) for part in ("k_scale", "v_scale")]


def parts_of(row: TensorPlan, scheme: Fp8Scheme, stack: Stack | None = None) -> Sequence[StoredPart]:
    """The arrays that the files hold for a tensor of the plan; `stack` where it holds experts."""
    if stack is not None and stack.is_one_by_one(row):
        parts = kept_expert if row.action == "keep" else partial(parts_of_expert, scheme=scheme)
        return [part for expert in range(stack.experts) for part in parts(stack, expert)]
    if row.action == "keep":
        return (kept_part(row),)
    return _parts_of_weight(row.name, row.shape, row.source_dtype, scheme)


def kept_expert(stack: Stack, expert: int) -> Iterator[StoredPart]:
    """The arrays of one expert's weights where they stay as they are."""
    for position, info in enumerate(stack.infos(expert)):
        yield StoredPart(key_of(expert, position, KEPT), info.name, info.dtype, info.shape)


def parts_of_expert(stack: Stack, expert: int, scheme: Fp8Scheme) -> Iterator[StoredPart]:
    """The arrays of one expert's weights; their keys tell expert and weight."""
    for position, info in enumerate(stack.infos(expert)):
        for part in _parts_of_weight(info.name, info.shape, info.dtype, scheme):
            yield replace(part, part=key_of(expert, position, part.part))


def key_of(expert: int, position: int, part: str) -> str:
    """The key of an array of the expert's weight in this position, by what it is of a weight alone."""
    return f"{expert}/{position}/{part}"


def _parts_of_weight(name: str, shape: tuple[int, ...], source_dtype: str, scheme: Fp8Scheme) -> tuple[StoredPart, ...]:
    module = name.removesuffix(".weight")
    rows, cols = shape
    scale = f"{module}.{scheme.scale}"
    packed = StoredPart("codes", f"{module}.weight_packed", "U8", (rows, cols // 2))
    codes = StoredPart("codes", name, "F8_E4M3", shape)
    blocks = (-(-rows // BLOCK), -(-cols // BLOCK))
    native = "F32" if not scheme.format else source_dtype
    inputs = StoredPart("input_scale", f"{module}.input_scale", source_dtype, (1,))
    weights: Mapping[str, tuple[StoredPart, ...]] = {
        "tensor": (codes, StoredPart("scale", scale, source_dtype, (1,))),
        "channel": (codes, StoredPart("scale", scale, source_dtype, (rows, 1))),
        "block": (codes, StoredPart("scale", scale, native, blocks)),
        "mxfp8": (codes, StoredPart("scale", scale, "U8", (rows, cols // 32))),
        "mxfp4": (packed, StoredPart("scale", scale, "U8", (rows, cols // 32))),
        "nvfp4": (
            packed,
            StoredPart("scale", scale, "F8_E4M3", (rows, cols // 16)),
            StoredPart("global_scale", f"{module}.weight_global_scale", "F32", (1,)),
        ),
    }
    return (*weights[scheme.granularity], *([inputs] if scheme.is_static else []))
