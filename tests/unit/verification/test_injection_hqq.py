"""Real hqq folders in both formats, damaged in one way each: verification refuses each by the check, and names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.verification.folders import (
    OF_THE_MODEL,
    QC,
    Array,
    Damage,
    Damages,
    Folder,
    Made,
    damage_is_refused,
    damaged_shards_are_refused,
    drop,
    extremes,
    other_files_are_refused,
    set_key,
    shuffled,
    store_unquantized,
    swap,
)

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.verification import verify
from quantmill_hqq.plugin import HQQ


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("small")
    model = SyntheticLlama(hidden=128, ffn=256, blocks=2, vocab=301, tied=True)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Untied, in float32, rows that few groups divide."""
    folder = tmp_path_factory.mktemp("odd")
    model = SyntheticLlama(hidden=80, ffn=96, heads=2, kv_heads=1, blocks=3, vocab=301, dtype="F32", seed=2)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder)


# Clean ones

PACKED: Mapping[str, Any] = {"format": "compressed-tensors"}
SETTINGS: list[Mapping[str, Any]] = [
    *({"nbits": nbits} for nbits in (1, 2, 3, 4, 5, 6, 8)),
    *({"nbits": nbits, "axis": 0} for nbits in (1, 3, 4)),
    {"nbits": 4, "group_size": 8},
    {"nbits": 4, "group_size": -1},
    {"nbits": 3, "group_size": -1, "axis": 0},
    {"nbits": 4, "round_zero": True, "compute_dtype": "float16"},
    {"nbits": 4, "overrides": {"*.down_proj": {"nbits": 8, "group_size": 32}}, "skip_modules": ["lm_head", "*.o_proj"]},
    PACKED,
    {**PACKED, "nbits": 8, "group_size": 32},
    {**PACKED, "group_size": -1},
    {**PACKED, "overrides": {"*.down_proj": {"nbits": 8, "group_size": 32}}},
]
ON_ODD_ROWS: list[Mapping[str, Any]] = [
    {"nbits": 3, "group_size": 16},
    {"nbits": 8, "group_size": 8, "axis": 0},
    {**PACKED, "group_size": 16},
    {**PACKED, "group_size": -1},
]
CLEAN = [*((params, "small") for params in SETTINGS), *((params, "odd") for params in ON_ODD_ROWS)]


@pytest.mark.parametrize(("params", "model"), CLEAN)
def test_a_clean_artifact_passes(request: pytest.FixtureRequest, params: Mapping[str, Any], model: str) -> None:
    made = request.getfixturevalue(model)

    assert made.failed_checks(HQQ, params, made.artifact(HQQ, params)) == {}


@pytest.mark.parametrize("params", [{}, PACKED])
def test_every_check_stands_in_the_documentation(small: Made, params: Mapping[str, Any]) -> None:
    run, page = small.run(HQQ, params), Path(__file__).parents[3] / "docs" / "verification.md"
    checked = verify(small.checkpoint, run.plan, HQQ, run.params, small.artifact(HQQ, params)).checks

    assert [check.name for check in checked if f"| `{check.name}` |" not in page.read_text()] == []


# The damages

damage = Damages()

UP, UP1 = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj.weight"  # 256 x 128
O0_MODULE, O0 = "model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.o_proj.weight"  # 128 x 128
K0, K1 = "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.k_proj"
NORM = "model.norm.weight"
WORDS, SCALES, ZEROS = f"{UP}.weight_packed", f"{UP}.weight_scale", f"{UP}.weight_zero_point"
CODES, SCALE, ZERO = f"{UP}.W_q", f"{UP}.scale", f"{UP}.zero"  # 256 x 64 bytes of two codes; 512 groups
GROUPS = 512


def parts(folder: Folder, module: str) -> list[str]:
    """All arrays of a quantized weight."""
    return [name for name in folder.arrays if name.startswith(f"{module}.")]


def times(values: np.ndarray, factor: float) -> np.ndarray:
    return (values.astype(np.float32) * np.float32(factor)).astype(values.dtype)


def four_bit_codes(packed: np.ndarray) -> np.ndarray:
    """The codes of bytes whose first half of the groups is in the high nibbles."""
    return np.concatenate([packed >> 4, packed & 15])


