"""Repacked folders, damaged in one way each: verification refuses each by the check, and names the fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.repack.conftest import awq, gptq, write_quantized
from tests.unit.repack.nvfp4_files import in_nvfp4
from tests.unit.verification.folders import (
    OF_THE_MODEL,
    QC,
    Array,
    Damage,
    Damages,
    Folder,
    Made,
    assert_refused,
    damage_is_refused,
    drop,
    other_files_are_refused,
    set_key,
    shuffled,
    store_unquantized,
    swap,
)

from quantmill.checkpoints import open_checkpoint
from quantmill_repack.plugin import REPACK

PACKED: Mapping[str, Any] = {"to": "pack-quantized"}
GPTQ: Mapping[str, Any] = {"to": "gptq"}
UP, UP1 = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj.weight"  # 384 x 256 in groups of 64
WORDS, SCALE, ZEROS = f"{UP}.weight_packed", f"{UP}.weight_scale", f"{UP}.weight_zero_point"
damage = Damages()


@pytest.fixture(scope="module")
def symmetric(unquantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A checkpoint of GPTQ's second version."""
    folder = tmp_path_factory.mktemp("symmetric")
    write_quantized(unquantized, folder / "source", gptq(4, version="gptq_v2"))
    with open_checkpoint(folder / "source") as checkpoint:
        yield Made(checkpoint, folder / "made")


@damage(REPACK, "schemes", f"{UP1}: stored as F16, planned as W4", **PACKED)
def a_layer_is_not_quantized(folder: Folder) -> None:
    store_unquantized(folder, UP1, WORDS, SCALE, f"{UP}.weight_shape")
    folder[UP1] = folder[UP1].astype(np.float16)
    folder.arrays[UP1].dtype = "F16"


@damage(REPACK, "error_bounds", UP1, **PACKED)
def one_code_is_off_by_one(folder: Folder) -> None:
    folder[WORDS][3, 5] ^= 1


@damage(REPACK, "error_bounds", UP1, **PACKED)
def a_scale_is_off_by_one_bit(folder: Folder) -> None:
    folder[SCALE].view("<u2")[3, 1] ^= 1


@damage(REPACK, "error_bounds", UP1, **PACKED)
def all_scales_are_a_thousandth_too_large(folder: Folder) -> None:
    folder[SCALE] = (folder[SCALE].astype(np.float32) * np.float32(1.001)).astype(folder[SCALE].dtype)


@damage(REPACK, "finite", f"{UP1}: 64 of 98304 values are NaN or infinite", **PACKED)
def a_scale_is_nan(folder: Folder) -> None:
    folder[SCALE][3, 1] = np.nan


@damage(REPACK, "error_bounds", UP1, **PACKED)
def two_rows_are_swapped(folder: Folder) -> None:
    swap(folder[WORDS], 10, 11)


@damage(REPACK, "error_bounds", UP1, **PACKED)
def the_rows_are_shuffled(folder: Folder) -> None:
    folder[WORDS] = shuffled(folder[WORDS])


@damage(REPACK, "error_bounds", UP1, **PACKED)
def the_nibbles_are_in_the_wrong_order(folder: Folder) -> None:
    octets = folder[WORDS].view(np.uint8)
    folder[WORDS] = ((octets >> 4) | (octets << 4)).view(np.int32)


@damage(REPACK, "tensors_present", f"{UP1}: not stored", **PACKED)
def a_tensor_is_dropped(folder: Folder) -> None:
    drop(folder, WORDS, SCALE, f"{UP}.weight_shape")


@damage(REPACK, "tensors_present", f"{UP1}: not stored", **PACKED)
def the_scales_are_dropped(folder: Folder) -> None:
    drop(folder, SCALE)


@damage(REPACK, "nothing_else", f"{UP}.bias: not planned", **PACKED)
def a_bias_is_added(folder: Folder) -> None:
    folder.arrays[f"{UP}.bias"] = Array("F16", [384], np.zeros(384, np.float16))


@damage(REPACK, "error_bounds", UP1, **GPTQ)
def the_zero_points_are_stored_as_version_two_has_them(folder: Folder) -> None:
    folder[f"{UP}.qzeros"] = np.full_like(folder[f"{UP}.qzeros"], -0x77777778)


@damage(REPACK, "error_bounds", f"{UP}", **GPTQ)
def the_groups_of_inputs_are_shuffled(folder: Folder) -> None:
    folder[f"{UP}.g_idx"] = shuffled(folder[f"{UP}.g_idx"])


@damage(REPACK, "error_bounds", UP1, **GPTQ)
def the_words_of_inputs_are_shuffled(folder: Folder) -> None:
    folder[f"{UP}.qweight"] = shuffled(folder[f"{UP}.qweight"])


