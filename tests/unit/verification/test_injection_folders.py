"""Real bnb and fp8 folders, damaged in one way each: verification refuses each by the check, and names the fault."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import ml_dtypes
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
    relabel,
    set_key,
    shuffled,
    store_unquantized,
    swap,
)

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import Method
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.verification import verify
from quantmill_bnb.plugin import BNB
from quantmill_fp8.params import SchemeName
from quantmill_fp8.plugin import FP8

MILLSTONE = Path(__file__).parents[2] / "data" / "millstone-4m"


@pytest.fixture(scope="module")
def millstone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Trained weights."""
    with open_checkpoint(MILLSTONE) as checkpoint:
        yield Made(checkpoint, tmp_path_factory.mktemp("millstone"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Random, of millstone's shapes but with fewer blocks and tokens: what the damages are done to."""
    folder = tmp_path_factory.mktemp("plain")
    model = SyntheticLlama(hidden=256, ffn=768, blocks=2, vocab=320, tied=True)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Random, untied, in float32, rows that only the formats without blocks along them go with."""
    folder = tmp_path_factory.mktemp("odd")
    model = SyntheticLlama(hidden=80, ffn=96, heads=2, kv_heads=1, blocks=3, vocab=301, dtype="F32", seed=2)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder)


# Clean ones

BNB_SETTINGS: list[Mapping[str, Any]] = [
    *({"quant_type": "nf4", "block_size": size} for size in (32, 64, 512, 4096)),
    {"quant_type": "fp4"},
    *({"quant_type": type_, "double_quant": False} for type_ in ("nf4", "fp4")),
    *({"quant_type": "nf4", "quant_storage": storage} for storage in ("bfloat16", "float16", "float32")),
    {"quant_type": "int8"},
    {"quant_type": "nf4", "skip_modules": ["lm_head", "*.down_proj"], "compute_dtype": "float16"},
]
FP8_SETTINGS: list[Mapping[str, Any]] = [
    *({"scheme": scheme} for scheme in get_args(SchemeName)),
    {"scheme": "FP8_DYNAMIC", "skip_modules": ["lm_head", "*.down_proj"]},
    {"scheme": "FP8", "strategy": "tensor"},
]
ON_ODD_ROWS = ({"scheme": "FP8_DYNAMIC"}, {"scheme": "FP8A16"}, {"scheme": "NVFP4A16"})
CLEAN = [
    *((BNB, params, model) for params in BNB_SETTINGS for model in ("millstone", "odd")),
    *((FP8, params, "millstone") for params in FP8_SETTINGS),
    *((FP8, params, "odd") for params in ON_ODD_ROWS),
]


@pytest.mark.parametrize(("method", "params", "model"), CLEAN)
def test_a_clean_artifact_passes(
    request: pytest.FixtureRequest, method: Method, params: Mapping[str, Any], model: str
) -> None:
    made = request.getfixturevalue(model)

    assert made.failed_checks(method, params, made.artifact(method, params)) == {}


@pytest.mark.parametrize(("method", "params"), [(BNB, {}), (FP8, {"scheme": "NVFP4A16"}), (FP8, {"scheme": "FP8"})])
def test_every_check_stands_in_the_documentation(plain: Made, method: Method, params: Mapping[str, Any]) -> None:
    run, page = plain.run(method, params), Path(__file__).parents[3] / "docs" / "verification.md"
    checked = verify(plain.checkpoint, run.plan, method, run.params, plain.artifact(method, params)).checks

    assert [check.name for check in checked if f"| `{check.name}` |" not in page.read_text()] == []


def test_taking_a_folder_apart_and_putting_it_together_changes_no_array(plain: Made, tmp_path: Path) -> None:
    folder = plain.copy(BNB, {}, tmp_path / "artifact")
    folder.save()

    assert plain.failed_checks(BNB, {}, folder.path) == {}


# The damages

damage = Damages()

UP1, UP1_MODULE = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj"  # 768 x 256
O0, O0_MODULE = "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.o_proj"  # 256 x 256
K0, K1 = "model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight"
NORM = "model.norm.weight"
UP1_SCALE = f"{UP1_MODULE}.weight_scale"
UP1_INPUTS = f"{UP1_MODULE}.input_scale"


def change_state(folder: Folder, weight: str, **changed: Any) -> None:
    """Change the JSON of a bnb weight's quantization state, keeping its bytes' number."""
    (name,) = (each for each in folder.arrays if each.startswith(f"{weight}.quant_state"))
    old = folder[name].tobytes()
    text = json.dumps(json.loads(old) | changed).ljust(len(old)).encode()
    folder[name] = np.frombuffer(text, np.uint8)


def parts(folder: Folder, weight: str) -> list[str]:
    """All arrays of a weight, in either method's folder."""
    module = weight.removesuffix(".weight")
    return [name for name in folder.arrays if name.startswith((f"{module}.weight", f"{module}.SCB"))]


def exchange(folder: Folder, a: str, b: str) -> None:
    """All arrays of two weights of one shape."""
    for one, other in zip(parts(folder, a), parts(folder, b), strict=True):
        folder.arrays[one], folder.arrays[other] = folder.arrays[other], folder.arrays[one]


def leave_unquantized(folder: Folder) -> None:
    store_unquantized(folder, UP1, *parts(folder, UP1))


# bnb: values


@damage(BNB, "schemes", f"{UP1}: stored as BF16, planned as NF4-64-DQ")
def a_layer_is_not_quantized(folder: Folder) -> None:
    leave_unquantized(folder)


@damage(BNB, "stored_arrays", f"{UP1}: 'BF16 [192, 256]' instead of 'U8 [98304, 1]'")
def source_bytes_stand_under_the_label_of_codes(folder: Folder) -> None:
    values = np.array(folder.checkpoint.tensor(UP1).values[:192])
    folder.arrays[UP1] = Array("BF16", list(values.shape), values)


@damage(BNB, "error_bounds", UP1)
def the_nibbles_are_in_the_wrong_order(folder: Folder) -> None:
    folder[UP1] = (folder[UP1] >> 4) | (folder[UP1] << 4)


@damage(BNB, "block_bounds", f"{UP1}: row 1, values 64 to 127")
def the_nibbles_of_one_block_are_in_the_wrong_order(folder: Folder) -> None:
    block = folder[UP1][160:192]
    block[:] = (block >> 4) | (block << 4)


@damage(BNB, "error_bounds", UP1)
def the_packed_codes_are_transposed(folder: Folder) -> None:
    folder[UP1] = np.ascontiguousarray(folder[UP1].reshape(768, 128).T).reshape(-1, 1)


@damage(BNB, "error_bounds", UP1)
def the_rows_are_shuffled(folder: Folder) -> None:
    folder[UP1] = shuffled(folder[UP1].reshape(768, 128)).reshape(-1, 1)


@damage(BNB, "block_bounds", f"{UP1}: row 10")
def two_rows_are_swapped(folder: Folder) -> None:
    swap(folder[UP1].reshape(768, 128), 100, 101)
    swap(folder[f"{UP1}.absmax"].reshape(768, 4), 100, 101)


@damage(BNB, "error_bounds", UP1)
def all_codes_are_one_too_high(folder: Folder) -> None:
    low, high = np.minimum((folder[UP1] & 15) + 1, 15), np.minimum((folder[UP1] >> 4) + 1, 15)
    folder[UP1] = low | (high << 4)


@damage(BNB, "block_bounds", UP1)
def the_scales_of_two_blocks_are_swapped(folder: Folder) -> None:
    swap(folder[f"{UP1}.absmax"], *extremes(folder[f"{UP1}.absmax"]))


@damage(BNB, "block_bounds", UP1)
def all_scales_move_on_by_one(folder: Folder) -> None:
    folder[f"{UP1}.absmax"] = np.roll(folder[f"{UP1}.absmax"], 1)


@damage(BNB, "error_bounds", UP1)
def the_offset_of_the_nested_absmax_is_lost(folder: Folder) -> None:
    change_state(folder, UP1, nested_offset=0.0)


@damage(BNB, "block_bounds", UP1)
def a_nested_scale_is_twice_too_large(folder: Folder) -> None:
    folder[f"{UP1}.nested_absmax"][3] *= 2


@damage(BNB, "finite", f"{UP1}: 16384 of 196608 values are NaN or infinite")
def a_nested_scale_is_nan(folder: Folder) -> None:
    folder[f"{UP1}.nested_absmax"][3] = np.nan


@damage(BNB, "error_bounds", UP1)
def the_nested_table_is_turned_round(folder: Folder) -> None:
    folder[f"{UP1}.nested_quant_map"] = folder[f"{UP1}.nested_quant_map"][::-1].copy()


@damage(BNB, "quant_maps", f"wrong entries of {UP1}.nested_quant_map: 1 instead of 0")
def an_entry_of_the_nested_table_is_off(folder: Folder) -> None:
    folder[f"{UP1}.nested_quant_map"][200] *= 1.001


@damage(BNB, "quant_maps", f"wrong entries of {UP1}.quant_map: 1 instead of 0")
def an_entry_of_the_table_is_off(folder: Folder) -> None:
    folder[f"{UP1}.quant_map"][3] *= 1.001


@damage(BNB, "error_bounds", UP1)
def the_table_is_that_of_fp4(folder: Folder) -> None:
    half = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
    folder[f"{UP1}.quant_map"] = np.concatenate([half, -half])


@damage(BNB, "finite", f"{UP1}: 64 of 196608 values are NaN or infinite", double_quant=False)
def a_scale_is_nan(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] = np.nan


@damage(BNB, "finite", f"{UP1}: 64 of 196608 values are NaN or infinite", double_quant=False)
def a_scale_is_infinite(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] = np.inf


@damage(BNB, "block_bounds", f"{UP1}: row 25, values 0 to 63", double_quant=False)
def a_scale_is_twice_too_large(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] *= 2


@damage(BNB, "block_bounds", f"{UP1}: row 25, values 0 to 63", double_quant=False)
def a_scale_is_negative(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] *= -1


@damage(BNB, "slopes", f"{UP1}: the source times 1.07", double_quant=False)
def all_scales_are_a_little_too_large(folder: Folder) -> None:
    folder[f"{UP1}.absmax"] *= np.float32(1.08)


@damage(BNB, "error_bounds", UP1, double_quant=False)
def all_scales_are_a_fifth_too_large(folder: Folder) -> None:
    folder[f"{UP1}.absmax"] *= np.float32(1.2)


@damage(BNB, "block_bounds", UP1, quant_type="int8")
def the_scales_of_two_rows_of_int8_are_swapped(folder: Folder) -> None:
    swap(folder[f"{UP1_MODULE}.SCB"], *extremes(folder[f"{UP1_MODULE}.SCB"]))


@damage(BNB, "error_bounds", UP1, quant_type="int8")
def the_scales_of_int8_are_steps_and_not_absmax(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.SCB"] /= np.float32(127)


@damage(BNB, "error_bounds", O0, quant_type="int8")
def a_square_int8_weight_is_transposed(folder: Folder) -> None:
    folder[O0] = np.ascontiguousarray(folder[O0].T)


@damage(BNB, "block_bounds", UP1, quant_type="int8")
def the_zero_point_of_int8_is_off_by_one(folder: Folder) -> None:
    folder[UP1] = np.minimum(folder[UP1], 126) + np.int8(1)


@damage(BNB, "finite", f"{UP1}: 256 of 196608 values are NaN or infinite", quant_type="int8")
def a_scale_of_int8_is_nan(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.SCB"][7] = np.nan


@damage(BNB, "readable", "weight_format is 1", quant_type="int8")
def int8_is_said_to_be_in_columns(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_format"][...] = 1


# bnb: the inventory and its labels


@damage(BNB, "tensors_present", f"{UP1}: not stored")
def a_tensor_is_dropped(folder: Folder) -> None:
    drop(folder, *parts(folder, UP1))


@damage(BNB, "nothing_else", "model.layers.0.self_attn.q_proj.bias: not planned")
def a_tensor_is_added(folder: Folder) -> None:
    folder.arrays["model.layers.0.self_attn.q_proj.bias"] = Array("F32", [256], np.zeros(256, np.float32))


@damage(BNB, "readable", f"{UP1}.absmax")
def the_scales_are_dropped(folder: Folder) -> None:
    drop(folder, f"{UP1}.absmax")


@damage(BNB, "readable", f"{UP1}.nested_absmax")
def the_nested_scales_are_dropped(folder: Folder) -> None:
    drop(folder, f"{UP1}.nested_absmax")


@damage(BNB, "schemes", f"{UP1}: stored as U8, planned as NF4-64-DQ")
def the_state_is_dropped(folder: Folder) -> None:
    drop(folder, f"{UP1}.quant_state.bitsandbytes__nf4")


@damage(BNB, "readable", "2 quantization states")
def there_are_two_states(folder: Folder) -> None:
    folder[f"{UP1}.quant_state.bitsandbytes__fp4"] = folder[f"{UP1}.quant_state.bitsandbytes__nf4"]


@damage(BNB, "schemes", f"{UP1}: stored as FP4-64-DQ, planned as NF4-64-DQ")
def nf4_is_labelled_as_fp4(folder: Folder) -> None:
    change_state(folder, UP1, quant_type="fp4")
    relabel(folder, f"{UP1}.quant_state.bitsandbytes__nf4", f"{UP1}.quant_state.bitsandbytes__fp4")


@damage(BNB, "readable", UP1)
def the_state_has_another_block_size(folder: Folder) -> None:
    change_state(folder, UP1, blocksize=128)


@damage(BNB, "shapes", f"{UP1}: float32 [256, 768] instead of float32 [768, 256]")
def the_shape_in_the_state_is_turned(folder: Folder) -> None:
    change_state(folder, UP1, shape=[256, 768])


@damage(BNB, "quant_states", f"{UP1}.quant_state.bitsandbytes__nf4: ")
def the_state_has_another_dtype(folder: Folder) -> None:
    change_state(folder, UP1, dtype="float16")


@damage(BNB, "readable", "cannot be read")
def the_state_is_no_json(folder: Folder) -> None:
    folder[f"{UP1}.quant_state.bitsandbytes__nf4"][0] = ord("[")


@damage(BNB, "stored_arrays", f"{UP1}: 'I8 [98304, 1]' instead of 'U8 [98304, 1]'")
def the_codes_have_another_dtype(folder: Folder) -> None:
    folder.arrays[UP1].dtype = "I8"


@damage(BNB, "stored_arrays", f"{UP1}: 'U8 [1, 98304]' instead of 'U8 [98304, 1]'")
def the_codes_lie_in_a_row(folder: Folder) -> None:
    folder.arrays[UP1].shape = [1, 98304]


@damage(BNB, "error_bounds", K0)
def two_weights_of_one_shape_are_swapped(folder: Folder) -> None:
    exchange(folder, K0, K1)


@damage(BNB, "error_bounds", NORM)
def a_norm_is_off_by_one_bit(folder: Folder) -> None:
    folder[NORM].view("<u2")[0] ^= 1


# fp8: values


@damage(FP8, "schemes", f"{UP1}: stored as BF16, planned as FP8")
def a_weight_is_not_quantized(folder: Folder) -> None:
    leave_unquantized(folder)


@damage(FP8, "block_bounds", UP1)
def the_scales_of_two_rows_are_swapped(folder: Folder) -> None:
    swap(folder[UP1_SCALE], *extremes(folder[UP1_SCALE][:, 0].astype(np.float32)))


@damage(FP8, "error_bounds", UP1)
def the_scales_move_on_by_one_row(folder: Folder) -> None:
    folder[UP1_SCALE] = np.roll(folder[UP1_SCALE], 1, axis=0)


@damage(FP8, "slopes", f"{UP1}: the source times 1.0")
def the_scales_are_a_little_too_large(folder: Folder) -> None:
    folder[UP1_SCALE] = (folder[UP1_SCALE].astype(np.float32) * np.float32(1.07)).astype(ml_dtypes.bfloat16)


@damage(FP8, "error_bounds", UP1)
def the_scales_are_a_tenth_too_large(folder: Folder) -> None:
    folder[UP1_SCALE] = (folder[UP1_SCALE].astype(np.float32) * np.float32(1.1)).astype(ml_dtypes.bfloat16)


@damage(FP8, "block_bounds", f"{UP1}: row 7,")
def the_scale_of_one_row_is_twice_too_large(folder: Folder) -> None:
    folder[UP1_SCALE][7] *= 2


@damage(FP8, "error_bounds", UP1)
def the_scales_are_inverted(folder: Folder) -> None:
    folder[UP1_SCALE] = (1 / folder[UP1_SCALE].astype(np.float32)).astype(ml_dtypes.bfloat16)


@damage(FP8, "finite", f"{UP1}: 256 of 196608 values are NaN or infinite")
def the_scale_of_a_row_is_nan(folder: Folder) -> None:
    folder[UP1_SCALE][7] = np.nan


@damage(FP8, "finite", f"{UP1}: 1 of 196608 values are NaN or infinite")
def a_code_is_nan(folder: Folder) -> None:
    folder[UP1][3, 5] = 0x7F


@damage(FP8, "block_bounds", f"{UP1}: row 7,")
def the_scale_of_a_row_is_zero(folder: Folder) -> None:
    folder[UP1_SCALE][7] = 0


@damage(FP8, "error_bounds", UP1)
def the_rows_of_codes_are_shuffled(folder: Folder) -> None:
    folder[UP1] = shuffled(folder[UP1])


@damage(FP8, "error_bounds", O0)
def the_codes_of_a_square_weight_are_transposed(folder: Folder) -> None:
    folder[O0] = np.ascontiguousarray(folder[O0].T)


@damage(FP8, "block_bounds", f"{UP1}: row 7,")
def the_signs_of_a_row_are_flipped(folder: Folder) -> None:
    folder[UP1][7] ^= 0x80


@damage(FP8, "stored_arrays", f"{UP1}: 'F8_E5M2 [768, 256]' instead of 'F8_E4M3 [768, 256]'")
def the_codes_are_labelled_as_e5m2(folder: Folder) -> None:
    folder.arrays[UP1].dtype = "F8_E5M2"


@damage(FP8, "readable", "weights of float8_e4m3fnuz")
def the_codes_are_labelled_as_another_e4m3(folder: Folder) -> None:
    folder.arrays[UP1].dtype = "F8_E4M3FNUZ"


@damage(FP8, "error_bounds", O0, scheme="FP8_BLOCK")
def the_scales_of_blocks_are_transposed(folder: Folder) -> None:
    scale = folder[f"{O0_MODULE}.weight_scale"]
    scale *= np.array([[1, 1.5], [1, 1]], np.float32).astype(scale.dtype)
    folder[f"{O0_MODULE}.weight_scale"] = np.ascontiguousarray(scale.T)


@damage(FP8, "block_bounds", UP1, scheme="FP8_NATIVE")
def the_scale_of_a_block_is_twice_too_large(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_scale_inv"][2, 1] *= 2


@damage(FP8, "error_bounds", UP1, scheme="NVFP4A16")
def the_nibbles_of_nvfp4_are_in_the_wrong_order(folder: Folder) -> None:
    packed = folder[f"{UP1_MODULE}.weight_packed"]
    folder[f"{UP1_MODULE}.weight_packed"] = (packed >> 4) | (packed << 4)


@damage(FP8, "error_bounds", UP1, scheme="NVFP4A16")
def the_scale_of_the_whole_tensor_is_halved(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_global_scale"] /= 2


@damage(FP8, "error_bounds", UP1, scheme="NVFP4A16")
def the_scale_of_the_whole_tensor_is_inverted(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_global_scale"] **= -1


@damage(FP8, "finite", UP1, scheme="NVFP4A16")
def the_scale_of_the_whole_tensor_is_nan(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_global_scale"][0] = np.nan


@damage(FP8, "shared_scales", f"{UP1_MODULE}.weight_global_scale: ", scheme="NVFP4A16")
def fused_modules_have_scales_of_their_own(folder: Folder) -> None:
    codes = folder[UP1_SCALE].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    folder[UP1_SCALE] = (codes / 2).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    folder[f"{UP1_MODULE}.weight_global_scale"] /= 2


@damage(FP8, "block_bounds", UP1, scheme="NVFP4A16")
def the_scales_of_two_groups_are_swapped(folder: Folder) -> None:
    scale = folder[UP1_SCALE].reshape(-1)
    swap(scale, *extremes(scale))


@damage(FP8, "error_bounds", UP1, scheme="MXFP4A16")
def the_exponents_are_one_too_high(folder: Folder) -> None:
    folder[UP1_SCALE] += 1


@damage(FP8, "finite", f"{UP1}: 32 of 196608 values are NaN or infinite", scheme="MXFP4A16")
def an_exponent_is_nan(folder: Folder) -> None:
    folder[UP1_SCALE][7, 3] = 255


@damage(FP8, "block_bounds", f"{UP1}: row 7, values 96 to 127", scheme="MXFP8")
def an_exponent_of_mxfp8_is_one_too_high(folder: Folder) -> None:
    folder[UP1_SCALE][7, 3] += 1


@damage(FP8, "error_bounds", UP1, scheme="MXFP8")
def the_exponents_of_mxfp8_are_shuffled(folder: Folder) -> None:
    folder[UP1_SCALE] = shuffled(folder[UP1_SCALE])


@damage(FP8, "input_scales", f"{UP1_INPUTS}: '[nan]' instead of 'positive'", scheme="FP8")
def the_scale_of_the_inputs_is_nan(folder: Folder) -> None:
    folder[UP1_INPUTS][0] = np.nan


@damage(FP8, "input_scales", f"{UP1_INPUTS}: '[0.0]' instead of 'positive'", scheme="FP8")
def the_scale_of_the_inputs_is_zero(folder: Folder) -> None:
    folder[UP1_INPUTS][0] = 0


@damage(FP8, "shared_scales", f"{UP1_INPUTS}: ", scheme="FP8")
def gate_and_up_have_scales_of_inputs_of_their_own(folder: Folder) -> None:
    folder[UP1_INPUTS] *= 2


@damage(FP8, "shared_scales", f"{UP1_SCALE}: ", scheme="FP8", strategy="tensor")
def gate_and_up_have_scales_of_weights_of_their_own(folder: Folder) -> None:
    folder[UP1_SCALE] /= 2


@damage(FP8, "error_bounds", UP1, scheme="FP8", strategy="tensor")
def the_one_scale_of_a_tensor_is_twice_too_large(folder: Folder) -> None:
    folder[UP1_SCALE] *= 2


# fp8: the inventory and its labels


@damage(FP8, "stored_arrays", f"{UP1_INPUTS}: nothing instead of 'BF16 [1]'", scheme="FP8")
def the_scale_of_the_inputs_is_dropped(folder: Folder) -> None:
    drop(folder, UP1_INPUTS)


@damage(FP8, "readable", "do not fit", scheme="FP8")
def the_inputs_have_a_scale_for_each_channel(folder: Folder) -> None:
    folder.arrays[UP1_INPUTS] = Array("BF16", [256], np.resize(folder[UP1_INPUTS], 256))


@damage(FP8, "tensors_present", f"{UP1}: not stored")
def a_weight_is_dropped(folder: Folder) -> None:
    drop(folder, *parts(folder, UP1))


@damage(FP8, "nothing_else", "model.layers.0.self_attn.q_proj.bias: not planned")
def a_bias_is_added(folder: Folder) -> None:
    folder.arrays["model.layers.0.self_attn.q_proj.bias"] = Array("F32", [256], np.zeros(256, np.float32))


@damage(FP8, "schemes", f"{UP1}: stored as F8_E4M3, planned as FP8")
def the_scales_of_a_weight_are_dropped(folder: Folder) -> None:
    drop(folder, UP1_SCALE)


@damage(FP8, "stored_arrays", f"{UP1_MODULE}.weight_scale_inv: nothing instead of 'F32 [6, 2]'", scheme="FP8_NATIVE")
def the_scales_have_the_name_of_another_layout(folder: Folder) -> None:
    relabel(folder, f"{UP1_MODULE}.weight_scale_inv", UP1_SCALE)


@damage(FP8, "stored_arrays", f"{UP1_SCALE}: 'F32 [768, 1]' instead of 'BF16 [768, 1]'")
def the_scales_have_another_dtype(folder: Folder) -> None:
    folder.arrays[UP1_SCALE] = Array("F32", [768, 1], folder[UP1_SCALE].astype(np.float32))


@damage(FP8, "readable", "do not fit")
def the_scales_are_those_of_columns(folder: Folder) -> None:
    folder.arrays[UP1_SCALE] = Array("BF16", [1, 256], folder[UP1_SCALE][:256].reshape(1, 256))


@damage(FP8, "shapes", f"{UP1}: float32 [256, 768] instead of float32 [768, 256]")
def the_shape_is_turned(folder: Folder) -> None:
    folder.arrays[UP1].shape = [256, 768]
    folder.arrays[UP1_SCALE] = Array("BF16", [256, 1], folder[UP1_SCALE][:256])


@damage(FP8, "error_bounds", K0)
def the_weights_of_two_blocks_are_swapped(folder: Folder) -> None:
    exchange(folder, K0, K1)


# Settings and files: the same for both


GROUP = f"{QC}.config_groups.group_0"
SETTINGS: list[tuple[Method, dict[str, Any], str, Damage, str, str]] = [
    (BNB, {}, "8 bits are said", set_key(f"{QC}.load_in_4bit", False), QC, "load_in_4bit: False instead of True"),
    (BNB, {}, "fp4 is said", set_key(f"{QC}.bnb_4bit_quant_type", "fp4"), QC, "quant_type: 'fp4' instead of 'nf4'"),
    (BNB, {}, "doubling is denied", set_key(f"{QC}.bnb_4bit_use_double_quant", False), QC, "use_double_quant: False"),
    (BNB, {}, "another compute dtype", set_key(f"{QC}.bnb_4bit_compute_dtype", "float32"), QC, "compute_dtype: 'floa"),
    (BNB, {}, "another storage", set_key(f"{QC}.bnb_4bit_quant_storage", "bfloat16"), QC, "quant_storage: 'bfloat16'"),
    (BNB, {}, "nothing is skipped", set_key(f"{QC}.llm_int8_skip_modules", []), "kept_modules", "lm_head"),
    (
        *(BNB, {}, "a quantized module is skipped"),
        lambda folder: folder.config[QC]["llm_int8_skip_modules"].append(UP1_MODULE),
        *("kept_modules", f"{UP1_MODULE}: True instead of False"),
    ),
    (FP8, {}, "another format", set_key(f"{QC}.format", "int-quantized"), QC, "format: 'int-quantized' instead of"),
    (FP8, {}, "a second group", set_key(f"{QC}.config_groups.group_1", {}), QC, "config_groups: 2 instead of 1"),
    (FP8, {}, "other targets", set_key(f"{GROUP}.targets", [UP1_MODULE]), QC, "targets: "),
    (FP8, {}, "another width", set_key(f"{GROUP}.weights.num_bits", 4), QC, "weights.num_bits: 4 instead of 8"),
    (FP8, {}, "integers are said", set_key(f"{GROUP}.weights.type", "int"), QC, "weights.type: 'int' instead of"),
    (FP8, {}, "one scale is said", set_key(f"{GROUP}.weights.strategy", "tensor"), QC, "strategy: 'tensor' instead of"),
    (FP8, {}, "static activations", set_key(f"{GROUP}.input_activations.dynamic", False), QC, "activations.dynamic: F"),
    (FP8, {}, "4-bit activations", set_key(f"{GROUP}.input_activations.num_bits", 4), QC, "activations.num_bits: 4"),
    (FP8, {"scheme": "FP8"}, "dynamic activations", set_key(f"{GROUP}.input_activations.dynamic", True), QC,
     "input_activations.dynamic: True instead of False"),
    (FP8, {"scheme": "FP8A16"}, "activations appear", set_key(f"{GROUP}.input_activations", {"strategy": "token"}), QC,
     "input_activations.strategy: 'token' instead of nothing"),
    (FP8, {"scheme": "FP8_BLOCK"}, "other blocks", set_key(f"{GROUP}.weights.block_structure", [64, 64]), QC,
     "weights.block_structure: '[64, 64]' instead of '[128, 128]'"),
    (FP8, {"scheme": "FP8_NATIVE"}, "other native blocks", set_key(f"{QC}.weight_block_size", [64]), QC, "'[64]' inst"),
    (FP8, {}, "a cache scheme appears", set_key(f"{QC}.kv_cache_scheme", {"num_bits": 8}), QC, "kv_cache_scheme"),
    (FP8, {}, "a transform appears", set_key(f"{QC}.transform_config", {"u": {}}), QC, "transform_config"),
    (FP8, {}, "nothing is ignored", set_key(f"{QC}.ignore", []), "kept_modules", "lm_head"),
    (FP8, {}, "all is ignored", lambda f: f.config[QC]["ignore"].append(UP1_MODULE), "kept_modules", UP1_MODULE),
]  # fmt: skip

damage.rows.update({f"{method.name} {name}": (method, params, *rest) for method, params, name, *rest in SETTINGS})  # type: ignore[misc]
damage.rows.update({f"{m.name} {name}": (m, {}, *rest) for m in (BNB, FP8) for name, rest in OF_THE_MODEL.items()})


test_a_damaged_folder_is_refused_by_the_check_that_names_it = damage_is_refused(damage, "plain")
test_a_folder_with_other_files_is_refused = other_files_are_refused("plain", {}, BNB, FP8)
test_damaged_shards_are_refused = damaged_shards_are_refused("plain", 700_000, BNB, FP8)
