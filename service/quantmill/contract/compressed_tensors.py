"""compressed-tensors' settings, which vLLM and transformers read in config.json, and arrays, as methods write them.

compressed-tensors 0.19: quantization/quant_config.py (QuantizationConfig), quant_scheme.py, quant_args.py;
compressors/pack_quantized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from quantmill.contract.model_folder import StoredPart

VERSION = "0.19.0"
PACKED = "pack-quantized"
WORD = 32  # bits


def packed_parts(
    module: str, shape: Sequence[int], bits: int, groups: int, scales: str, *, zero_points: bool
) -> tuple[StoredPart, ...]:
    """The arrays of integers (out, in) in pack-quantized: parts packed, scale, shape and, where there are, zero_point.

    Words of codes fill along the rows, words of zero points along the columns; a row has `groups` scales, in the dtype
    `scales`.
    """
    outputs, inputs = shape
    parts = (
        StoredPart("packed", f"{module}.weight_packed", "I32", (outputs, -(-inputs * bits // WORD))),
        StoredPart("scale", f"{module}.weight_scale", scales, (outputs, groups)),
        StoredPart("shape", f"{module}.weight_shape", "I64", (2,)),
    )
    words = -(-outputs * bits // WORD)
    zeros = StoredPart("zero_point", f"{module}.weight_zero_point", "I32", (words, groups))
    return (*parts, zeros) if zero_points else parts


def arguments(
    bits: int, type_: Literal["int", "float"], strategy: str, *, group_size: int | None = None, **more: Any
) -> dict[str, Any]:
    """QuantizationArgs of weights, symmetric and static; `more` are keys of them, or in place of those of weights."""
    plain: dict[str, Any] = {
        "num_bits": bits,
        "type": type_,
        "symmetric": True,
        "strategy": strategy,
        "group_size": group_size,
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "memoryless_minmax",
        "observer_kwargs": {},
    }
    return {**plain, **more}


def integers(bits: int, group_size: int | None, *, symmetric: bool, actorder: str | None = None) -> dict[str, Any]:
    """QuantizationArgs of integers that share a scale in groups along the rows, or (None) by rows."""
    strategy = "channel" if group_size is None else "group"
    return arguments(bits, "int", strategy, group_size=group_size, symmetric=symmetric, actorder=actorder)


def group(
    format_: str,
    weights: Mapping[str, Any],
    activations: Mapping[str, Any] | None = None,
    targets: Sequence[str] = ("Linear",),
) -> dict[str, Any]:
    """A QuantizationScheme: how the modules `targets` are stored, and what their inputs are rounded to."""
    return {
        "targets": list(targets),
        "weights": dict(weights),
        "input_activations": None if activations is None else dict(activations),
        "output_activations": None,
        "format": format_,
    }


def settings(
    groups: Sequence[Mapping[str, Any]], kept: Sequence[str], kv_cache_scheme: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A QuantizationConfig of `groups`, all of one format; `kept` are the modules that are not quantized."""
    (format_,) = {each["format"] for each in groups}
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": format_,
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": dict(each) for number, each in enumerate(groups)},
        "ignore": list(kept),
        "kv_cache_scheme": None if kv_cache_scheme is None else dict(kv_cache_scheme),
        "global_compression_ratio": None,
        "sparsity_config": {},
        "transform_config": {},
    }
