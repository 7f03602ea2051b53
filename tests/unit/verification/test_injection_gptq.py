"""Real gptq folders in each format, damaged in one way each: verification refuses each by the check, and names it."""

from __future__ import annotations

import json
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
    relabel,
    set_key,
    shuffled,
    store_unquantized,
    swap,
)

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import QuantizedTensor
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_gptq.algorithm import _packed
from quantmill_gptq.layout import SCALE_DTYPES
from quantmill_gptq.params import GptqParams
from quantmill_gptq.plugin import GPTQ
from quantmill_gptq.solution import nearest


def rounded(run: Run) -> Iterator[QuantizedTensor]:
    """Rounding to nearest, which needs no calibration; groups are out of order where the parameters ask for it."""
    params = run.params
    assert isinstance(params, GptqParams)
    for row in run.plan.tensors:
        source = run.source.tensor(row.name)
        if row.action == "keep":
            yield kept_tensor(source)
        else:
            inputs = row.shape[1]
            order = np.random.default_rng(1).permutation(inputs) if params.reorders_groups else np.arange(inputs)
            stored: Any = SCALE_DTYPES[row.source_dtype] if params.format == "compressed-tensors" else "float16"
            solution = nearest(np.asarray(source.values, np.float32), order, params, stored)
            yield _packed(row, solution, params, 2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("small")
    model = SyntheticLlama(hidden=128, ffn=256, blocks=2, vocab=301, tied=True)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder, rounded)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Untied, in float32, with rows that words of codes do not divide."""
    folder = tmp_path_factory.mktemp("odd")
    model = SyntheticLlama(hidden=80, ffn=96, heads=2, kv_heads=1, blocks=3, vocab=320, dtype="F32", seed=2)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder, rounded)


# Clean ones

PACKED: Mapping[str, Any] = {"format": "compressed-tensors"}
V2: Mapping[str, Any] = {"format": "gptq_v2", "sym": False}
SKIPPED: Mapping[str, Any] = {"skip_modules": ["*.o_proj"]}
CLEAN: list[tuple[Mapping[str, Any], str]] = [
    *(({"bits": bits, "group_size": size}, "small") for bits in (2, 3, 4, 8) for size in (32, 128, -1)),
    *(({**V2, "bits": bits}, "small") for bits in (2, 3, 4, 8)),
    *(({**PACKED, "bits": bits, "sym": sym}, "small") for bits in (2, 3, 4, 8) for sym in (True, False)),
    ({"format": "gptq_v2"}, "small"),
    ({"desc_act": True, "group_size": 32}, "small"),
    ({**V2, "desc_act": True, "group_size": 32}, "small"),
    ({"desc_act": True, "static_groups": True}, "small"),
    ({**PACKED, "desc_act": True, "static_groups": True}, "small"),
    ({**PACKED, "act_group_aware": False, "group_size": -1}, "small"),
    (SKIPPED, "small"),
    ({**PACKED, **SKIPPED}, "small"),
    ({**PACKED, "bits": 3, "group_size": -1}, "odd"),
    ({**PACKED, "bits": 4, "group_size": -1, "sym": False}, "odd"),
]


@pytest.mark.parametrize(("params", "model"), CLEAN)
def test_a_clean_artifact_passes(request: pytest.FixtureRequest, params: Mapping[str, Any], model: str) -> None:
    made = request.getfixturevalue(model)

    assert made.failed_checks(GPTQ, params, made.artifact(GPTQ, params)) == {}


@pytest.mark.parametrize("params", [SKIPPED, {**PACKED, **SKIPPED}])
def test_every_check_stands_in_the_documentation(small: Made, params: Mapping[str, Any]) -> None:
    run, page = small.run(GPTQ, params), Path(__file__).parents[3] / "docs" / "verification.md"
    checked = verify(small.checkpoint, run.plan, GPTQ, run.params, small.artifact(GPTQ, params)).checks

    assert [check.name for check in checked if f"| `{check.name}` |" not in page.read_text()] == []


# The damages

damage = Damages()

UP, UP1 = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj.weight"  # 256 x 128
O0_MODULE, O0 = "model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.o_proj.weight"  # 128 x 128
K0, K1 = "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.k_proj"
NORM = "model.norm.weight"
QWEIGHT, QZEROS, SCALES, G_IDX = f"{UP}.qweight", f"{UP}.qzeros", f"{UP}.scales", f"{UP}.g_idx"
WORDS, SCALE, ZEROS = f"{UP}.weight_packed", f"{UP}.weight_scale", f"{UP}.weight_zero_point"
G32: Mapping[str, Any] = {"group_size": 32}
IN_ORDER = "a g_idx of other groups than config.json says"


def parts(folder: Folder, module: str) -> list[str]:
    """All arrays of a quantized weight."""
    return [name for name in folder.arrays if name.startswith(f"{module}.")]


def times(values: np.ndarray, factor: float) -> np.ndarray:
    return (values.astype(np.float32) * np.float32(factor)).astype(values.dtype)


def codes_along_inputs(words: np.ndarray) -> np.ndarray:
    """4-bit codes (inputs, outputs) of a qweight (inputs / 8, outputs)."""
    fields = [(words >> shift) & 15 for shift in range(0, 32, 4)]
    return np.stack(fields, axis=1).reshape(-1, words.shape[1])


def words_along_inputs(codes: np.ndarray) -> np.ndarray:
    eights = codes.reshape(-1, 8, codes.shape[1]).astype(np.uint32)
    return np.bitwise_or.reduce([eights[:, i] << np.uint32(4 * i) for i in range(8)]).view(np.int32)


def nibbles_swapped(words: np.ndarray) -> np.ndarray:
    octets = np.ascontiguousarray(words).view(np.uint8)
    return ((octets >> 4) | (octets << 4)).view(np.int32)


def moved_zeros(words: np.ndarray, by: int) -> np.ndarray:
    """4-bit zero points one higher or lower, none beyond its range."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    low, high = (np.clip(codes.astype(int) + by, 0, 15).astype(np.uint8) for codes in (octets & 15, octets >> 4))
    return (low | (high << 4)).view(np.int32)