def text(value: str) -> np.ndarray:
    return np.frombuffer(value.encode(), np.uint8)


# Values in hqq's own format


@damage(HQQ, "schemes", f"{UP1}: stored as BF16, planned as HQQ4-64")
def a_layer_is_not_quantized(folder: Folder) -> None:
    store_unquantized(folder, UP1, *parts(folder, UP))


@damage(HQQ, "schemes", f"{UP1}: stored as BF16, planned as HQQ4-64")
def a_layer_is_stored_as_it_is_beside_its_codes(folder: Folder) -> None:
    store_unquantized(folder, UP1)


@damage(HQQ, "error_bounds", UP1)
def the_nibbles_are_in_the_wrong_order(folder: Folder) -> None:
    folder[CODES] = (folder[CODES] >> 4) | (folder[CODES] << 4)


@damage(HQQ, "error_bounds", UP1)
def neighbouring_groups_share_bytes(folder: Folder) -> None:
    codes = four_bit_codes(folder[CODES])
    folder[CODES] = (codes[0::2] << 4) | codes[1::2]


@damage(HQQ, "error_bounds", UP1)
def neighbouring_codes_share_bytes(folder: Folder) -> None:
    codes = four_bit_codes(folder[CODES]).reshape(-1)
    folder[CODES] = ((codes[0::2] << 4) | codes[1::2]).reshape(256, 64)


@damage(HQQ, "block_bounds", f"{UP1}: row ")
def the_nibbles_of_two_groups_are_in_the_wrong_order(folder: Folder) -> None:
    folder[CODES][7] = (folder[CODES][7] >> 4) | (folder[CODES][7] << 4)


@damage(HQQ, "error_bounds", O0)
def the_codes_of_a_square_weight_are_transposed(folder: Folder) -> None:
    codes = four_bit_codes(folder[f"{O0_MODULE}.W_q"]).reshape(128, 128).T.reshape(256, 64)
    folder[f"{O0_MODULE}.W_q"] = (codes[:128] << 4) | codes[128:]


@damage(HQQ, "error_bounds", UP1)
def the_rows_of_codes_are_shuffled(folder: Folder) -> None:
    folder[CODES] = shuffled(folder[CODES])


@damage(HQQ, "block_bounds", f"{UP1}: row 1")
def two_rows_are_swapped(folder: Folder) -> None:
    for name in (CODES, SCALE, ZERO):
        rows = folder[name].reshape(-1, 2, folder[name].shape[-1])
        swap(rows, 10, 11)


@damage(HQQ, "block_bounds", UP1)
def all_codes_are_one_too_high(folder: Folder) -> None:
    codes = np.minimum(four_bit_codes(folder[CODES]) + 1, 15)
    folder[CODES] = (codes[:256] << 4) | codes[256:]


@damage(HQQ, "block_bounds", UP1)
def the_scales_of_two_groups_are_swapped(folder: Folder) -> None:
    swap(folder[SCALE], *extremes(folder[SCALE][:, 0].astype(np.float32)))


@damage(HQQ, "error_bounds", UP1)
def the_scales_move_on_by_one_group(folder: Folder) -> None:
    folder[SCALE] = np.roll(folder[SCALE], 1, axis=0)


@damage(HQQ, "error_bounds", UP1)
def the_scales_are_inverted(folder: Folder) -> None:
    folder[SCALE] = (1 / folder[SCALE].astype(np.float32)).astype(folder[SCALE].dtype)


@damage(HQQ, "error_bounds", UP1)
def all_scales_are_a_fifth_too_large(folder: Folder) -> None:
    folder[SCALE] = times(folder[SCALE], 1.2)


@damage(HQQ, "slopes", f"{UP1}: the source times 1.07")
def all_scales_are_a_little_too_large(folder: Folder) -> None:
    folder[SCALE] = times(folder[SCALE], 1.08)


@damage(HQQ, "slopes", f"{UP1}: the source times 0.85")
def all_scales_are_a_seventh_too_small(folder: Folder) -> None:
    folder[SCALE] = times(folder[SCALE], 6 / 7)


