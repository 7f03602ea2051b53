"""Real awq folders in each format, damaged in one way each: verification refuses each by the check, and names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.awq.given import quantized
from tests.unit.verification.folders import (
    OF_THE_MODEL,
    QC,
    Array,
    Damage,
    Damages,
    Folder,
    Made,
    damage_is_refused,
    drop,
    extremes,
    other_files_are_refused,
    relabel,
    set_key,
    shuffled,
    store_unquantized,
    swap,
)

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.verification import verify
from quantmill_awq.plugin import AWQ


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("small")
    model = SyntheticLlama(hidden=128, ffn=256, kv_heads=4, blocks=2, vocab=301, tied=True)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder, quantized)


# Clean ones

GEMM: Mapping[str, Any] = {"n_grid": 4}
PACKED: Mapping[str, Any] = {"n_grid": 4, "format": "compressed-tensors"}
SKIPPED: Mapping[str, Any] = {**GEMM, "skip_modules": ["*.o_proj", "*.0.mlp.gate_proj"]}
CLEAN: list[Mapping[str, Any]] = [
    *({**GEMM, "group_size": size} for size in (32, 64, 128, -1)),
    *({**PACKED, "bits": bits, "zero_point": zero} for bits in (3, 4, 8) for zero in (True, False)),
    {**PACKED, "bits": 3, "group_size": -1},
    {**GEMM, "clip": False, "duo_scaling": False},
    SKIPPED,
]


@pytest.mark.parametrize("params", CLEAN)
def test_a_clean_artifact_passes(small: Made, params: Mapping[str, Any]) -> None:
    assert small.failed_checks(AWQ, params, small.artifact(AWQ, params)) == {}


@pytest.mark.parametrize("params", [GEMM, PACKED])
def test_every_check_stands_in_the_documentation(small: Made, params: Mapping[str, Any]) -> None:
    run, page = small.run(AWQ, params), Path(__file__).parents[3] / "docs" / "verification.md"
    checked = verify(small.checkpoint, run.plan, AWQ, run.params, small.artifact(AWQ, params)).checks

    assert [check.name for check in checked if f"| `{check.name}` |" not in page.read_text()] == []


# The damages

damage = Damages()

BLOCK = "model.layers.1"
UP, UP1 = f"{BLOCK}.mlp.up_proj", f"{BLOCK}.mlp.up_proj.weight"  # 256 x 128
DOWN1 = f"{BLOCK}.mlp.down_proj.weight"
GATE1 = f"{BLOCK}.mlp.gate_proj.weight"
Q1, K1, V1 = (f"{BLOCK}.self_attn.{name}_proj.weight" for name in "qkv")
K0_MODULE, K1_MODULE = "model.layers.0.self_attn.k_proj", f"{BLOCK}.self_attn.k_proj"
INPUT_NORM, MLP_NORM = f"{BLOCK}.input_layernorm.weight", f"{BLOCK}.post_attention_layernorm.weight"
QWEIGHT, QZEROS, SCALES = f"{UP}.qweight", f"{UP}.qzeros", f"{UP}.scales"
WORDS, SCALE, ZEROS = f"{UP}.weight_packed", f"{UP}.weight_scale", f"{UP}.weight_zero_point"


def times(values: np.ndarray, factor: Any) -> np.ndarray:
    return (values.astype(np.float32) * np.asarray(factor, np.float32)).astype(values.dtype)


def nibbles(words: np.ndarray) -> np.ndarray:
    """4-bit fields (rows, words, 8) of int32 (rows, words), from the lowest bits."""
    return np.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], axis=-1)


def words_of(fields: np.ndarray) -> np.ndarray:
    fields = fields.astype(np.uint32)
    return np.bitwise_or.reduce([fields[..., i] << np.uint32(4 * i) for i in range(8)]).view(np.int32)


def ones_again(folder: Folder, module: str) -> None:
    """A weight whose columns have not been multiplied: the source's, in the codes of its own ranges."""
    source = np.asarray(folder.checkpoint.tensor(f"{module}.weight").values, np.float32)
    groups = source.reshape(len(source), -1, 128)
    low, high = groups.min(axis=2), groups.max(axis=2)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 15)
    codes = np.clip(np.rint(groups / scale[:, :, None]) + zero[:, :, None], 0, 15).reshape(source.shape)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    folder[f"{module}.qweight"] = words_of(codes.T.reshape(source.shape[1], -1, 8)[:, :, order])
    folder[f"{module}.qzeros"] = words_of(zero.T.reshape(scale.shape[1], -1, 8)[:, :, order])
    folder[f"{module}.scales"] = np.ascontiguousarray(scale.T).astype(np.float16)