# Values in the formats of GPTQ: words of eight 4-bit codes along the inputs, the first in the lowest bits


@damage(GPTQ, "schemes", f"{UP1}: stored as BF16, planned as INT4-g128")
def a_layer_is_not_quantized(folder: Folder) -> None:
    store_unquantized(folder, UP1, *parts(folder, UP))


@damage(GPTQ, "readable", f"{UP1} is stored as it is and quantized as well")
def a_layer_is_stored_as_it_is_beside_its_codes(folder: Folder) -> None:
    store_unquantized(folder, UP1)


@damage(GPTQ, "error_bounds", UP1)
def the_nibbles_are_in_the_wrong_order(folder: Folder) -> None:
    folder[QWEIGHT] = nibbles_swapped(folder[QWEIGHT])


@damage(GPTQ, "error_bounds", UP1)
def the_codes_are_in_the_order_of_awq(folder: Folder) -> None:
    codes = codes_along_inputs(folder[QWEIGHT]).reshape(-1, 8, 256)
    folder[QWEIGHT] = words_along_inputs(codes[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(128, 256))


@damage(GPTQ, "error_bounds", UP1)
def the_words_are_big_endian(folder: Folder) -> None:
    folder[QWEIGHT] = folder[QWEIGHT].byteswap()


@damage(GPTQ, "error_bounds", UP1)
def the_words_begin_with_the_last_code(folder: Folder) -> None:
    folder[QWEIGHT] = words_along_inputs(
        codes_along_inputs(folder[QWEIGHT]).reshape(-1, 8, 256)[:, ::-1].reshape(128, 256)
    )


@damage(GPTQ, "error_bounds", O0)
def the_codes_of_a_square_weight_are_transposed(folder: Folder) -> None:
    name = f"{O0_MODULE}.qweight"
    folder[name] = words_along_inputs(np.ascontiguousarray(codes_along_inputs(folder[name]).T))


@damage(GPTQ, "error_bounds", UP1)
def the_words_are_packed_along_outputs(folder: Folder) -> None:
    codes = codes_along_inputs(folder[QWEIGHT])
    folder[QWEIGHT] = words_along_inputs(np.ascontiguousarray(codes.T)).reshape(16, 256)


@damage(GPTQ, "readable", f"{UP1} do not fit: qweight")
def the_words_are_turned(folder: Folder) -> None:
    folder[QWEIGHT] = np.ascontiguousarray(folder[QWEIGHT].T)


@damage(GPTQ, "error_bounds", UP1)
def the_words_of_inputs_are_shuffled(folder: Folder) -> None:
    folder[QWEIGHT] = shuffled(folder[QWEIGHT])


@damage(GPTQ, "error_bounds", UP1)
def the_outputs_are_shuffled(folder: Folder) -> None:
    folder[QWEIGHT] = np.ascontiguousarray(shuffled(folder[QWEIGHT].T).T)


@damage(GPTQ, "block_bounds", f"{UP1}: row 1")
def two_outputs_are_swapped(folder: Folder) -> None:
    for name in (QWEIGHT, SCALES):
        swap(folder[name].T, 10, 11)


@damage(GPTQ, "block_bounds", UP1)
def all_codes_are_two_too_high(folder: Folder) -> None:
    folder[QWEIGHT] = words_along_inputs(np.minimum(codes_along_inputs(folder[QWEIGHT]) + 2, 15))


@damage(GPTQ, "block_bounds", UP1)
def the_scales_of_two_outputs_are_swapped(folder: Folder) -> None:
    swap(folder[SCALES][0], *extremes(folder[SCALES][0].astype(np.float32)))


@damage(GPTQ, "block_bounds", UP1)
def the_scales_move_on_by_one_output(folder: Folder) -> None:
    folder[SCALES] = np.roll(folder[SCALES], 1, axis=1)


@damage(GPTQ, "error_bounds", UP1, **G32)
def the_scales_of_groups_lie_as_outputs_by_groups(folder: Folder) -> None:
    folder[SCALES] = folder[SCALES].T.reshape(4, 256)


@damage(GPTQ, "error_bounds", UP1)
def the_scales_are_inverted(folder: Folder) -> None:
    folder[SCALES] = (1 / folder[SCALES].astype(np.float32)).astype(np.float16)


@damage(GPTQ, "error_bounds", UP1)
def the_scales_are_those_of_whole_ranges(folder: Folder) -> None:
    folder[SCALES] = times(folder[SCALES], 15)


@damage(GPTQ, "error_bounds", UP1)
def all_scales_are_two_fifths_too_large(folder: Folder) -> None:
    folder[SCALES] = times(folder[SCALES], 1.4)


@damage(GPTQ, "slopes", f"{UP1}: the source times 1.0")
def all_scales_are_a_little_too_large(folder: Folder) -> None:
    folder[SCALES] = times(folder[SCALES], 1.1)


@damage(GPTQ, "slopes", f"{UP1}: the source times 0.8")
def all_scales_are_a_sixth_too_small(folder: Folder) -> None:
    folder[SCALES] = times(folder[SCALES], 5 / 6)


@damage(GPTQ, "error_bounds", UP1, bits=8)
def all_scales_of_8_bits_are_a_twentieth_too_large(folder: Folder) -> None:
    folder[SCALES] = times(folder[SCALES], 1.05)


@damage(GPTQ, "block_bounds", f"{UP1}: row 7,")
def the_scale_of_an_output_is_twice_too_large(folder: Folder) -> None:
    folder[SCALES][0, 7] *= 2


@damage(GPTQ, "block_bounds", f"{UP1}: row 7,")
def the_scale_of_an_output_is_negative(folder: Folder) -> None:
    folder[SCALES][0, 7] *= -1


@damage(GPTQ, "block_bounds", f"{UP1}: row 7,")
def the_scale_of_an_output_is_zero(folder: Folder) -> None:
    folder[SCALES][0, 7] = 0


@damage(GPTQ, "finite", f"{UP1}: 32 of 32768 values are NaN or infinite", **G32)
def the_scale_of_a_group_is_nan(folder: Folder) -> None:
    folder[SCALES][1, 7] = np.nan


@damage(GPTQ, "readable", "zero points of a symmetric range")
def the_zero_points_are_stored_as_version_two_has_them(folder: Folder) -> None:
    folder[QZEROS] = moved_zeros(folder[QZEROS], 1)


@damage(GPTQ, "readable", "zero points of a symmetric range")
def a_zero_point_of_a_symmetric_range_is_off_by_one(folder: Folder) -> None:
    folder[QZEROS][0, 0] += 1


@damage(GPTQ, "readable", "zero points of a symmetric range")
def version_one_is_labelled_as_version_two(folder: Folder) -> None:
    set_everywhere("checkpoint_format", "gptq_v2")(folder)


@damage(GPTQ, "error_bounds", UP1, **V2)
def all_zero_points_are_one_too_low(folder: Folder) -> None:
    folder[QZEROS] = moved_zeros(folder[QZEROS], -1)


@damage(GPTQ, "error_bounds", UP1, **V2)
def version_two_is_labelled_as_version_one(folder: Folder) -> None:
    set_everywhere("checkpoint_format", "gptq")(folder)


@damage(GPTQ, "error_bounds", UP1, **V2)
def the_nibbles_of_zero_points_are_in_the_wrong_order(folder: Folder) -> None:
    folder[QZEROS] = nibbles_swapped(folder[QZEROS])


@damage(GPTQ, "error_bounds", UP1, **V2)
def the_zero_points_are_shuffled(folder: Folder) -> None:
    folder[QZEROS] = shuffled(folder[QZEROS].view(np.uint8)[0])[None].view(np.int32)


@damage(GPTQ, "readable", IN_ORDER, **G32)
def the_groups_of_inputs_are_shuffled(folder: Folder) -> None:
    folder[G_IDX] = shuffled(folder[G_IDX])


@damage(GPTQ, "readable", IN_ORDER)
def the_groups_of_inputs_are_of_another_size(folder: Folder) -> None:
    folder[G_IDX] = (np.arange(128) // 64).astype(np.int32)


@damage(GPTQ, "readable", IN_ORDER)
def an_input_is_of_no_group(folder: Folder) -> None:
    folder[G_IDX][5] = 2**31 - 1


@damage(GPTQ, "readable", IN_ORDER, **G32, desc_act=True)
def two_groups_out_of_order_have_other_sizes(folder: Folder) -> None:
    folder[G_IDX][np.flatnonzero(folder[G_IDX] == 2)[0]] = 1


@damage(GPTQ, "error_bounds", UP1, **V2, **G32, desc_act=True)
def groups_out_of_order_are_taken_for_neighbours(folder: Folder) -> None:
    folder[G_IDX] = np.sort(folder[G_IDX])


@damage(GPTQ, "error_bounds", f"{K0}.weight")
def two_weights_of_one_shape_are_swapped(folder: Folder) -> None:
    for one, other in zip(parts(folder, K0), parts(folder, K1), strict=True):
        folder.arrays[one], folder.arrays[other] = folder.arrays[other], folder.arrays[one]


@damage(GPTQ, "error_bounds", NORM)
def a_norm_is_off_by_one_bit(folder: Folder) -> None:
    folder[NORM].view("<u2")[0] ^= 1


@damage(GPTQ, "error_bounds", UP1, bits=3)
def the_words_of_3_bits_are_shuffled(folder: Folder) -> None:
    folder[QWEIGHT] = shuffled(folder[QWEIGHT])


@damage(GPTQ, "error_bounds", UP1, bits=3)
def the_codes_of_3_bits_fill_no_gaps_between_words(folder: Folder) -> None:
    """Ten codes in a word, as hqq has them, and not a stream."""
    folder[QWEIGHT] = (folder[QWEIGHT].view(np.uint32) >> 2).view(np.int32)


# The inventory and its labels in the formats of GPTQ


@damage(GPTQ, "tensors_present", f"{UP1}: not stored")
def a_tensor_is_dropped(folder: Folder) -> None:
    drop(folder, *parts(folder, UP))


@damage(GPTQ, "readable", f"{UP1} is stored as qweight, qzeros, g_idx, not")
def the_scales_are_dropped(folder: Folder) -> None:
    drop(folder, SCALES)


@damage(GPTQ, "readable", f"{UP1} is stored as qweight, scales, g_idx, not")
def the_zero_points_are_dropped(folder: Folder) -> None:
    drop(folder, QZEROS)


@damage(GPTQ, "readable", f"{UP1} is stored as qweight, qzeros, scales, not")
def the_groups_of_inputs_are_dropped(folder: Folder) -> None:
    drop(folder, G_IDX)


@damage(GPTQ, "tensors_present", f"{UP1}: not stored")
def the_codes_have_the_name_of_another_layout(folder: Folder) -> None:
    relabel(folder, QWEIGHT, f"{UP}.qweight_packed")


@damage(GPTQ, "nothing_else", f"{UP}.bias: not planned")
def a_bias_is_added(folder: Folder) -> None:
    folder.arrays[f"{UP}.bias"] = Array("F16", [256], np.zeros(256, np.float16))


@damage(GPTQ, "readable", "words that are not int32")
def the_codes_have_another_dtype(folder: Folder) -> None:
    folder.arrays[QWEIGHT].dtype = "F32"


@damage(GPTQ, "readable", "scales of bfloat16")
def the_scales_are_labelled_as_bfloat16(folder: Folder) -> None:
    folder.arrays[SCALES].dtype = "BF16"


@damage(GPTQ, "readable", "scales of float32")
def the_scales_are_in_float32(folder: Folder) -> None:
    folder.arrays[SCALES] = Array("F32", [1, 256], folder[SCALES].astype(np.float32))


# Values in compressed-tensors' format: words along the inputs of each output


@damage(GPTQ, "schemes", f"{UP1}: stored as BF16, planned as INT4-g128", **PACKED)
def a_packed_layer_is_not_quantized(folder: Folder) -> None:
    store_unquantized(folder, UP1, *parts(folder, UP))


@damage(GPTQ, "error_bounds", UP1, **PACKED)
def the_nibbles_of_packed_words_are_in_the_wrong_order(folder: Folder) -> None:
    folder[WORDS] = nibbles_swapped(folder[WORDS])


@damage(GPTQ, "error_bounds", UP1, **PACKED)
def the_rows_of_words_are_shuffled(folder: Folder) -> None:
    folder[WORDS] = shuffled(folder[WORDS])


@damage(GPTQ, "error_bounds", UP1, **PACKED)
def the_packed_codes_are_signed(folder: Folder) -> None:
    folder[WORDS] = (folder[WORDS].view(np.uint32) ^ np.uint32(0x88888888)).view(np.int32)


@damage(GPTQ, "finite", f"{UP1}: 128 of 32768 values are NaN or infinite", **PACKED)
def a_packed_scale_is_infinite(folder: Folder) -> None:
    folder[SCALE][7] = np.inf


@damage(GPTQ, "error_bounds", UP1, **PACKED)
def all_packed_scales_are_two_fifths_too_large(folder: Folder) -> None:
    folder[SCALE] = times(folder[SCALE], 1.4)


@damage(GPTQ, "stored_arrays", f"{SCALE}: 'F16' instead of 'BF16'", **PACKED)
def the_packed_scales_are_in_another_dtype(folder: Folder) -> None:
    folder.arrays[SCALE] = Array("F16", [256, 1], folder[SCALE].astype(np.float16))


@damage(GPTQ, "readable", f"{UP1} do not fit: weight_packed", **PACKED)
def the_packed_shape_is_turned(folder: Folder) -> None:
    folder[f"{UP}.weight_shape"][:] = 128, 256


@damage(GPTQ, "readable", f"{UP1} is stored as weight_packed, weight_shape, weight_scale", **PACKED)
def zero_points_of_a_symmetric_range_are_added(folder: Folder) -> None:
    folder.arrays[ZEROS] = Array("I32", [32, 1], np.full((32, 1), -0x77777778, np.int32))


@damage(GPTQ, "nothing_else", f"{UP}.weight_g_idx: not planned", **PACKED)
def an_order_of_groups_is_added(folder: Folder) -> None:
    folder.arrays[f"{UP}.weight_g_idx"] = Array("I32", [128], np.zeros(128, np.int32))


@damage(GPTQ, "readable", "weight_zero_point of float32", **PACKED, sym=False)
def the_packed_zero_points_have_another_dtype(folder: Folder) -> None:
    folder.arrays[ZEROS].dtype = "F32"


@damage(GPTQ, "readable", f"{UP1} is stored as weight_packed, weight_shape, weight_scale, not", **PACKED, sym=False)
def the_packed_zero_points_are_dropped(folder: Folder) -> None:
    drop(folder, ZEROS)


@damage(GPTQ, "error_bounds", UP1, **PACKED, sym=False)
def the_packed_zero_points_are_one_too_low(folder: Folder) -> None:
    folder[ZEROS] = moved_zeros(folder[ZEROS], -1)


@damage(GPTQ, "error_bounds", UP1, **PACKED, sym=False)
def the_packed_zero_points_are_shuffled(folder: Folder) -> None:
    folder[ZEROS] = shuffled(folder[ZEROS])


# Settings


def set_everywhere(key: str, value: Any) -> Damage:
    """Another value in config.json and in the file that GPTQModel reads instead."""

    def edit(folder: Folder) -> None:
        set_key(f"{QC}.{key}", value)(folder)
        (folder.path / "quantize_config.json").write_text(json.dumps(folder.config[QC]))

    return edit


def another_module_is_excluded(folder: Folder) -> None:
    set_everywhere("dynamic", {f"-:^{UP}$": {}})(folder)


GROUP = f"{QC}.config_groups.group_0"
TWO_GROUPS = {"targets": [UP], "weights": {"num_bits": 2}}
STALE: dict[str, tuple[Mapping[str, Any], Damage, str, str]] = {
    "bits": ({}, set_everywhere("bits", 8), QC, "bits: 8 instead of 4"),
    "bits as text": ({}, set_everywhere("bits", "4"), QC, "bits: '4' instead of 4"),
    "group_size": ({}, set_everywhere("group_size", 32), QC, "group_size: 32 instead of 128"),
    "whole rows": ({}, set_everywhere("group_size", -1), QC, "group_size: -1 instead of 128"),
    "sym": ({}, set_everywhere("sym", False), QC, "sym: False instead of True"),
    "desc_act": (G32, set_everywhere("desc_act", True), QC, "desc_act: True instead of False"),
    "no desc_act": ({**G32, "desc_act": True}, set_everywhere("desc_act", False), QC, "desc_act: False instead of"),
    "head": ({}, set_everywhere("lm_head", True), QC, "lm_head: True instead of False"),
    "pack_dtype": ({}, set_everywhere("pack_dtype", "int8"), QC, "pack_dtype: 'int8' instead of 'int32'"),
    "unknown version": ({}, set_everywhere("checkpoint_format", "marlin"), "readable", "marlin"),
    "more excluded": ({}, another_module_is_excluded, "dynamic", f"{UP}: True instead of False"),
    "fewer excluded": (SKIPPED, set_everywhere("dynamic", {}), "dynamic", f"{O0_MODULE}: False instead of True"),
    "other bits for one": ({}, set_everywhere("dynamic", {f"+:^{UP}$": {"bits": 8}}), "dynamic", "'bits': 8"),
    "other bits, unsigned": ({}, set_everywhere("dynamic", {f"^{UP}$": {"bits": 8}}), "dynamic", "'bits': 8"),
    "in block": (
        *(SKIPPED, set_everywhere("modules_in_block_to_quantize", [[UP]])),
        *("modules_in_block_to_quantize", "instead of True"),
    ),
    "in one file only": ({}, set_key(f"{QC}.damp_percent", 0.5), "quantize_config.json", "instead of"),
    "not for GPTQModel": (
        *({}, lambda f: (f.path / "quantize_config.json").unlink()),
        *("quantize_config.json", "nothing instead of"),
    ),
    "packed bits": (PACKED, set_key(f"{GROUP}.weights.num_bits", 8), QC, "weights.num_bits: 8 instead of 4"),
    "packed groups": (PACKED, set_key(f"{GROUP}.weights.group_size", 32), QC, "weights.group_size: 32 instead of 128"),
    "symmetry": (PACKED, set_key(f"{GROUP}.weights.symmetric", False), QC, "weights.symmetric: False instead of True"),
    "strategy": (PACKED, set_key(f"{GROUP}.weights.strategy", "channel"), QC, "weights.strategy: 'channel' instead of"),
    "type": (PACKED, set_key(f"{GROUP}.weights.type", "float"), QC, "weights.type: 'float' instead of 'int'"),
    "order": (PACKED, set_key(f"{GROUP}.weights.actorder", "group"), QC, "weights.actorder: 'group' instead of"),
    "targets": (PACKED, set_key(f"{GROUP}.targets", [UP]), QC, "targets: "),
    "activations": (PACKED, set_key(f"{GROUP}.input_activations", {"num_bits": 8}), QC, "input_activations: "),
    "outputs": (PACKED, set_key(f"{GROUP}.output_activations", {"num_bits": 8}), QC, "output_activations: "),
    "a second group": (PACKED, set_key(f"{QC}.config_groups.group_1", TWO_GROUPS), QC, "config_groups: 2 instead of 1"),
    "format": (PACKED, set_key(f"{QC}.format", "int-quantized"), QC, "format: 'int-quantized' instead of"),
    "group's format": (PACKED, set_key(f"{GROUP}.format", "int-quantized"), QC, "the group's format: 'int-quantized'"),
    "cache": (PACKED, set_key(f"{QC}.kv_cache_scheme", {"num_bits": 8}), QC, "kv_cache_scheme"),
    "transform": (PACKED, set_key(f"{QC}.transform_config", {"u": {}}), QC, "transform_config"),
    "sparsity": (PACKED, set_key(f"{QC}.sparsity_config", {"format": "dense"}), QC, "sparsity_config"),
    "ignored": (PACKED, set_key(f"{QC}.ignore", []), "kept_modules", "lm_head"),
    "more ignored": (PACKED, lambda f: f.config[QC]["ignore"].append(UP), "kept_modules", f"{UP}: True"),
}
damage.rows.update({f"gptq stale settings: {name}": (GPTQ, *rest) for name, rest in STALE.items()})
damage.rows.update({f"gptq {name}": (GPTQ, {}, *rest) for name, rest in OF_THE_MODEL.items()})


test_a_damaged_folder_is_refused_by_the_check_that_names_it = damage_is_refused(damage, "small")
test_a_folder_with_other_files_is_refused = other_files_are_refused("small", {}, GPTQ)
test_damaged_shards_are_refused = damaged_shards_are_refused("small", 120_000, GPTQ)