GROUP = f"{QC}.config_groups.group_0"
STALE: dict[str, tuple[Mapping[str, Any], Damage, str, str]] = {
    "packed groups": (PACKED, set_key(f"{GROUP}.weights.group_size", 32), QC, "group_size"),
    "packed bits": (PACKED, set_key(f"{GROUP}.weights.num_bits", 8), QC, "bits"),
    "symmetry": (PACKED, set_key(f"{GROUP}.weights.symmetric", False), "readable", "weight_zero_point"),
    "order": (PACKED, set_key(f"{GROUP}.weights.actorder", "group"), QC, "actorder: 'group' instead of nothing"),
    "activations": (PACKED, set_key(f"{GROUP}.input_activations", {"num_bits": 8}), QC, "input_activations"),
    "a second group": (PACKED, set_key(f"{QC}.config_groups.group_1", {}), "readable", "must hold one group"),
    "targets": (PACKED, set_key(f"{GROUP}.targets", ["Embedding"]), QC, "targets: \"['Embedding']\" instead"),
    "format": (PACKED, set_key(f"{GROUP}.format", "int-quantized"), QC, "the group's format: 'int-quantized'"),
    "cache": (PACKED, set_key(f"{QC}.kv_cache_scheme", {"num_bits": 8}), QC, "kv_cache_scheme"),
    "transform": (PACKED, set_key(f"{QC}.transform_config", {"u": {}}), QC, "transform_config"),
    "sparsity": (PACKED, set_key(f"{QC}.sparsity_config", {"format": "dense"}), QC, "sparsity_config"),
    "ignored": (PACKED, set_key(f"{QC}.ignore", []), "kept_modules", "lm_head"),
    "gptq's order": (GPTQ, set_key(f"{QC}.desc_act", True), QC, "desc_act: True instead of False"),
    "gptq's version": (GPTQ, set_key(f"{QC}.checkpoint_format", "gptq_v2"), QC, "checkpoint_format: 'gptq_v2'"),
    "gptq's excluded": (GPTQ, set_key(f"{QC}.dynamic", {f"-:^{UP}$": {}}), "dynamic", f"{UP}: True instead of False"),
    "gptq's own bits": (GPTQ, set_key(f"{QC}.dynamic", {f"+:^{UP}$": {"bits": 8}}), "dynamic", "'bits': 8"),
    "gptq's quantized": (GPTQ, set_key(f"{QC}.modules_in_block_to_quantize", [[]]), "modules_in_block_to_quantize", UP),
    "gptq's groups": (GPTQ, set_key(f"{QC}.group_size", 128), QC, "group_size of"),
}
damage.rows.update({f"repack stale settings: {name}": (REPACK, *rest) for name, rest in STALE.items()})
damage.rows.update(
    {f"repack {name}": (REPACK, PACKED, *rest) for name, rest in OF_THE_MODEL.items() if "forgotten" not in name}
)


test_a_damaged_folder_is_refused_by_the_check_that_names_it = damage_is_refused(damage, "symmetric")


def test_zero_points_of_awq_that_are_one_off_are_refused(quantized, tmp_path: Path) -> None:
    with open_checkpoint(quantized(awq())[0]) as checkpoint:
        made = Made(checkpoint, tmp_path / "made")
        folder = made.copy(REPACK, PACKED, tmp_path / "artifact")
        folder[ZEROS][0, 0] ^= 1
        folder.save()

        found = made.failed_checks(REPACK, PACKED, folder.path)

    assert_refused(found, "error_bounds", UP1)


FOUR: Mapping[str, Any] = {"to": "nvfp4-pack-quantized"}
of_floats = Damages()


@of_floats(REPACK, "error_bounds", UP1, **FOUR)
def a_code_of_nvfp4_is_off_by_one(folder: Folder) -> None:
    folder[WORDS][3, 5] ^= 1


@of_floats(REPACK, "error_bounds", UP1, **FOUR)
def its_nibbles_are_in_the_wrong_order(folder: Folder) -> None:
    folder[WORDS] = (folder[WORDS] >> 4) | (folder[WORDS] << 4)


@of_floats(REPACK, "error_bounds", UP1, **FOUR)
def its_scale_is_off_by_one_bit(folder: Folder) -> None:
    folder[SCALE][3, 1] ^= 1


@of_floats(REPACK, "error_bounds", UP1, **FOUR)
def its_global_scale_is_off_by_one_bit(folder: Folder) -> None:
    folder[f"{UP}.weight_global_scale"].view(np.uint32)[0] ^= 1


@of_floats(REPACK, "finite", UP1, **FOUR)
def its_scale_is_nan(folder: Folder) -> None:
    folder[SCALE][3, 1] = 0x7F


@of_floats(REPACK, "readable", "weight_global_scale", **FOUR)
def its_global_scale_is_dropped(folder: Folder) -> None:
    drop(folder, f"{UP}.weight_global_scale")


OF_FLOATS: dict[str, tuple[Damage, str, str]] = {
    "groups": (set_key(f"{GROUP}.weights.group_size", 8), "readable", "only NVFP4 and MXFP4 are known"),
    "strategy": (set_key(f"{GROUP}.weights.strategy", "group"), QC, "weights.strategy: 'group'"),
    "dtype of scales": (set_key(f"{GROUP}.weights.scale_dtype", None), QC, "weights.scale_dtype: nothing"),
    "activations": (set_key(f"{GROUP}.input_activations", {"num_bits": 4}), QC, "input_activations"),
    "format": (set_key(f"{QC}.format", "mxfp4-pack-quantized"), QC, "format: 'mxfp4-pack-quantized'"),
    "ignored": (set_key(f"{QC}.ignore", []), "kept_modules", "lm_head"),
}
of_floats.rows.update({f"nvfp4 stale settings: {name}": (REPACK, FOUR, *rest) for name, rest in OF_FLOATS.items()})


@pytest.fixture(scope="module")
def floats(unquantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A checkpoint in NVFP4A16, as a GGUF file becomes one."""
    folder = tmp_path_factory.mktemp("floats")
    with open_checkpoint(in_nvfp4(unquantized, folder / "nvfp4")) as checkpoint:
        yield Made(checkpoint, folder / "made")


test_a_damaged_folder_in_nvfp4_is_refused_by_the_check_that_names_it = damage_is_refused(of_floats, "floats")
test_a_folder_with_other_files_is_refused = other_files_are_refused("symmetric", PACKED, REPACK)