def parts(folder: Folder, module: str) -> list[str]:
    return [name for name in folder.arrays if name.startswith(f"{module}.")]


def source_of(folder: Folder, name: str) -> np.ndarray:
    return np.array(folder.checkpoint.tensor(name).values)


# Folds


@damage(AWQ, "folds", f"{Q1}: its columns are", **GEMM)
def a_norm_is_not_divided(folder: Folder) -> None:
    folder[INPUT_NORM] = source_of(folder, INPUT_NORM)


@damage(AWQ, "folds", f"of what {INPUT_NORM} was divided by", **GEMM)
def a_norm_is_multiplied(folder: Folder) -> None:
    source = source_of(folder, INPUT_NORM).astype(np.float32)
    folder[INPUT_NORM] = times(folder[INPUT_NORM], (source / folder[INPUT_NORM].astype(np.float32)) ** 2)


@damage(AWQ, "folds", f"{INPUT_NORM}: channel 5 was divided by -", **GEMM)
def a_channel_of_a_norm_has_another_sign(folder: Folder) -> None:
    folder[INPUT_NORM][5] *= -1


@damage(AWQ, "folds", f"{INPUT_NORM}: channel 5 was divided by inf", **GEMM)
def a_channel_of_a_norm_is_zero(folder: Folder) -> None:
    folder[INPUT_NORM][5] = 0


@damage(AWQ, "folds", f"{INPUT_NORM}: channel 0 was divided by", **GEMM)
def a_norm_is_divided_by_a_million(folder: Folder) -> None:
    folder[INPUT_NORM] = times(folder[INPUT_NORM], 1e-6)


@damage(AWQ, "finite", f"{INPUT_NORM}: 1 of 128 values are NaN", **GEMM)
def a_channel_of_a_norm_is_nan(folder: Folder) -> None:
    folder[INPUT_NORM][5] = np.nan


@damage(AWQ, "folds", Q1, **GEMM)
def the_scales_of_a_norm_are_shuffled(folder: Folder) -> None:
    source = source_of(folder, INPUT_NORM).astype(np.float32)
    folder[INPUT_NORM] = times(source, shuffled(folder[INPUT_NORM].astype(np.float32) / source)).astype(
        folder[INPUT_NORM].dtype
    )


@damage(AWQ, "folds", f"{UP1}: its columns", **GEMM)
def two_norms_are_swapped(folder: Folder) -> None:
    folder.arrays[INPUT_NORM], folder.arrays[MLP_NORM] = folder.arrays[MLP_NORM], folder.arrays[INPUT_NORM]


@damage(AWQ, "folds", f"{K1}: its columns have", **GEMM)
def one_consumer_is_not_multiplied(folder: Folder) -> None:
    ones_again(folder, K1_MODULE)


@damage(AWQ, "folds", f"{DOWN1}: its columns have", **GEMM)
def down_is_not_multiplied_by_what_up_was_divided_by(folder: Folder) -> None:
    ones_again(folder, f"{BLOCK}.mlp.down_proj")


@damage(AWQ, "folds", f"of what {UP1} was divided by", **GEMM)
def up_is_divided_twice(folder: Folder) -> None:
    read = {each.name: each.values for each in AWQ.read.load()(folder.path, {UP1, MLP_NORM})}
    columns = source_of(folder, MLP_NORM).astype(np.float32) / read[MLP_NORM]
    source = source_of(folder, UP1).astype(np.float32) * columns
    rows = (read[UP1] * source).sum(axis=1) / np.square(source).sum(axis=1)
    folder[SCALES] = times(folder[SCALES], rows)


@damage(AWQ, "folds", f"{UP1}: channel 7 was divided by -", **GEMM)
def a_row_of_up_has_another_sign(folder: Folder) -> None:
    folder[SCALES][:, 7] *= -1


# Values in the GEMM layout: words of eight outputs, in the order 0, 2, 4, 6, 1, 3, 5, 7


@damage(AWQ, "schemes", f"{UP1}: stored as BF16, planned as INT4-g128-asym", **GEMM)
def a_layer_is_not_quantized(folder: Folder) -> None:
    store_unquantized(folder, UP1, *parts(folder, UP))


@damage(AWQ, "readable", f"{UP1} is stored beside the quantized arrays", **GEMM)
def a_layer_is_stored_as_it_is_beside_its_codes(folder: Folder) -> None:
    store_unquantized(folder, UP1)


@damage(AWQ, "error_bounds", UP1, **GEMM)
def the_outputs_of_a_word_are_in_their_natural_order(folder: Folder) -> None:
    folder[QWEIGHT] = words_of(nibbles(folder[QWEIGHT])[..., [0, 4, 1, 5, 2, 6, 3, 7]])


