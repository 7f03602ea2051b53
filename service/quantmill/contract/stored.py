"""Weights as quantized checkpoints store them: which arrays stand for a weight, and what values they are.

A checkpoint that says in config.json that it is quantized is seen as the model that it stands for: `model.layers.0....
q_proj.weight` of shape (out_features, in_features), whatever arrays its values come of. Plain numpy from the formats'
definitions; encoders and packers have no part in it.

GPTQ: GPTQModel 7.7, AutoGPTQ's layout. AWQ: autoawq 0.2.9, the GEMM version. compressed-tensors 0.19, compressors/.
Native FP8: DeepSeek-V3, weight_scale_inv.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import FloatArray, StoredWeight, TensorInfo

Arrays = Mapping[str, NDArray[Any]]

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # which nibble of a word holds output k of eight
FP8_BLOCK = 128
WORD = 32  # bits
CHUNK_CODES = 1 << 20  # unpacked at once


def stored_weights(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, StoredWeight]:
    """The quantized weights of a checkpoint by their names as plain weights.

    None where config.json names no method, or one whose layout is not known here. Raises SourceRejected for arrays that
    do not fit each other or the settings.
    """
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if not isinstance(method, str) or method not in READERS:
        return {}
    anchors, read = READERS[method]
    assert isinstance(settings, Mapping)
    found = {}
    for name in tensors:
        module, _, last = name.rpartition(".")
        if last in anchors and (weight := read(_Module(module, tensors, settings))) is not None:
            found[f"{module}.weight"] = weight
    return found


class _Module:
    """The arrays of one module, and the settings that the whole checkpoint has."""

    def __init__(self, name: str, tensors: Mapping[str, TensorInfo], settings: Mapping[str, Any]) -> None:
        self.name = name
        self.settings = settings
        self._tensors = tensors

    def has(self, part: str) -> bool:
        return f"{self.name}.{part}" in self._tensors

    def part(self, part: str, dtypes: tuple[str, ...], dimensions: int = 2) -> TensorInfo:
        """Raises SourceRejected where it is not stored so."""
        info = self._tensors.get(f"{self.name}.{part}")
        if info is None or info.dtype not in dtypes or len(info.shape) != dimensions:
            stored = "nothing" if info is None else f"{info.dtype} {list(info.shape)}"
            raise self.rejected(f"{part} must be {' or '.join(dtypes)} in {dimensions} dimensions; there is {stored}")
        return info

    def number(self, key: str, allowed: tuple[int, ...]) -> int:
        value = self.settings.get(key)
        if type(value) is not int or value not in allowed:
            raise self.rejected(f"{key} is {shown(value)}; known: {', '.join(map(str, allowed))}")
        return value

    def rejected(self, reason: str) -> SourceRejected:
        return SourceRejected(f"quantized weight {shown(self.name)}: {reason}", tensor=self.name)

    def require(self, holds: bool, reason: str) -> None:
        if not holds:
            raise self.rejected(reason)


FLOATS = ("F16", "BF16", "F32")
NVFP4_GROUP = 16
FLOATS_OF_FOUR_BITS = {NVFP4_GROUP: ("nvfp4-pack-quantized", ("F8_E4M3",)), 32: ("mxfp4-pack-quantized", ("U8",))}


def _gptq(module: _Module) -> StoredWeight:
    bits = module.number("bits", (2, 3, 4, 8))
    parts = {"qweight": module.part("qweight", ("I32",)), "qzeros": module.part("qzeros", ("I32",))}
    parts["scales"] = module.part("scales", FLOATS)
    if module.has("g_idx"):
        parts["g_idx"] = module.part("g_idx", ("I32",), 1)
    words, outputs = parts["qweight"].shape
    inputs, groups = words * WORD // bits, parts["scales"].shape[0]
    module.require(words * WORD == inputs * bits and groups > 0, f"qweight of {words} words with {groups} groups")
    module.require(parts["scales"].shape == (groups, outputs), "scales do not fit qweight")
    module.require(parts["qzeros"].shape == (groups, outputs * bits // WORD), "qzeros do not fit scales")
    module.require("g_idx" not in parts or parts["g_idx"].shape == (inputs,), "g_idx does not fit qweight")
    module.require(inputs % groups == 0, f"{inputs} inputs in {groups} groups")
    version = str(module.settings.get("checkpoint_format") or "gptq")
    module.require(version in ("gptq", "gptq_v2"), f"checkpoint_format is {shown(version)}")
    symmetric = module.settings.get("sym") is not False
    return StoredWeight(version, (outputs, inputs), parts, bits, inputs // groups, symmetric)


def _awq(module: _Module) -> StoredWeight:
    module.number("bits", (4,))
    version = str(module.settings.get("version") or "gemm").lower()
    module.require(version == "gemm", f"version is {shown(version)}; known: gemm")
    parts = {"qweight": module.part("qweight", ("I32",)), "qzeros": module.part("qzeros", ("I32",))}
    parts["scales"] = module.part("scales", FLOATS)
    inputs, words = parts["qweight"].shape
    groups = parts["scales"].shape[0]
    module.require(groups > 0 and inputs % groups == 0, f"{inputs} inputs in {groups} groups")
    module.require(parts["scales"].shape == (groups, 8 * words), "scales do not fit qweight")
    module.require(parts["qzeros"].shape == (groups, words), "qzeros do not fit qweight")
    return StoredWeight("awq", (8 * words, inputs), parts, 4, inputs // groups, False)


def _native_fp8(module: _Module) -> StoredWeight | None:
    if not module.has("weight_scale_inv"):
        return None
    parts = {"weight": module.part("weight", ("F8_E4M3",)), "weight_scale_inv": module.part("weight_scale_inv", FLOATS)}
    rows, cols = parts["weight"].shape
    blocks = (-(-rows // FP8_BLOCK), -(-cols // FP8_BLOCK))
    module.require(module.settings.get("weight_block_size") == [FP8_BLOCK] * 2, "weight_block_size is not [128, 128]")
    module.require(parts["weight_scale_inv"].shape == blocks, "weight_scale_inv does not fit weight")
    return StoredWeight("fp8", (rows, cols), parts, 8, 0, True)


def _compressed(module: _Module) -> StoredWeight | None:
    if not module.has("weight_scale"):
        return None
    if module.has("weight_packed"):
        return _packed(module)
    parts = {"weight": module.part("weight", ("F8_E4M3",)), "weight_scale": module.part("weight_scale", FLOATS)}
    rows, cols = parts["weight"].shape
    scale = parts["weight_scale"].shape
    blocks = (-(-rows // FP8_BLOCK), -(-cols // FP8_BLOCK))
    module.require(scale in ((rows, 1), blocks), f"weight_scale {list(scale)} is neither by rows nor by blocks")
    group = cols if scale == (rows, 1) else 0
    return StoredWeight("float-quantized", (rows, cols), parts, 8, group, True)


def _packed(module: _Module) -> StoredWeight:
    groups = module.settings.get("config_groups")
    weights = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
    module.require(len(weights) == 1 and isinstance(weights[0], Mapping), "config_groups must hold one group")
    settings = weights[0]
    bits = settings.get("num_bits")
    if settings.get("type") == "float":
        return _packed_floats(module, settings)
    module.require(
        settings.get("type") == "int" and bits in (2, 3, 4, 8), "only integers of 2, 3, 4 or 8 bits, and floats of 4"
    )
    parts = {
        "weight_packed": module.part("weight_packed", ("I32",)),
        "weight_scale": module.part("weight_scale", FLOATS),
    }
    parts["weight_shape"] = module.part("weight_shape", ("I64", "I32"), 1)
    rows, groups_ = parts["weight_scale"].shape
    words = parts["weight_packed"].shape[1]
    cols = words * WORD // bits  # a last word that is not full is refused: headers do not tell how many codes it has
    module.require(parts["weight_packed"].shape[0] == rows, "weight_scale does not fit weight_packed")
    module.require(cols * bits == words * WORD and groups_ > 0 and cols % groups_ == 0, "groups do not fit the inputs")
    if module.has("weight_g_idx"):
        parts["weight_g_idx"] = module.part("weight_g_idx", ("I32",), 1)
        module.require(parts["weight_g_idx"].shape == (cols,), "weight_g_idx does not fit weight_packed")
    symmetric = settings.get("symmetric") is True
    if not symmetric:
        parts["weight_zero_point"] = module.part("weight_zero_point", ("I32",))
        module.require(
            parts["weight_zero_point"].shape == (-(-rows * bits // WORD), groups_), "zero points do not fit the scales"
        )
    return StoredWeight("pack-quantized", (rows, cols), parts, bits, cols // groups_, symmetric)


def _packed_floats(module: _Module, settings: Mapping[str, Any]) -> StoredWeight:
    """E2M1, two codes a byte: NVFP4 in groups of 16, MXFP4 in groups of 32."""
    size = settings.get("group_size")
    if settings.get("num_bits") != 4 or type(size) is not int or size not in FLOATS_OF_FOUR_BITS:
        raise module.rejected("of packed floats only NVFP4 and MXFP4 are known")
    format_, dtype = FLOATS_OF_FOUR_BITS[size]
    parts = {"weight_packed": module.part("weight_packed", ("U8",)), "weight_scale": module.part("weight_scale", dtype)}
    rows, half = parts["weight_packed"].shape
    module.require(parts["weight_scale"].shape == (rows, 2 * half // size), "weight_scale does not fit weight_packed")
    module.require(2 * half % size == 0, f"{2 * half} inputs in groups of {size}")
    if size == NVFP4_GROUP:
        parts["weight_global_scale"] = module.part("weight_global_scale", ("F32",), 1)
        module.require(parts["weight_global_scale"].shape == (1,), "weight_global_scale is not one number")
    if module.has("input_global_scale"):  # of activations; it is none of the weight
        parts["input_global_scale"] = module.part("input_global_scale", ("F32",), 1)
    return StoredWeight(format_, (rows, 2 * half), parts, 4, size, True)


READERS: Mapping[str, tuple[tuple[str, ...], Callable[[_Module], StoredWeight | None]]] = {
    "gptq": (("qweight",), _gptq),
    "awq": (("qweight",), _awq),
    "fp8": (("weight",), _native_fp8),
    "compressed-tensors": (("weight", "weight_packed"), _compressed),
}

# Values


def codes_of(weight: StoredWeight, arrays: Arrays) -> tuple[NDArray[np.int16], NDArray[np.int16], FloatArray]:
    """Codes (out, in), zero points and scales (out, groups) of a weight in integers: value = (code - zero) * scale.

    Codes are 0 to 2^bits - 1; a zero point of GPTQ's first version may be 2^bits. Which group an input is in,
    `groups_of` says.
    """
    return CODES[weight.format](weight, arrays)


def groups_of(weight: StoredWeight, arrays: Arrays) -> NDArray[np.int32] | None:
    """The group of each input (in,), None where groups follow each other. Raises SourceRejected for one beyond them."""
    part = ORDERS.get(weight.format)
    if part is None or part not in arrays:
        return None
    groups: NDArray[np.int32] = arrays[part]
    cols = weight.shape[1]
    if np.array_equal(groups, np.arange(cols) // weight.group_size):
        return None
    count = cols // weight.group_size
    if cols and not 0 <= groups.min() <= groups.max() < count:
        found = f"{groups.min()} to {groups.max()}"
        raise SourceRejected(f"{weight.parts[part].name} has groups {found}, there are {count}", tensor=part)
    return groups


def values_of(weight: StoredWeight, arrays: Arrays) -> FloatArray:
    """The weight's values, float32 (out, in). Raises SourceRejected for arrays that contradict each other."""
    if weight.format in CODES:
        codes, zeros, scales = codes_of(weight, arrays)
        groups, (rows, cols) = groups_of(weight, arrays), weight.shape
        if groups is not None:
            return _of_groups(codes, zeros, scales, groups)
        grouped = codes.reshape(rows, -1, weight.group_size).astype(np.float32)
        grouped -= zeros[:, :, None]
        grouped *= scales[:, :, None]
        return grouped.reshape(rows, cols)
    if weight.format in SCALES_OF_FLOATS:
        return _four_bit_floats(arrays["weight_packed"], SCALES_OF_FLOATS[weight.format](arrays))
    codes8, scale = arrays["weight"], arrays[SCALES[weight.format]].astype(np.float32)
    values = codes8.astype(np.float32)
    if weight.group_size:
        values *= scale
        return values
    each = np.repeat(scale, FP8_BLOCK, axis=1)[:, : weight.shape[1]]
    for block, row in enumerate(range(0, weight.shape[0], FP8_BLOCK)):
        values[row : row + FP8_BLOCK] *= each[block]
    return values


