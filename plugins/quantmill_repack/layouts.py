"""What each layout stores for a weight, and what it can hold.

compressed-tensors 0.19, compressors/; GPTQModel 7.7; autoawq 0.2.9 (GEMM); DeepSeek-V3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quantmill.contract.compressed_tensors import WORD, packed_parts
from quantmill.contract.model_folder import QUANTIZATION, StoredPart, kept_part
from quantmill.contract.tensors import ModelIndex, StoredWeight, TensorPlan
from quantmill_repack.params import Target

NVFP4_PACKED: Literal["nvfp4-pack-quantized"] = "nvfp4-pack-quantized"
SCALES = {"gptq": "scales", "gptq_v2": "scales", "awq": "scales", "pack-quantized": "weight_scale"}


@dataclass(frozen=True)
class LayoutRule:
    """One target: the formats that it can be made of, what stops a weight, and the arrays that it stores."""

    sources: tuple[str, ...]
    obstacle: Callable[[StoredWeight], str | None]
    parts: Callable[[str, StoredWeight], Sequence[StoredPart]]


def peak_memory(rows: Iterable[TensorPlan]) -> int:
    """Bytes of the largest weight while it is repacked: its codes, its values in float32 while they are looked through,
    and what is stored; what is kept is mapped."""
    return max((8 if row.action == "quantize" else 1) * row.values + row.nbytes for row in rows)


def scheme_of(format_: str, bits: int, symmetric: bool) -> str:
    """What a plan calls a weight that is stored so: W4, W4-ASYM, FP8-128x128, NVFP4."""
    if format_ in ("fp8", "float-quantized"):
        return "FP8-128x128"
    if format_ == NVFP4_PACKED:
        return "NVFP4"
    return f"W{bits}" if symmetric else f"W{bits}-ASYM"


def symmetric_in(to: Target, weight: StoredWeight) -> bool:
    """Whether the result needs no zero points; AWQ has them always."""
    return to != "awq" and weight.symmetric


def is_out_of_order(weight: StoredWeight, index: ModelIndex) -> bool:
    """Whether the inputs of a group need not be neighbours, as the source says."""
    return "weight_g_idx" in weight.parts or (
        weight.format in ("gptq", "gptq_v2") and index.config[QUANTIZATION].get("desc_act") is True
    )


def parts_of(row: TensorPlan, index: ModelIndex, to: Target) -> Sequence[StoredPart]:
    """The arrays that the files hold for a tensor of the plan."""
    if row.action == "keep":
        return (kept_part(row),)
    return LAYOUTS[to].parts(row.name.removesuffix(".weight"), index.stored[row.name])


def _pack_quantized(module: str, weight: StoredWeight) -> Sequence[StoredPart]:
    groups, scales = weight.shape[1] // weight.group_size, weight.parts[SCALES[weight.format]].dtype
    return packed_parts(module, weight.shape, weight.bits, groups, scales, zero_points=not weight.symmetric)


def _gptq(module: str, weight: StoredWeight) -> Sequence[StoredPart]:
    outputs, inputs = weight.shape
    groups = inputs // weight.group_size
    return (
        StoredPart("packed", f"{module}.qweight", "I32", (inputs * weight.bits // WORD, outputs)),
        StoredPart("zeros", f"{module}.qzeros", "I32", (groups, outputs * weight.bits // WORD)),
        StoredPart("scale", f"{module}.scales", "F16", (groups, outputs)),
        StoredPart("group_index", f"{module}.g_idx", "I32", (inputs,)),
    )


def _awq(module: str, weight: StoredWeight) -> Sequence[StoredPart]:
    outputs, inputs = weight.shape
    groups = inputs // weight.group_size
    return (
        StoredPart("packed", f"{module}.qweight", "I32", (inputs, outputs // 8)),
        StoredPart("zeros", f"{module}.qzeros", "I32", (groups, outputs // 8)),
        StoredPart("scale", f"{module}.scales", "F16", (groups, outputs)),
    )


def _blocks(scale: str) -> Callable[[str, StoredWeight], Sequence[StoredPart]]:
    def parts(module: str, weight: StoredWeight) -> Sequence[StoredPart]:
        blocks = tuple(-(-size // 128) for size in weight.shape)
        return (
            StoredPart("codes", f"{module}.weight", "F8_E4M3", weight.shape),
            StoredPart("scale", f"{module}.{scale}", "F32", blocks),
        )

    return parts


def nvfp4_parts(module: str, shape: tuple[int, ...]) -> tuple[StoredPart, ...]:
    """The arrays of a matrix (out, in) in NVFP4."""
    outputs, inputs = shape
    return (
        StoredPart("packed", f"{module}.weight_packed", "U8", (outputs, inputs // 2)),
        StoredPart("scale", f"{module}.weight_scale", "F8_E4M3", (outputs, inputs // 16)),
        StoredPart("global_scale", f"{module}.weight_global_scale", "F32", (1,)),
    )


def _nvfp4(module: str, weight: StoredWeight) -> Sequence[StoredPart]:
    return nvfp4_parts(module, weight.shape)


def _not_whole_words(weight: StoredWeight) -> str | None:
    whole = not any(size * weight.bits % WORD for size in weight.shape)
    return None if whole else f"{weight.bits}-bit codes of {list(weight.shape)} do not fill words along both dimensions"


def _not_for_gptq(weight: StoredWeight) -> str | None:
    return (
        _not_whole_words(weight)
        if weight.symmetric
        else "it has zero points of its own; awq or pack-quantized keep them"
    )


def _not_for_awq(weight: StoredWeight) -> str | None:
    return None if weight.bits == 4 and weight.shape[0] % 8 == 0 else "awq holds 4-bit codes and outputs by eights"


def _not_in_blocks(weight: StoredWeight) -> str | None:
    return None if weight.group_size == 0 else "its scales are by rows"


def _not_weights_alone(weight: StoredWeight) -> str | None:
    return "its activations are quantized too (input_global_scale)" if "input_global_scale" in weight.parts else None


def _anything(weight: StoredWeight) -> str | None:
    return None


LAYOUTS: Mapping[Target, LayoutRule] = {
    "pack-quantized": LayoutRule(("gptq", "gptq_v2", "awq"), _anything, _pack_quantized),
    "gptq": LayoutRule(("pack-quantized", "gptq_v2", "gptq"), _not_for_gptq, _gptq),
    "awq": LayoutRule(("pack-quantized",), _not_for_awq, _awq),
    "fp8": LayoutRule(("float-quantized",), _not_in_blocks, _blocks("weight_scale_inv")),
    NVFP4_PACKED: LayoutRule((NVFP4_PACKED,), _not_weights_alone, _nvfp4),
    "float-quantized": LayoutRule(("fp8",), _anything, _blocks("weight_scale")),
}