@damage(HQQ, "error_bounds", UP1, nbits=8)
def all_scales_of_8_bits_are_a_twentieth_too_large(folder: Folder) -> None:
    folder[SCALE] = times(folder[SCALE], 1.05)


@damage(HQQ, "block_bounds", f"{UP1}: row 3, values 64 to 127")
def the_scale_of_a_group_is_twice_too_large(folder: Folder) -> None:
    folder[SCALE][7] *= 2


@damage(HQQ, "block_bounds", f"{UP1}: row 3, values 64 to 127")
def the_scale_of_a_group_is_negative(folder: Folder) -> None:
    folder[SCALE][7] *= -1


@damage(HQQ, "block_bounds", f"{UP1}: row 3, values 64 to 127")
def the_scale_of_a_group_is_zero(folder: Folder) -> None:
    folder[SCALE][7] = 0


@damage(HQQ, "finite", f"{UP1}: 64 of 32768 values are NaN or infinite")
def the_scale_of_a_group_is_nan(folder: Folder) -> None:
    folder[SCALE][7] = np.nan


@damage(HQQ, "finite", f"{UP1}: 64 of 32768 values are NaN or infinite")
def the_zero_of_a_group_is_infinite(folder: Folder) -> None:
    folder[ZERO][7] = np.inf


@damage(HQQ, "block_bounds", UP1)
def all_zeros_are_one_too_low(folder: Folder) -> None:
    folder[ZERO] = (folder[ZERO].astype(np.float32) - 1).astype(folder[ZERO].dtype)


@damage(HQQ, "block_bounds", f"{UP1}: row 3, values 64 to 127")
def the_zero_of_a_group_is_one_too_high(folder: Folder) -> None:
    folder[ZERO][7] += 1


@damage(HQQ, "block_bounds", UP1)
def the_zeros_of_two_groups_are_swapped(folder: Folder) -> None:
    swap(folder[ZERO], *extremes(folder[ZERO][:, 0].astype(np.float32)))


@damage(HQQ, "error_bounds", UP1)
def the_zeros_are_multiplied_by_their_scales(folder: Folder) -> None:
    folder[ZERO] = (folder[ZERO].astype(np.float32) * folder[SCALE].astype(np.float32)).astype(folder[ZERO].dtype)


@damage(HQQ, "error_bounds", UP1)
def scales_and_zeros_change_places(folder: Folder) -> None:
    folder[SCALE], folder[ZERO] = folder[ZERO], folder[SCALE]


@damage(HQQ, "error_bounds", UP1, nbits=2)
def the_pairs_of_bits_are_in_the_wrong_order(folder: Folder) -> None:
    words = folder[CODES]
    folder[CODES] = (words >> 6) | ((words >> 2) & 0x0C) | ((words << 2) & 0x30) | (words << 6)


@damage(HQQ, "error_bounds", UP1, nbits=3)
def the_codes_of_3_bits_begin_with_the_lowest(folder: Folder) -> None:
    words = folder[CODES]
    fields = [((words >> shift) & 7) << (27 - shift) for shift in range(0, 30, 3)]
    folder[CODES] = np.bitwise_or.reduce(fields)


@damage(HQQ, "error_bounds", UP1, nbits=1)
def the_bits_are_in_the_wrong_order(folder: Folder) -> None:
    folder[CODES] = np.packbits(np.unpackbits(folder[CODES][..., None], axis=-1, bitorder="little"), axis=-1)[..., 0]


@damage(HQQ, "error_bounds", UP1, axis=0)
def groups_along_columns_are_shuffled(folder: Folder) -> None:
    folder[SCALE], folder[ZERO] = shuffled(folder[SCALE][0])[None], shuffled(folder[ZERO][0])[None]


@damage(HQQ, "error_bounds", f"{K0}.weight")
def two_weights_of_one_shape_are_swapped(folder: Folder) -> None:
    for one, other in zip(parts(folder, K0), parts(folder, K1), strict=True):
        folder.arrays[one], folder.arrays[other] = folder.arrays[other], folder.arrays[one]


@damage(HQQ, "error_bounds", NORM)
def a_norm_is_off_by_one_bit(folder: Folder) -> None:
    folder[NORM].view("<u2")[0] ^= 1