@damage(AWQ, "error_bounds", UP1, **GEMM)
def the_halves_of_bytes_are_swapped(folder: Folder) -> None:
    folder[QWEIGHT] = words_of(nibbles(folder[QWEIGHT])[..., [1, 0, 3, 2, 5, 4, 7, 6]])


@damage(AWQ, "error_bounds", UP1, **GEMM)
def the_words_are_big_endian(folder: Folder) -> None:
    folder[QWEIGHT] = folder[QWEIGHT].byteswap()


@damage(AWQ, "error_bounds", UP1, **GEMM)
def the_inputs_are_shuffled(folder: Folder) -> None:
    folder[QWEIGHT] = shuffled(folder[QWEIGHT])


@damage(AWQ, "readable", "do not fit qweight", **GEMM)
def the_words_are_turned(folder: Folder) -> None:
    folder[QWEIGHT] = np.ascontiguousarray(folder[QWEIGHT].T)


@damage(AWQ, "block_bounds", UP1, **GEMM)
def all_codes_are_two_too_high(folder: Folder) -> None:
    folder[QWEIGHT] = words_of(np.minimum(nibbles(folder[QWEIGHT]) + 2, 15))


@damage(AWQ, "block_bounds", UP1, **GEMM)
def all_zero_points_are_one_too_low(folder: Folder) -> None:
    """What a reader of GPTQ's first version would compute."""
    folder[QZEROS] = words_of(np.maximum(nibbles(folder[QZEROS]) - 1, 0))


@damage(AWQ, "block_bounds", UP1, **GEMM)
def the_zero_points_are_in_their_natural_order(folder: Folder) -> None:
    folder[QZEROS] = words_of(nibbles(folder[QZEROS])[..., [0, 4, 1, 5, 2, 6, 3, 7]])


@damage(AWQ, "block_bounds", f"{GATE1}: row ", **GEMM)
def the_scales_of_two_outputs_are_swapped(folder: Folder) -> None:
    scales = folder[f"{BLOCK}.mlp.gate_proj.scales"]
    swap(scales[0], *extremes(scales[0].astype(np.float32)))


@damage(AWQ, "error_bounds", GATE1, **GEMM)
def all_scales_are_two_fifths_too_large(folder: Folder) -> None:
    name = f"{BLOCK}.mlp.gate_proj.scales"
    folder[name] = times(folder[name], 1.4)


@damage(AWQ, "block_bounds", f"{GATE1}: row 7,", **GEMM)
def the_scale_of_an_output_is_zero(folder: Folder) -> None:
    folder[f"{BLOCK}.mlp.gate_proj.scales"][0, 7] = 0


@damage(AWQ, "finite", f"{UP1}: 128 of 32768 values are NaN or infinite", **GEMM)
def the_scale_of_a_group_is_nan(folder: Folder) -> None:
    folder[SCALES][0, 7] = np.nan


@damage(AWQ, "error_bounds", K1, **GEMM)
def two_weights_of_one_shape_are_swapped(folder: Folder) -> None:
    for one, other in zip(parts(folder, K0_MODULE), parts(folder, K1_MODULE), strict=True):
        folder.arrays[one], folder.arrays[other] = folder.arrays[other], folder.arrays[one]


@damage(AWQ, "error_bounds", "model.norm.weight", **GEMM)
def a_norm_of_no_fold_is_off_by_one_bit(folder: Folder) -> None:
    folder["model.norm.weight"].view("<u2")[0] ^= 1


# The inventory


@damage(AWQ, "tensors_present", f"{UP1}: not stored", **GEMM)
def a_tensor_is_dropped(folder: Folder) -> None:
    drop(folder, *parts(folder, UP))


@damage(AWQ, "readable", "scales must be", **GEMM)
def the_scales_are_dropped(folder: Folder) -> None:
    drop(folder, SCALES)


@damage(AWQ, "readable", "qzeros must be", **GEMM)
def the_zero_points_are_dropped(folder: Folder) -> None:
    drop(folder, QZEROS)


@damage(AWQ, "tensors_present", f"{UP1}: not stored", **GEMM)
def the_codes_have_the_name_of_another_layout(folder: Folder) -> None:
    relabel(folder, QWEIGHT, f"{UP}.qweight_packed")


@damage(AWQ, "nothing_else", f"{UP}.bias: not planned", **GEMM)
def a_bias_is_added(folder: Folder) -> None:
    folder.arrays[f"{UP}.bias"] = Array("F16", [256], np.zeros(256, np.float16))


@damage(AWQ, "readable", "g_idx is stored beside", **GEMM)
def an_order_of_groups_is_added(folder: Folder) -> None:
    folder.arrays[f"{UP}.g_idx"] = Array("I32", [128], np.zeros(128, np.int32))