def _of_groups(
    codes: NDArray[np.int16], zeros: NDArray[np.int16], scales: FloatArray, groups: NDArray[np.int32]
) -> FloatArray:
    """Values whose inputs are in any order of groups; some rows at a time."""
    values = np.empty(codes.shape, np.float32)
    step = max(1, CHUNK_CODES // max(1, codes.shape[1]))
    for start in range(0, len(codes), step):
        some = slice(start, start + step)
        np.subtract(codes[some], zeros[some][:, groups], out=values[some])
        values[some] *= scales[some][:, groups]
    return values


def _four_bit_floats(packed: NDArray[np.uint8], scales: FloatArray) -> FloatArray:
    """E2M1 codes times the scale of their group; the first of two codes is in the low nibble."""
    rows, half = packed.shape
    values = np.empty((rows, half, 2), np.float32)
    values[:, :, 0] = E2M1[packed & 15]
    values[:, :, 1] = E2M1[packed >> 4]
    grouped = values.reshape(*scales.shape, -1)
    grouped *= scales[:, :, None]
    return grouped.reshape(rows, 2 * half)


def _nvfp4_scales(arrays: Arrays) -> FloatArray:
    scales: FloatArray = arrays["weight_scale"].astype(np.float32)
    scales /= arrays["weight_global_scale"][0]
    return scales


def _mxfp4_scales(arrays: Arrays) -> FloatArray:
    """2^(exponent - 127); 255 is NaN."""
    exponents = arrays["weight_scale"].astype(np.int32)
    powers: FloatArray = np.ldexp(np.float32(1), np.minimum(exponents, 254) - 127).astype(np.float32)
    powers[exponents == 255] = np.nan
    return powers


# OCP Microscaling Formats (MX) Specification 1.0, section 5.3
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
SCALES_OF_FLOATS: Mapping[str, Callable[[Arrays], FloatArray]] = {
    "nvfp4-pack-quantized": _nvfp4_scales,
    "mxfp4-pack-quantized": _mxfp4_scales,
}
ORDERS = {"gptq": "g_idx", "gptq_v2": "g_idx", "pack-quantized": "weight_g_idx"}  # where groups may be in any order
SCALES = {"fp8": "weight_scale_inv", "float-quantized": "weight_scale"}


def _stream(words: NDArray[Any], bits: int, count: int) -> NDArray[np.int16]:
    """The first `count` codes of each row of words, a little-endian stream of bits: (rows, words) to (rows, count)."""
    codes = np.empty((len(words), count), np.int16)
    step = max(1, CHUNK_CODES // max(1, count))
    for start in range(0, len(words), step):
        raw = np.ascontiguousarray(words[start : start + step]).view(np.uint8)
        single = np.unpackbits(raw, axis=1, count=count * bits, bitorder="little").reshape(len(raw), count, bits)
        chunk = codes[start : start + step]
        chunk[:] = single[:, :, 0]
        for bit in range(1, bits):
            chunk |= single[:, :, bit].astype(np.int16) << bit
    return codes


def _gptq_codes(weight: StoredWeight, arrays: Arrays) -> tuple[NDArray[np.int16], NDArray[np.int16], FloatArray]:
    outputs, inputs = weight.shape
    codes = _stream(arrays["qweight"].T, weight.bits, inputs)
    zeros = _stream(arrays["qzeros"], weight.bits, outputs).T
    if weight.format == "gptq":
        zeros = zeros + np.int16(1)
    return codes, zeros, arrays["scales"].T.astype(np.float32)


def _awq_codes(weight: StoredWeight, arrays: Arrays) -> tuple[NDArray[np.int16], NDArray[np.int16], FloatArray]:
    return _awq_outputs(arrays["qweight"]), _awq_outputs(arrays["qzeros"]), arrays["scales"].T.astype(np.float32)


def _awq_outputs(words: NDArray[Any]) -> NDArray[np.int16]:
    """(n, out / 8) words to (out, n) codes."""
    nibbles = _stream(words, 4, 8 * words.shape[1]).reshape(len(words), -1, 8)[:, :, AWQ_PLACES]
    return np.ascontiguousarray(nibbles.reshape(len(words), -1).T)


def _pack_quantized_codes(
    weight: StoredWeight, arrays: Arrays
) -> tuple[NDArray[np.int16], NDArray[np.int16], FloatArray]:
    rows, cols = weight.shape
    if arrays["weight_shape"].tolist() != [rows, cols]:
        raise SourceRejected(
            f"{weight.parts['weight_shape'].name} is {arrays['weight_shape'].tolist()}, not {[rows, cols]}"
        )
    scales = arrays["weight_scale"].astype(np.float32)
    zeros = np.full(scales.shape, 1 << (weight.bits - 1), np.int16)
    if not weight.symmetric:
        zeros = _stream(arrays["weight_zero_point"].T, weight.bits, rows).T
    return _stream(arrays["weight_packed"], weight.bits, cols), zeros, scales


CODES: Mapping[str, Callable[[StoredWeight, Arrays], tuple[NDArray[np.int16], NDArray[np.int16], FloatArray]]] = {
    "gptq": _gptq_codes,
    "gptq_v2": _gptq_codes,
    "awq": _awq_codes,
    "pack-quantized": _pack_quantized_codes,
}
