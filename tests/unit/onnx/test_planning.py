"""What becomes of each weight of a graph, and which graphs and parameters are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import helper
from pydantic import ValidationError
from tests.onnx_models import SmallModel, one_product, save

from quantmill.checkpoints import open_checkpoint
from quantmill.cli.options import parse_sets
from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import Plan
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.planning import plan
from quantmill_onnx.versions import RUNTIMES, RuntimeVersion


def planned(folder: Path, **params: Any) -> Plan:
    with open_checkpoint(folder) as checkpoint:
        return plan(checkpoint.index, OnnxParams(**params))


def schemes(folder: Path, **params: Any) -> dict[str, str]:
    return {row.name: row.scheme for row in planned(folder, **params).tensors}


@pytest.mark.parametrize(
    ("params", "scheme"),
    [
        ({}, "INT8-CHANNEL"),
        ({"per_channel": False}, "INT8-TENSOR"),
        ({"symmetric": False}, "INT8-CHANNEL-ASYM"),
        ({"target": "avx2"}, "INT8-CHANNEL-REDUCED"),
        ({"target": "avx2", "reduce_range": False}, "INT8-CHANNEL"),
        ({"target": "arm"}, "INT8-CHANNEL"),
        ({"target": "avx2", "weight_type": "u8"}, "UINT8-CHANNEL"),
        ({"weight_type": "u8", "symmetric": False, "per_channel": False}, "UINT8-TENSOR-ASYM"),
        ({"reduce_range": True}, "INT8-CHANNEL-REDUCED"),
        ({"mode": "weight_only"}, "INT8-32"),
        ({"mode": "weight_only", "weight_bits": 4, "block_size": 64, "symmetric": False}, "INT4-64-ASYM"),
    ],
)
def test_the_parameters_choose_the_scheme_of_products(tmp_path: Path, params: dict[str, Any], scheme: str) -> None:
    found = schemes(SmallModel().write(tmp_path / "model"), **params)

    assert {found[name] for name in ("in.0", "gemm.0", "out.0", "head")} == {scheme}
    assert found["table"] == "INT8-ROW"


def test_a_table_that_is_the_head_as_well_is_stored_once(tmp_path: Path) -> None:
    rows = planned(SmallModel(tied=True).write(tmp_path / "model")).by_name

    assert rows["table"].scheme == "INT8-ROW"
    assert rows["table"].nbytes == 300 * 48 + 4 * 300


def test_the_bytes_of_a_weight_are_its_codes_and_scales(tmp_path: Path) -> None:
    folder = SmallModel().write(tmp_path / "model")

    assert planned(folder).by_name["in.0"].nbytes == 48 * 80 + 4 * 80
    # 48 inputs are two blocks of 32 for each of 80 outputs: 16 bytes of codes, a scale, and a byte of two zero points
    four_bits = planned(folder, mode="weight_only", weight_bits=4, symmetric=False)
    assert four_bits.by_name["in.0"].nbytes == 80 * (2 * 16 + 2 * 4 + 1)


def test_small_and_integer_initializers_belong_to_the_graph(tmp_path: Path) -> None:
    with open_checkpoint(SmallModel().write(tmp_path / "model")) as checkpoint:
        assert checkpoint.index.graph is not None
        assert sorted(checkpoint.index.graph.constants) == ["bias.0", "bias.1", "rows"]


def test_an_excluded_node_keeps_its_weight_and_the_plan_says_so(tmp_path: Path) -> None:
    rows = planned(SmallModel().write(tmp_path / "model"), exclude=["block.*/Gemm"], embeddings="keep").by_name

    assert (rows["gemm.1"].action, rows["gemm.1"].reason) == ("keep", "node block.1/Gemm is excluded")
    assert (rows["table"].action, rows["table"].reason) == ("keep", "an embedding table, which is kept")
    assert rows["in.1"].action == "quantize"


@pytest.mark.parametrize(
    ("op_types", "quantized"),
    [
        (["MatMul"], {"in.0", "in.1", "out.0", "out.1", "head"}),
        (["Gemm"], {"gemm.0", "gemm.1"}),
        (["Gather"], {"table"}),
        (["Gemm", "Gather", "Conv"], {"gemm.0", "gemm.1", "table"}),
    ],
)
def test_the_operators_whose_weights_are_quantized_can_be_chosen(
    tmp_path: Path, op_types: list[str], quantized: set[str]
) -> None:
    rows = planned(SmallModel().write(tmp_path / "model"), op_types=op_types).tensors

    assert {row.name for row in rows if row.action == "quantize"} == quantized
    assert {"which op_types leaves out" in row.reason for row in rows if row.action == "keep"} == {True}


def test_a_weight_that_another_operator_takes_too_stays_as_it_is(tmp_path: Path) -> None:
    rows = planned(SmallModel(tied=True).write(tmp_path / "model"), op_types=["MatMul"]).by_name

    assert (rows["table"].action, rows["table"].reason) == ("keep", "used by Gather lookup, which op_types leaves out")


def test_operators_that_the_graph_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="nothing that this method quantizes"):
        planned(SmallModel().write(tmp_path / "model"), op_types=["Conv"])


@pytest.mark.parametrize(("runtime", "opset"), [("1.15", 19), ("1.17", 20), ("1.20", 21), ("1.23", 23)])
def test_an_opset_that_the_runtime_does_not_know_is_refused(tmp_path: Path, runtime: str, opset: int) -> None:
    taken = save(with_opset(opset), tmp_path / "taken")
    refused = save(with_opset(opset + 1), tmp_path / "refused")

    assert planned(taken, runtime=runtime).tensors
    with pytest.raises(SourceRejected, match=f"ONNX Runtime {runtime} takes at most {opset}; export it again"):
        planned(refused, runtime=runtime)


@pytest.mark.parametrize(("runtime", "bits", "least"), [("1.16", 4, "1.17"), ("1.17", 8, "1.22"), ("1.21", 8, "1.22")])
def test_blocks_that_the_runtime_does_not_know_are_refused(runtime: Any, bits: Any, least: str) -> None:
    with pytest.raises(ValidationError, match=f"MatMulNBits of {bits} bits from {least} on"):
        OnnxParams(mode="weight_only", weight_bits=bits, runtime=runtime)


@pytest.mark.parametrize("runtime", ["1.15", "1.20", "1.31"])
def test_a_version_may_be_the_number_that_a_command_line_makes_of_it(runtime: str) -> None:
    assert OnnxParams(**parse_sets([f"runtime={runtime}"])).runtime == runtime


@pytest.mark.parametrize("version", [1.14, 1.2001, 1, True, float("nan")])
def test_other_numbers_are_no_versions(version: Any) -> None:
    with pytest.raises(ValidationError, match="runtime"):
        OnnxParams(runtime=version)


def test_every_version_of_the_runtime_can_be_named() -> None:
    assert get_args(RuntimeVersion) == tuple(RUNTIMES)


def test_a_pattern_that_matches_no_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsRejected, match="matches no node"):
        planned(SmallModel().write(tmp_path / "model"), exclude=["lm_head*"])


def test_without_vnni_full_range_weights_are_warned_of(tmp_path: Path) -> None:
    folder = SmallModel().write(tmp_path / "model")

    assert any("overflow" in each for each in planned(folder, target="avx2", reduce_range=False).warnings)
    assert planned(folder, target="avx2").warnings == planned(folder).warnings == ()


def test_samples_that_a_mode_does_not_read_are_warned_of(tmp_path: Path) -> None:
    folder = save(SmallModel().proto(), tmp_path)

    assert planned(folder, samples="samples.npz").warnings == (
        "nothing here reads the samples: they are for mode static, smoothing, gptq and gates",
    )


def test_what_verification_will_not_run_stands_among_the_warnings(tmp_path: Path) -> None:
    folder = SmallModel().write(tmp_path / "model")
    model = onnx.load(str(folder / "model.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, ["batch", "past", "heads"]))

    assert any("as least_cosine asks" in each for each in planned(folder, least_cosine=None).warnings)
    assert any("more than two dynamic" in each for each in planned(save(model, tmp_path / "other")).warnings)


@pytest.mark.parametrize(
    ("dtype", "shape", "said"),
    [
        (onnx.TensorProto.STRING, ["batch"], "'more' is of another type than random numbers"),
        (onnx.TensorProto.FLOAT, [1 << 20, 1 << 20], "'more' has the shape (1048576, 1048576)"),
        (onnx.TensorProto.FLOAT, ["sequence"] * 64, "'more' has the shape"),
    ],
)
def test_inputs_that_are_not_made_up_stand_among_the_warnings(
    tmp_path: Path, dtype: int, shape: list[Any], said: str
) -> None:
    model = SmallModel().proto()
    model.graph.input.append(helper.make_tensor_value_info("more", dtype, shape))

    assert any(f"does not run it: its input {said}" in each for each in planned(save(model, tmp_path)).warnings)


def test_bytes_are_made_up_as_other_numbers_are(tmp_path: Path) -> None:
    model = SmallModel().proto()
    model.graph.input.append(helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, [1, 8, 8, 3]))

    assert planned(save(model, tmp_path)).warnings == ()


@pytest.mark.parametrize(
    "params",
    [
        {"weight_bits": 4},
        {"algorithm": "hqq"},
        {"mode": "weight_only", "algorithm": "hqq"},
        {"mode": "weight_only", "block_size": 24},
        {"least_cosine": 2},
        {"exclude": [""]},
        {"op_types": []},
        {"weight_type": "u8", "mode": "weight_only"},
        {"weight_type": "u8", "mode": "static", "activation_type": "s8"},
        {"weight_type": "u8", "reduce_range": True},
        {"op_types": ["LSTM"]},
        {"runtime": "1.2"},
    ],
)
def test_parameters_that_do_not_go_together_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OnnxParams(**params)


KEPT: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "half precision": (lambda: one_product(weight=np.ones((64, 32), np.float16)), "F16; integer products give float32"),
    "three dimensions": (lambda: one_product(weight=np.ones((2, 64, 32), np.float32)), "3 dimensions"),
    "left factor": (lambda: one_product(inputs=("w", "x")), "used by MatMul product"),
    "scaled Gemm": (lambda: one_product("Gemm", alpha=0.5), "used by Gemm product"),
    "other columns": (lambda: one_product("Gather", axis=1, inputs=("w", "x")), "used by Gather product"),
    "another operator": (lambda: one_product("Add"), "used by Add product"),
}


@pytest.mark.parametrize("case", KEPT)
def test_a_weight_that_no_integer_product_can_take_is_kept_with_the_reason(tmp_path: Path, case: str) -> None:
    model, reason = KEPT[case]

    with pytest.raises(SourceRejected) as refused:
        planned(save(model(), tmp_path / "model"))

    assert f"nothing that this method quantizes (w: {reason})" in refused.value.detail


def with_opset(version: int) -> onnx.ModelProto:
    model = one_product()
    model.opset_import[0].version = version
    return model


def with_ir(version: int) -> onnx.ModelProto:
    model = one_product()
    model.ir_version = version
    return model


def overridable() -> onnx.ModelProto:
    model = one_product()
    model.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [64, 32]))
    return model


def with_branches(op_type: str, domain: str) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["y"], ["inner"], domain=domain)
    branch = helper.make_graph([node], "branch", [], [helper.make_empty_tensor_value_info("inner")])
    model = one_product()
    model.graph.input.append(helper.make_tensor_value_info("choice", onnx.TensorProto.BOOL, []))
    choosing = helper.make_node("If", ["choice"], ["z"], name="if", then_branch=branch, else_branch=branch)
    model.graph.node.append(choosing)
    return model


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "old opset": (lambda: with_opset(10), "opset 10, integer products need 11; export it again"),
    "opset to come": (lambda: with_opset(99), "takes at most"),
    "custom operator": (lambda: one_product("Fused", domain="com.example"), "custom operator 'com.example' 'Fused'"),
    "quantized": (lambda: one_product("MatMulInteger"), "quantized already: node 'product' is a MatMulInteger"),
    "blocks": (lambda: one_product("MatMulNBits", domain="com.microsoft"), "node 'product' is a MatMulNBits"),
    "our own artifact": (SmallModel(metadata={"quantmill.transposed": "[]"}).proto, "quantized already: its metadata"),
    "blocks of another kind": (lambda: one_product("MatMulBnb4", domain="com.microsoft"), "is a MatMulBnb4"),
    "IR version to come": (lambda: with_ir(99), "IR version 99; ONNX Runtime 1.31 takes at most"),
    "a value of nowhere": (lambda: one_product(inputs=("z", "w")), "takes 'z', which nothing before it makes"),
    "custom operator in a branch": (lambda: with_branches("Fused", "com.example"), "'if' has in a graph of its own"),
    "quantized in a branch": (lambda: with_branches("QLinearMatMul", ""), "has in a graph of its own a QLinearMatMul"),
    "a circle": (lambda: one_product(inputs=("y", "w")), "'product' takes 'y', which nothing before it makes"),
    "weights of the caller": (overridable, "an input or output of the graph"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_cannot_be_quantized_is_refused_and_says_why(tmp_path: Path, case: str) -> None:
    model, named = REFUSED[case]

    with pytest.raises(SourceRejected) as refused:
        planned(save(model(), tmp_path / "model"))

    assert named in refused.value.detail


def test_a_checkpoint_is_planned_as_the_graph_that_it_becomes(tmp_path: Path) -> None:
    assert "LlamaForCausalLM" in planned(SyntheticLlama(blocks=1).write(tmp_path / "model")).converts