@damage(AWQ, "stored_arrays", f"{SCALES}: 'F32' instead of 'F16'", **GEMM)
def the_scales_are_in_float32(folder: Folder) -> None:
    folder.arrays[SCALES] = Array("F32", [1, 256], folder[SCALES].astype(np.float32))


# compressed-tensors


@damage(AWQ, "error_bounds", UP1, **PACKED)
def the_rows_of_words_are_shuffled(folder: Folder) -> None:
    folder[WORDS] = shuffled(folder[WORDS])


@damage(AWQ, "error_bounds", UP1, **PACKED)
def the_packed_codes_are_signed(folder: Folder) -> None:
    folder[WORDS] = (folder[WORDS].view(np.uint32) ^ np.uint32(0x88888888)).view(np.int32)


@damage(AWQ, "readable", "weight_shape is [128, 256]", **PACKED)
def the_packed_shape_is_turned(folder: Folder) -> None:
    folder[f"{UP}.weight_shape"][:] = 128, 256


@damage(AWQ, "error_bounds", UP1, **PACKED)
def the_packed_zero_points_are_shuffled(folder: Folder) -> None:
    folder[ZEROS] = shuffled(folder[ZEROS])


@damage(AWQ, "stored_arrays", f"{SCALE}: 'F16' instead of 'BF16'", **PACKED)
def the_packed_scales_are_in_another_dtype(folder: Folder) -> None:
    folder.arrays[SCALE] = Array("F16", [256, 1], folder[SCALE].astype(np.float16))


@damage(AWQ, "folds", f"{V1}: its columns are", **PACKED)
def a_norm_beside_packed_weights_is_not_divided(folder: Folder) -> None:
    folder[INPUT_NORM] = source_of(folder, INPUT_NORM)


# Settings

GROUP = f"{QC}.config_groups.group_0"
STALE: dict[str, tuple[Mapping[str, Any], Damage, str, str]] = {
    "bits": (GEMM, set_key(f"{QC}.bits", 8), "readable", "bits is 8"),
    "group_size": (GEMM, set_key(f"{QC}.group_size", 32), "readable", "config.json says 32"),
    "whole rows": ({**GEMM, "group_size": 64}, set_key(f"{QC}.group_size", -1), "readable", "config.json says -1"),
    "zero_point": (GEMM, set_key(f"{QC}.zero_point", False), QC, "zero_point: False instead of True"),
    "version": (GEMM, set_key(f"{QC}.version", "gemv"), "readable", "version is 'gemv'"),
    "no version": (GEMM, set_key(f"{QC}.version", None), QC, "version: nothing instead of 'gemm'"),
    "fewer kept": (SKIPPED, set_key(f"{QC}.modules_to_not_convert", []), "kept_modules", "False instead of True"),
    "more kept": (GEMM, lambda f: f.config[QC]["modules_to_not_convert"].append(UP), "kept_modules", f"{UP}: True"),
    "fewer excluded": (SKIPPED, set_key(f"{QC}.dynamic", {}), "dynamic", "False instead of True"),
    "more excluded": (GEMM, set_key(f"{QC}.dynamic", {f"-:^{UP}$": {}}), "dynamic", f"{UP}: True instead of False"),
    "other bits for one": (GEMM, set_key(f"{QC}.dynamic", {f"+:^{UP}$": {"bits": 8}}), "dynamic", "'bits': 8"),
    "packed bits": (PACKED, set_key(f"{GROUP}.weights.num_bits", 8), "readable", "zero points do not fit"),
    "packed groups": (PACKED, set_key(f"{GROUP}.weights.group_size", 32), "readable", "config.json says 32"),
    "symmetry": (PACKED, set_key(f"{GROUP}.weights.symmetric", True), "readable", "weight_zero_point is stored beside"),
    "targets": (PACKED, set_key(f"{GROUP}.targets", [UP]), QC, "targets: "),
    "activations": (PACKED, set_key(f"{GROUP}.input_activations", {"num_bits": 8}), QC, "input_activations: "),
    "ignored": (PACKED, set_key(f"{QC}.ignore", []), "kept_modules", "lm_head"),
    "format": (PACKED, set_key(f"{QC}.format", "int-quantized"), QC, "format: 'int-quantized' instead of"),
}
damage.rows.update({f"awq stale settings: {name}": (AWQ, *rest) for name, rest in STALE.items()})
damage.rows.update(
    {
        f"awq {name}": (AWQ, GEMM, *rest)
        for name, rest in OF_THE_MODEL.items()
        if rest[1] != QC and name != "stale heads"
    }
)


test_a_damaged_folder_is_refused_by_the_check_that_names_it = damage_is_refused(damage, "small")
test_a_folder_with_other_files_is_refused = other_files_are_refused("small", GEMM, AWQ)