# The inventory and its labels in hqq's own format


@damage(HQQ, "tensors_present", f"{UP1}: not stored")
def a_tensor_is_dropped(folder: Folder) -> None:
    drop(folder, *parts(folder, UP))


@damage(HQQ, "tensors_present", f"{UP1}: not stored")
def the_codes_are_dropped(folder: Folder) -> None:
    drop(folder, CODES)


@damage(HQQ, "readable", f"{UP1} is not whole: scale")
def the_scales_are_dropped(folder: Folder) -> None:
    drop(folder, SCALE)


@damage(HQQ, "readable", f"{UP1} is not whole: zero")
def the_zeros_are_dropped(folder: Folder) -> None:
    drop(folder, ZERO)


@damage(HQQ, "readable", f"{UP1} is not whole: compute_dtype")
def a_part_that_transformers_asks_for_is_dropped(folder: Folder) -> None:
    drop(folder, f"{UP}.compute_dtype")


@damage(HQQ, "nothing_else", "model.layers.0.self_attn.q_proj.bias: not planned")
def a_bias_is_added(folder: Folder) -> None:
    folder.arrays["model.layers.0.self_attn.q_proj.bias"] = Array("F32", [128], np.zeros(128, np.float32))


@damage(HQQ, "nothing_else", f"{UP}.zero_scale: not planned")
def a_scale_of_the_zeros_is_added(folder: Folder) -> None:
    folder[f"{UP}.zero_scale"] = np.ones(512, np.uint8)


@damage(HQQ, "readable", "W_q")
def the_codes_have_another_dtype(folder: Folder) -> None:
    folder.arrays[CODES].dtype = "I8"


@damage(HQQ, "metadata", f"{SCALE}: 'torch.float16' instead of 'torch.bfloat16'")
def scales_in_bfloat16_are_labelled_as_float16(folder: Folder) -> None:
    folder.arrays[SCALE].dtype = "F16"


@damage(HQQ, "stored_bytes", UP1)
def the_scales_are_in_float32(folder: Folder) -> None:
    folder.arrays[SCALE] = Array("F32", [GROUPS, 1], folder[SCALE].astype(np.float32))


@damage(HQQ, "readable", "scale (1, 512)")
def the_scales_lie_in_a_row(folder: Folder) -> None:
    folder[SCALE] = folder[SCALE].reshape(1, GROUPS)


@damage(HQQ, "shapes", f"{UP1}: float32 [128, 256] instead of float32 [256, 128]")
def the_shape_is_turned(folder: Folder) -> None:
    folder[f"{UP}.shape"][:] = 128, 256


STALE_PARTS: dict[str, tuple[np.ndarray, str, str]] = {
    "nbits": (np.array(3, np.int32), "readable", "packing '4bit_u8' for 3 bits"),
    "group_size": (np.array(128, np.int32), "readable", "W_q"),
    "axis": (np.array(0, np.int32), "readable", "W_q"),
    "packing": (text("8bit_u8"), "readable", "packing '8bit_u8' for 4 bits"),
    "unpack_view_dtype": (text("torch.uint4"), "readable", "unpack_view_dtype 'torch.uint4' for 4 bits"),
    "compute_dtype": (text("torch.float16"), "metadata", f"{UP}.compute_dtype: 'torch.float16'"),
    "quant_zero": (np.array(1, np.uint8), "metadata", f"{UP}.quant_zero: 1 instead of 0"),
    "quant_scale": (np.array(1, np.uint8), "metadata", f"{UP}.quant_scale: 1 instead of 0"),
    "view_as_float": (np.array(1, np.uint8), "metadata", f"{UP}.view_as_float: 1 instead of 0"),
    "round_zero": (np.array(1, np.uint8), "metadata", f"{UP}.round_zero: 1 instead of 0"),
    "channel_wise": (np.array(0, np.uint8), "metadata", f"{UP}.channel_wise: 0 instead of 1"),
}


def stale(part: str, value: np.ndarray) -> Damage:
    return lambda folder: folder.__setitem__(f"{UP}.{part}", value)


for part, (value, check, named) in STALE_PARTS.items():
    damage.rows[f"hqq a stale {part}"] = (HQQ, {}, stale(part, value), check, named)


