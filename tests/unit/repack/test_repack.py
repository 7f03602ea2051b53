"""Re-packs: another layout, the same values to the last bit, and back again."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.unit.repack.conftest import awq, gptq, in_any_order, packed_in_any_order

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ParamsRejected, QuantmillError, SourceRejected
from quantmill.contract.safetensors import TensorFile
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_bnb.plugin import BNB
from quantmill_fp8.plugin import FP8
from quantmill_gguf.plugin import GGUF
from quantmill_gptq.plugin import GPTQ
from quantmill_hqq.plugin import HQQ
from quantmill_repack.plugin import REPACK

Q_PROJ = "model.layers.0.self_attn.q_proj"


def repacked(source: Path, to: str, folder: Path) -> Path:
    """`source` in another layout, verified."""
    with open_checkpoint(source) as checkpoint:
        run = Run(REPACK, REPACK.params(to=to), checkpoint)
        run.write(run.quantize(), folder)
        assert verify(checkpoint, run.plan, REPACK, run.params, folder).relative_rmse == 0.0
    return folder


def stored(folder: Path) -> dict[str, bytes]:
    with TensorFile(folder / "model.safetensors") as file:
        return {name: file.values(name).tobytes() for name in file.tensors}


@pytest.mark.parametrize(("layout", "to"), [(gptq(4), "gptq"), (awq(), "awq")], ids=["gptq", "awq"])
def test_a_linear_that_the_source_kept_is_named_where_each_consumer_looks(layout, to, quantized, tmp_path):
    kept = "model.layers.0.mlp.down_proj"
    source, _ = quantized(layout, kept)

    there = repacked(source, "pack-quantized", tmp_path / "there")
    again = repacked(there, to, tmp_path / "again")

    packed, found = (json.loads((made / "config.json").read_text())["quantization_config"] for made in (there, again))
    assert kept in packed["ignore"]
    assert found["dynamic"] == {f"-:^{re.escape(kept)}$": {}}
    if to == "awq":
        assert kept in found["modules_to_not_convert"]
    else:
        (quantized_there,) = found["modules_in_block_to_quantize"]
        assert len(quantized_there) == 6
        assert kept not in quantized_there


@pytest.mark.parametrize(
    ("layout", "to", "back"),
    [
        (gptq(4), "pack-quantized", "gptq"),
        (gptq(8), "pack-quantized", "gptq"),
        (gptq(2), "pack-quantized", "gptq"),
        (gptq(3), "pack-quantized", "gptq"),
        (awq(), "pack-quantized", "awq"),
    ],
    ids=["gptq 4", "gptq 8", "gptq 2", "gptq 3", "awq"],
)
def test_there_and_back_gives_the_same_bytes(layout, to, back, quantized, tmp_path):
    source, _ = quantized(layout)

    there = repacked(source, to, tmp_path / "there")
    again = repacked(there, back, tmp_path / "again")

    assert stored(again) == stored(source)
    assert stored(there) != stored(source)


@pytest.mark.parametrize(
    "layout", [gptq(4), gptq(3), gptq(4, version="gptq_v2"), gptq(8, symmetric=False, version="gptq_v2"), awq()]
)
def test_a_quantized_checkpoint_is_read_as_what_it_stands_for(layout, quantized):
    source, values = quantized(layout)

    with open_checkpoint(source) as checkpoint:
        assert sorted(checkpoint.index.stored) == sorted(values)
        for name, expected in values.items():
            np.testing.assert_array_equal(checkpoint.tensor(name).values, expected)
        assert not any("qweight" in name for name in checkpoint.index.tensors)


@pytest.mark.parametrize(("scheme", "to", "back"), [("FP8_NATIVE", "float-quantized", "fp8")])
def test_blocks_of_fp8_change_their_name_only(scheme, to, back, unquantized, tmp_path):
    with open_checkpoint(unquantized) as checkpoint:
        run = Run(FP8, FP8.params(scheme=scheme), checkpoint)
        run.write(run.quantize(), tmp_path / "source")

    there = repacked(tmp_path / "source", to, tmp_path / "there")
    again = repacked(there, back, tmp_path / "again")

    assert stored(again) == stored(tmp_path / "source")
    assert json.loads((there / "config.json").read_text())["quantization_config"]["format"] == "float-quantized"


def test_version_two_of_gptq_becomes_version_one(quantized, tmp_path):
    source, _ = quantized(gptq(4, version="gptq_v2"))

    folder = repacked(source, "gptq", tmp_path / "again")

    assert stored(source)[f"{Q_PROJ}.qzeros"][:4].hex() == "88888888"
    assert stored(folder)[f"{Q_PROJ}.qzeros"][:4].hex() == "77777777"


def defects_of(source: Path, to: str, folder: Path) -> tuple[str, ...]:
    """What the plan names, after the result is seen to have none of it."""
    with open_checkpoint(source) as checkpoint:
        plan = Run(REPACK, REPACK.params(to=to), checkpoint).plan
    with open_checkpoint(repacked(source, to, folder)) as mended:
        assert mended.index.defects == ()
    return plan.warnings


GPTQ4 = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True}


@pytest.mark.parametrize(
    ("version", "settings", "expected"),
    [
        (
            "gptq",
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
            (
                "the settings lack desc_act, sym, checkpoint_format: "
                "taken as desc_act False, sym True, checkpoint_format gptq",
                "the settings say group_size 128, the tensors 64",
            ),
        ),
        ("gptq", {**GPTQ4, "checkpoint_format": "gptq", "bits": 8}, ("the settings say bits 8, the tensors 4",)),
        (
            "gptq_v2",
            {**GPTQ4, "checkpoint_format": "gptq"},
            ("the settings say checkpoint_format 'gptq', the tensors gptq_v2",),
        ),
        (
            "gptq",
            {**GPTQ4, "checkpoint_format": "gptq_v2"},
            ("the settings say checkpoint_format 'gptq_v2', the tensors gptq",),
        ),
        (
            "gptq",
            {**GPTQ4, "checkpoint_format": "gptq", "desc_act": True},
            ("the settings say desc_act True, the groups of inputs follow each other",),
        ),
    ],
)
def test_defects_of_old_files_are_named_and_the_result_has_none(version, settings, expected, quantized, tmp_path):
    make, right = gptq(4, version=version)
    source, values = quantized((make, settings))

    assert defects_of(source, "gptq", tmp_path / "again") == expected
    written = json.loads((tmp_path / "again/config.json").read_text())["quantization_config"]
    assert {key: written[key] for key in right} == {**right, "checkpoint_format": "gptq"}
    with open_checkpoint(tmp_path / "again") as mended:
        for name, wanted in values.items():
            np.testing.assert_array_equal(mended.tensor(name).values, wanted)


@pytest.mark.parametrize(
    ("layout", "name", "beside"),
    [
        (gptq(4), "quantize_config.json", {**GPTQ4, "checkpoint_format": "gptq", "model_file_base_name": "model"}),
        (awq(), "quant_config.json", {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}),
    ],
    ids=["gptq", "awq"],
)
def test_settings_in_a_file_of_their_own_are_taken(layout, name, beside, quantized, tmp_path):
    source, _ = quantized(layout)
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    (source / name).write_text(json.dumps({key: value for key, value in beside.items() if key != "quant_method"}))

    named = defects_of(source, "pack-quantized", tmp_path / "there")

    assert named == (f"config.json has no quantization_config: taken from {name}",)


def test_of_two_files_that_disagree_config_json_holds(quantized, tmp_path):
    source, _ = quantized(gptq(4))
    (source / "quantize_config.json").write_text(json.dumps({**GPTQ4, "bits": 8}))

    assert defects_of(source, "gptq", tmp_path / "again") == (
        "quantize_config.json says other things than config.json of bits: not used",
    )


def test_zero_points_that_differ_are_taken_as_they_are_whatever_the_settings_say(quantized, tmp_path):
    make, settings = gptq(4, symmetric=False)
    source, _ = quantized((make, {**settings, "sym": True}))

    assert defects_of(source, "pack-quantized", tmp_path / "there") == (
        "the settings say that it is symmetric, its zero points differ: taken as they are",
    )


def test_settings_that_are_no_json_are_refused(quantized):
    source, _ = quantized(gptq(4))
    (source / "quantize_config.json").write_text("{")

    with pytest.raises(SourceRejected, match=r"quantize_config\.json cannot be read"):
        open_checkpoint(source)


@pytest.mark.parametrize("value", [None, [], {}, "4", 4.5, -1, 1 << 70, True])
@pytest.mark.parametrize(
    "key", ["quant_method", "bits", "group_size", "desc_act", "sym", "checkpoint_format", "version", "zero_point"]
)
def test_nonsense_in_settings_is_mended_or_refused(key, value, quantized):
    make, settings = gptq(4)
    source, _ = quantized((make, {**settings, key: value}))

    with suppress(SourceRejected):
        open_checkpoint(source).close()


def test_zero_points_that_are_not_what_the_first_module_promised_are_refused(quantized, tmp_path):
    make, settings = gptq(4)
    modules = iter(range(100))

    def another_from_the_second_on(shape, random):
        arrays, values = make(shape, random)
        return {**arrays, "qzeros": arrays["qzeros"] + (0x11111111 if next(modules) else 0)}, values

    source, _ = quantized((another_from_the_second_on, settings))

    with pytest.raises(SourceRejected, match=r"has the zero points \[9\] beside 8; its checkpoint_format may be"):
        repacked(source, "pack-quantized", tmp_path / "there")


@pytest.mark.parametrize(
    ("layout", "to", "reason"),
    [
        (gptq(4), "awq", "it is made of pack-quantized"),
        (gptq(4), "fp8", "it is made of float-quantized"),
        (gptq(4, symmetric=False, version="gptq_v2"), "gptq", "zero points of its own"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_when_it_is_planned(layout, to, reason, quantized):
    source, _ = quantized(layout)

    with open_checkpoint(source) as checkpoint, pytest.raises(ParamsRejected, match=reason):
        _ = Run(REPACK, REPACK.params(to=to), checkpoint).plan


def test_a_plain_source_has_nothing_to_repack(unquantized, tmp_path):
    with (
        open_checkpoint(unquantized) as checkpoint,
        pytest.raises(SourceRejected, match="no quant"),
    ):
        _ = Run(REPACK, REPACK.params(to="gptq"), checkpoint).plan


@pytest.mark.parametrize(
    "layout",
    [in_any_order(4), in_any_order(3), in_any_order(8, version="gptq_v2"), packed_in_any_order()],
    ids=["gptq 4", "gptq 3", "gptq_v2 8", "pack-quantized"],
)
def test_groups_in_any_order_keep_it_in_gptq(layout, quantized, tmp_path):
    source, values = quantized(layout)

    folder = repacked(source, "gptq", tmp_path / "again")

    groups = "weight_g_idx" if f"{Q_PROJ}.weight_g_idx" in stored(source) else "g_idx"
    assert stored(folder)[f"{Q_PROJ}.g_idx"] == stored(source)[f"{Q_PROJ}.{groups}"]
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["desc_act"] is True
    with open_checkpoint(folder) as checkpoint:
        for name, expected in values.items():
            np.testing.assert_array_equal(checkpoint.tensor(name).values, expected)


@pytest.mark.parametrize("to", ["pack-quantized", "awq"])
def test_a_layout_that_knows_no_order_of_groups_is_refused_when_it_is_planned(to, quantized):
    source, _ = quantized(in_any_order() if to == "pack-quantized" else packed_in_any_order(symmetric=False))

    with open_checkpoint(source) as checkpoint, pytest.raises(ParamsRejected, match="do not follow each other"):
        _ = Run(REPACK, REPACK.params(to=to), checkpoint).plan


@pytest.mark.parametrize("to", ["gptq", "pack-quantized"])
def test_groups_out_of_the_order_that_the_settings_promise_are_refused(to, quantized, tmp_path):
    make, settings = in_any_order()
    source, _ = quantized((make, {**settings, "desc_act": False}))

    with pytest.raises(SourceRejected, match=r"g_idx that they do not; desc_act may be missing"):
        repacked(source, to, tmp_path / "there")


@pytest.mark.parametrize("group", [-1, 4])
def test_a_group_that_there_is_not_is_refused(group, quantized):
    make, settings = in_any_order()

    def damaged(shape, random):
        arrays, values = make(shape, random)
        arrays["g_idx"][5] = group if group < 0 else shape[1] // 64
        return arrays, values

    source, _ = quantized((damaged, settings))

    with open_checkpoint(source) as checkpoint, pytest.raises(SourceRejected, match=r"g_idx has groups"):
        checkpoint.tensor(f"{Q_PROJ}.weight")


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("qweight", lambda a: a[:-1], "g_idx does not fit"),
        ("scales", lambda a: a[:, :-1], "scales do not fit"),
        ("qzeros", lambda a: a[:, :-1], "qzeros do not fit"),
        ("g_idx", lambda a: a[:-1], "g_idx does not fit"),
        ("scales", lambda a: a.astype(np.int16), "scales must be F16 or BF16 or F32"),
        ("qzeros", lambda a: a[0], "in 2 dimensions"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_when_the_source_is_opened(part, change, reason, quantized):
    make, settings = gptq(4)

    def damaged(shape, random):
        arrays, values = make(shape, random)
        return {**arrays, part: np.ascontiguousarray(change(arrays[part]))}, values

    source, _ = quantized((damaged, settings))

    with pytest.raises(SourceRejected, match=reason):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("method", "params", "layout", "kind"),
    [
        (BNB, {}, gptq(4), "gptq"),
        (HQQ, {}, gptq(4), "gptq"),
        (GGUF, {"type": "Q8_0"}, in_any_order(), "gptq"),
        (GGUF, {"type": "Q4_0"}, awq(), "awq"),
        (GGUF, {"type": "Q4_0", "pure": True}, packed_in_any_order(symmetric=False), "pack-quantized"),
    ],
    ids=["bnb", "hqq", "gguf of act-order", "gguf of awq", "gguf of pack-quantized"],
)
def test_integers_are_quantized_again_only_when_that_is_allowed(method, params, layout, kind, quantized, tmp_path):
    source, values = quantized(layout)

    with open_checkpoint(source) as checkpoint:
        with pytest.raises(QuantmillError, match="allow_requantize"):
            _ = Run(method, method.params(**params), checkpoint).plan
        run = Run(method, method.params(**params, allow_requantize=True), checkpoint)
        said = f"the source is quantized ({kind}): {len(values)} weights are read as what they stand for"
        assert run.plan.warnings == (said,)
        run.write(run.quantize(), tmp_path / "again")
        verify(checkpoint, run.plan, method, run.params, tmp_path / "again")


def test_a_method_that_cannot_be_told_to_does_not_say_that_it_can(quantized):
    source, _ = quantized(gptq(4))

    with open_checkpoint(source) as checkpoint, pytest.raises(SourceRejected) as refused:
        _ = Run(GPTQ, GPTQ.params(), checkpoint).plan
    assert str(refused.value).endswith("; give the model that it was made from")


@pytest.mark.parametrize("layout", [gptq(4), awq(), packed_in_any_order()], ids=["gptq", "awq", "pack-quantized"])
def test_a_gguf_file_in_f32_has_the_values_that_integers_stand_for(layout, quantized, tmp_path):
    source, values = quantized(layout)

    with open_checkpoint(source) as checkpoint:
        run = Run(GGUF, GGUF.params(type="F32", allow_requantize=True), checkpoint)
        run.write(run.quantize(), tmp_path / "plain-gguf")

    found = dict(GGUF.weights(tmp_path / "plain-gguf"))
    assert all(np.array_equal(found[name], each) for name, each in values.items())


@pytest.mark.parametrize(
    ("method", "params"),
    [(BNB, {}), (FP8, {"scheme": "FP8_DYNAMIC"}), (GGUF, {"type": "Q4_K_M"}), (HQQ, {})],
    ids=["bnb", "fp8", "gguf", "hqq"],
)
def test_a_source_in_blocks_of_fp8_is_read_as_what_it_stands_for(method, params, unquantized, tmp_path):
    with open_checkpoint(unquantized) as checkpoint:
        run = Run(FP8, FP8.params(scheme="FP8_NATIVE"), checkpoint)
        run.write(run.quantize(), tmp_path / "source")

    with open_checkpoint(tmp_path / "source") as checkpoint:
        run = Run(method, method.params(**params), checkpoint)
        run.write(run.quantize(), tmp_path / "again")
        verify(checkpoint, run.plan, method, run.params, tmp_path / "again")
        assert "fp8" in run.plan.warnings[0]


@pytest.mark.parametrize("scheme", ["NVFP4A16", "MXFP4A16"])
def test_four_bit_floats_are_read_as_what_they_stand_for(scheme, unquantized, tmp_path):
    with open_checkpoint(unquantized) as checkpoint:
        run = Run(FP8, FP8.params(scheme=scheme), checkpoint)
        run.write(run.quantize(), tmp_path / "source")
    expected = {tensor.name: tensor.values for tensor in FP8.read.load()(tmp_path / "source")}

    with open_checkpoint(tmp_path / "source") as checkpoint:
        assert sorted(checkpoint.index.tensors) == sorted(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(checkpoint.tensor(name).values, values)
        with pytest.raises(SourceRejected, match="allow_requantize"):
            _ = Run(BNB, BNB.params(), checkpoint).plan
        with pytest.raises(ParamsRejected, match="it is made of gptq"):
            _ = Run(REPACK, REPACK.params(to="pack-quantized"), checkpoint).plan


@pytest.mark.parametrize("size", [None, [], 8, 16.0, True])
def test_packed_floats_in_other_groups_are_refused(size, unquantized, tmp_path):
    with open_checkpoint(unquantized) as checkpoint:
        run = Run(FP8, FP8.params(scheme="MXFP4A16"), checkpoint)
        run.write(run.quantize(), tmp_path / "source")
    config = json.loads((tmp_path / "source/config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = size
    (tmp_path / "source/config.json").write_text(json.dumps(config))

    with pytest.raises(SourceRejected, match="only NVFP4 and MXFP4 are known"):
        open_checkpoint(tmp_path / "source")


def test_mxfp4_loses_nothing_in_ggufs_mxfp4(unquantized, tmp_path):
    with open_checkpoint(unquantized) as checkpoint:
        run = Run(FP8, FP8.params(scheme="MXFP4A16"), checkpoint)
        run.write(run.quantize(), tmp_path / "source")

    with open_checkpoint(tmp_path / "source") as checkpoint:
        params = GGUF.params(type="F32", overrides={"model.*_proj.weight": "MXFP4"}, allow_requantize=True)
        run = Run(GGUF, params, checkpoint)
        run.write(run.quantize(), tmp_path / "again")
        verification = verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "again")

    assert {row.scheme for row in run.plan.tensors if row.name in checkpoint.index.stored} == {"MXFP4"}
    assert verification.relative_rmse == 0.0