# Values in compressed-tensors' format: words of eight codes, the first in the lowest bits


@damage(HQQ, "schemes", f"{UP1}: stored as BF16, planned as INT4-64-ASYM", **PACKED)
def a_packed_layer_is_not_quantized(folder: Folder) -> None:
    store_unquantized(folder, UP1, *parts(folder, UP))


@damage(HQQ, "error_bounds", UP1, **PACKED)
def the_nibbles_of_words_are_in_the_wrong_order(folder: Folder) -> None:
    octets = folder[WORDS].view(np.uint8)
    folder[WORDS] = ((octets >> 4) | (octets << 4)).view(np.int32)


@damage(HQQ, "error_bounds", UP1, **PACKED)
def the_words_are_big_endian(folder: Folder) -> None:
    folder[WORDS] = folder[WORDS].byteswap()


@damage(HQQ, "error_bounds", UP1, **PACKED)
def the_rows_of_words_are_shuffled(folder: Folder) -> None:
    folder[WORDS] = shuffled(folder[WORDS])


@damage(HQQ, "error_bounds", O0, **PACKED)
def the_words_of_a_square_weight_are_transposed(folder: Folder) -> None:
    octets = folder[f"{O0_MODULE}.weight_packed"].view(np.uint8)
    codes = np.stack([octets & 15, octets >> 4], axis=2).reshape(128, 128).T
    folder[f"{O0_MODULE}.weight_packed"] = np.ascontiguousarray(codes[:, 0::2] | (codes[:, 1::2] << 4)).view(np.int32)


@damage(HQQ, "block_bounds", UP1, **PACKED)
def all_zero_points_are_one_too_low(folder: Folder) -> None:
    octets = folder[ZEROS].view(np.uint8)
    low, high = np.maximum(octets & 15, 1) - 1, np.maximum(octets >> 4, 1) - 1
    folder[ZEROS] = (low | (high << 4)).view(np.int32)


@damage(HQQ, "block_bounds", UP1, **PACKED)
def zero_points_are_packed_along_groups(folder: Folder) -> None:
    octets = np.ascontiguousarray(folder[ZEROS].T).view(np.uint8)  # (groups, 128), two outputs each
    zeros = np.stack([octets & 15, octets >> 4], axis=2).reshape(2, 256).T.reshape(-1)
    folder[ZEROS] = (zeros[0::2] | (zeros[1::2] << 4)).view(np.int32).reshape(32, 2)


@damage(HQQ, "block_bounds", UP1, **PACKED)
def the_packed_scales_of_two_groups_are_swapped(folder: Folder) -> None:
    flat = folder[SCALES].reshape(-1)
    swap(flat, *extremes(flat.astype(np.float32)))


@damage(HQQ, "finite", f"{UP1}: 64 of 32768 values are NaN or infinite", **PACKED)
def a_packed_scale_is_nan(folder: Folder) -> None:
    folder[SCALES][7, 1] = np.nan


@damage(HQQ, "error_bounds", UP1, **PACKED)
def all_packed_scales_are_a_fifth_too_large(folder: Folder) -> None:
    folder[SCALES] = times(folder[SCALES], 1.2)


@damage(HQQ, "readable", f"{UP1} is not whole: weight_zero_point", **PACKED)
def the_zero_points_are_dropped(folder: Folder) -> None:
    drop(folder, ZEROS)


@damage(HQQ, "readable", f"{UP}", **PACKED)
def the_zero_points_have_another_dtype(folder: Folder) -> None:
    folder.arrays[ZEROS].dtype = "F32"


@damage(HQQ, "stored_arrays", f"{SCALES}: 'F16' instead of 'BF16'", **PACKED)
def the_packed_scales_are_in_another_dtype(folder: Folder) -> None:
    folder.arrays[SCALES] = Array("F16", [256, 2], folder[SCALES].astype(np.float16))


@damage(HQQ, "readable", f"{UP}", **PACKED)
def the_packed_shape_is_turned(folder: Folder) -> None:
    folder[f"{UP}.weight_shape"][:] = 128, 256


@damage(HQQ, "nothing_else", f"{UP}.weight_g_idx: not planned", **PACKED)
def an_order_of_groups_is_added(folder: Folder) -> None:
    folder.arrays[f"{UP}.weight_g_idx"] = Array("I32", [128], np.zeros(128, np.int32))


# Settings

WEIGHTS = f"{QC}.quant_config.weight_quant_params"
GROUP = f"{QC}.config_groups.group_0"
STALE: dict[str, tuple[Mapping[str, Any], Damage, str, str]] = {
    "bits": ({}, set_key(f"{WEIGHTS}.nbits", 8), QC, "weight_quant_params.nbits: 8 instead of 4"),
    "group_size": ({}, set_key(f"{WEIGHTS}.group_size", 128), QC, "weight_quant_params.group_size: 128 instead of 64"),
    "axis": ({}, set_key(f"{WEIGHTS}.axis", 0), QC, "weight_quant_params.axis: 0 instead of 1"),
    "round_zero": ({}, set_key(f"{WEIGHTS}.round_zero", True), QC, "weight_quant_params.round_zero: True"),
    "view": ({}, set_key(f"{WEIGHTS}.view_as_float", True), QC, "weight_quant_params.view_as_float: True"),
    "zero_quant": ({}, set_key(f"{QC}.quant_config.zero_quant_params", {"nbits": 8}), QC, "zero_quant_params"),
    "offload": ({}, set_key(f"{QC}.quant_config.offload_meta", True), QC, "offload_meta: True instead of False"),
    "empty list": ({}, set_key(f"{QC}.skip_modules", []), "kept_modules", "lm_head"),
    "longer list": ({}, lambda f: f.config[QC]["skip_modules"].append(UP), "kept_modules", f"{UP}: True"),
    "packed bits": (PACKED, set_key(f"{GROUP}.weights.num_bits", 8), "config_groups", "num_bits: 8 instead of 4"),
    "packed groups": (PACKED, set_key(f"{GROUP}.weights.group_size", 32), "config_groups", "group_size: 32 instead of"),
    "symmetry": (PACKED, set_key(f"{GROUP}.weights.symmetric", True), "config_groups", "symmetric: True instead of"),
    "strategy": (PACKED, set_key(f"{GROUP}.weights.strategy", "channel"), "config_groups", "strategy: 'channel'"),
    "type": (PACKED, set_key(f"{GROUP}.weights.type", "float"), "config_groups", "type: 'float' instead of 'int'"),
    "order": (PACKED, set_key(f"{GROUP}.weights.actorder", "group"), "config_groups", "actorder: 'group' instead of"),
    "activations": (
        PACKED,
        set_key(f"{GROUP}.input_activations", {"num_bits": 8}),
        "config_groups",
        "input_activations",
    ),
    "targets": (PACKED, set_key(f"{GROUP}.targets", [UP]), "config_groups", "down_proj: groups: 0 instead of 1"),
    "format": (PACKED, set_key(f"{QC}.format", "int-quantized"), QC, "format: 'int-quantized' instead of"),
    "group's format": (PACKED, set_key(f"{GROUP}.format", "int-quantized"), "config_groups", "format: 'int-quantized'"),
    "cache": (PACKED, set_key(f"{QC}.kv_cache_scheme", {"num_bits": 8}), QC, "kv_cache_scheme"),
    "transform": (PACKED, set_key(f"{QC}.transform_config", {"u": {}}), QC, "transform_config"),
    "sparsity": (PACKED, set_key(f"{QC}.sparsity_config", {"format": "dense"}), QC, "sparsity_config"),
    "ignored": (PACKED, set_key(f"{QC}.ignore", []), "kept_modules", "lm_head"),
}
damage.rows.update({f"hqq stale settings: {name}": (HQQ, *rest) for name, rest in STALE.items()})
damage.rows.update({f"hqq {name}": (HQQ, {}, *rest) for name, rest in OF_THE_MODEL.items()})


test_a_damaged_folder_is_refused_by_the_check_that_names_it = damage_is_refused(damage, "small")
test_a_folder_with_other_files_is_refused = other_files_are_refused("small", {}, HQQ)
test_damaged_shards_are_refused = damaged_shards_are_refused("small", 120_000, HQQ)
