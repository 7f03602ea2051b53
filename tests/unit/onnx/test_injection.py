"""Real quantized graphs, damaged in one way each: verification refuses each by the check, and names it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.onnx_models import SmallModel
from tests.unit.verification.folders import Made, assert_refused

from quantmill.checkpoints import open_checkpoint
from quantmill.verification import verify
from quantmill_onnx.plugin import ONNX

BLOCKS: Mapping[str, Any] = {"mode": "weight_only", "weight_bits": 4, "symmetric": False}


SAMPLES = Path(__file__).parents[2] / "data" / "onnx_samples.npz"
STATIC: Mapping[str, Any] = {"mode": "static", "samples": str(SAMPLES)}


QOPERATOR = {**STATIC, "format": "qoperator"}
UNSIGNED = {"weight_type": "u8", "target": "avx2"}
HALVED = {"rest": "float16", "embeddings": "keep"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("small")
    with open_checkpoint(SmallModel().write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder)


CLEAN: list[Mapping[str, Any]] = [
    {},
    {"symmetric": False},
    {"per_channel": False, "target": "avx2"},
    {"activations": "tensor", "embeddings": "keep"},
    {"external_data": "always", "exclude": ["block.0/*"]},
    BLOCKS,
    {"mode": "weight_only", "block_size": 64, "least_cosine": None},
    {**BLOCKS, "algorithm": "hqq", "external_data": "always"},
    {**STATIC, "calibration_method": "percentile"},
    {**STATIC, "activation_type": "s8", "symmetric": False, "per_channel": False, "external_data": "always"},
    QOPERATOR,
    {**QOPERATOR, "symmetric": False, "exclude": ["block.0/*"]},
    UNSIGNED,
    {**STATIC, **UNSIGNED, "symmetric": False},
    HALVED,
    {**HALVED, "mode": "weight_only", "external_data": "always"},
]


@pytest.mark.parametrize("params", CLEAN)
def test_a_clean_artifact_passes(made: Made, params: Mapping[str, Any]) -> None:
    assert made.failed_checks(ONNX, params, made.artifact(ONNX, params)) == {}


def test_every_check_stands_in_the_documentation(made: Made) -> None:
    run, page = made.run(ONNX, {}), Path(__file__).parents[3] / "docs" / "verification.md"
    checked = verify(made.checkpoint, run.plan, ONNX, run.params, made.artifact(ONNX, {})).checks

    assert [check.name for check in checked if f"| `{check.name}` |" not in page.read_text()] == []


# The damages

Damage = Callable[[onnx.ModelProto], object]
DAMAGES: dict[str, tuple[Mapping[str, Any], Damage, str, str]] = {}


def damage(check: str, named: str, **params: Any) -> Callable[[Damage], Damage]:
    def add(edit: Damage) -> Damage:
        DAMAGES[edit.__name__.strip("_").replace("_", " ")] = (params, edit, check, named)
        return edit

    return add


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in model.graph.initializer if each.name == name)


def change(model: onnx.ModelProto, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = initializer(model, name)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), name))


def node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.op_type == op_type)


def first(values: np.ndarray, to: Any) -> np.ndarray:
    values.reshape(-1)[0] = to
    return values


@damage("finite", "in.0")
def a_scale_is_not_a_number(model: onnx.ModelProto) -> None:
    change(model, "in.0_scale", lambda values: first(values, np.nan))


@damage("block_bounds", "in.0")
def a_scale_is_twice_as_large(model: onnx.ModelProto) -> None:
    change(model, "in.0_scale", lambda values: first(values, 2 * values[0]))


@damage("block_bounds", "table")
def the_rows_of_a_table_are_shuffled(model: onnx.ModelProto) -> None:
    change(model, "table_quantized", lambda values: values[::-1])


@damage("error_bounds", "gemm.1")
def a_weight_is_another_s(model: onnx.ModelProto) -> None:
    change(model, "gemm.1_quantized", lambda _: numpy_helper.to_array(initializer(model, "gemm.0_quantized")))


@damage("error_bounds", "out.0")
def a_square_weight_is_turned(model: onnx.ModelProto) -> None:
    change(model, "out.0_quantized", lambda values: np.ascontiguousarray(values.T))


@damage("error_bounds", "in.0", **BLOCKS)
def nibbles_are_swapped(model: onnx.ModelProto) -> None:
    change(model, "in.0_quantized", lambda values: (values >> 4 | values << 4).astype(np.uint8))


@damage("schemes", "in.0", **BLOCKS)
def zero_points_are_lost(model: onnx.ModelProto) -> None:
    model.graph.initializer.remove(initializer(model, "in.0_zero_point"))


@damage("readable", "in.0")
def a_scale_is_lost(model: onnx.ModelProto) -> None:
    model.graph.initializer.remove(initializer(model, "in.0_scale"))


@damage("readable", "in.0", **BLOCKS)
def a_product_has_another_block_size(model: onnx.ModelProto) -> None:
    chosen = next(each for each in model.graph.node if "in.0_quantized" in each.input)
    next(each for each in chosen.attribute if each.name == "block_size").i = 64


@damage("schemes", "in.1", target="avx2")
def weights_no_longer_say_that_they_have_seven_bits(model: onnx.ModelProto) -> None:
    for each in model.metadata_props:
        if each.key == "quantmill.reduced":
            each.value = "[]"


@damage("readable", "quantmill.transposed")
def the_list_of_transposes_is_lost(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


@damage("nothing_else", "foreign")
def a_weight_is_added(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones((32, 32), np.float32), "foreign"))


@damage("tensors_present", "head")
def a_product_is_lost(model: onnx.ModelProto) -> None:
    model.graph.node.remove(next(each for each in model.graph.node if "head_quantized" in each.input))


@damage("operators", "block.0/Tanh")
def another_function_is_computed(model: onnx.ModelProto) -> None:
    node(model, "Tanh").op_type = "Sigmoid"


@damage("operators", "Relu")
def a_node_is_added(model: onnx.ModelProto) -> None:
    model.graph.node.insert(1, onnx.helper.make_node("Relu", ["x0"], ["unused"], name="Relu"))


@damage("interface", "IR version", runtime="1.16")
def another_ir_version_is_said(model: onnx.ModelProto) -> None:
    model.ir_version = 9


@damage("constants", "bias.0")
def a_bias_is_off(model: onnx.ModelProto) -> None:
    change(model, "bias.0", lambda values: first(values, values[0] + 1e-6))


@damage("interface", "output logits")
def an_output_has_another_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


@damage("interface", "opset ai.onnx")
def another_opset_is_imported(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 16


@damage("onnx_checker", "model.onnx")
def a_value_is_made_by_no_node(model: onnx.ModelProto) -> None:
    node(model, "Cast").input[0] = "nowhere"


@damage("divergence", "logits")
def a_product_forgets_the_size_of_its_rows(model: onnx.ModelProto) -> None:
    last = next(each for each in model.graph.node if each.op_type == "Mul" and each.output[0] == "logits")
    last.input[1] = last.input[0]


@damage("activations", "x0_smooth", **STATIC)
def a_range_has_no_width(model: onnx.ModelProto) -> None:
    change(model, "x0_scale", lambda values: np.zeros_like(values))


@damage("activations", "x0_smooth", **STATIC)
def an_activation_is_restored_by_another_scale(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.node if each.output[0] == "x0_dequantized").input[1] = "x1_scale"


@damage("activations", "samples", **STATIC)
def the_samples_are_not_named(model: onnx.ModelProto) -> None:
    model.metadata_props.remove(next(each for each in model.metadata_props if each.key == "quantmill.calibration"))


@damage("divergence", "logits", **STATIC)
def a_range_is_far_too_narrow(model: onnx.ModelProto) -> None:
    change(model, "x2_scale", lambda values: np.float32(1e-6) * values)


@damage("readable", "in.0", **STATIC)
def a_symmetric_weight_has_zero_points(model: onnx.ModelProto) -> None:
    change(model, "quantmill_zeros_80", lambda values: values + 1)


@damage("readable", "in.0", **STATIC)
def scales_stand_for_the_inputs(model: onnx.ModelProto) -> None:
    chosen = next(each for each in model.graph.node if "in.0_quantized" in each.input)
    next(each for each in chosen.attribute if each.name == "axis").i = 0


@damage("operators", "integer products", **STATIC)
def a_product_takes_the_float_activation(model: onnx.ModelProto) -> None:
    chosen = next(each for each in model.graph.node if each.op_type == "MatMul" and each.output[0] == "logits")
    chosen.input[0] = "x2"


@damage("error_bounds", "in.0", **STATIC)
def a_channel_s_factor_is_off(model: onnx.ModelProto) -> None:
    change(model, "x0_smoothing", lambda values: np.float32(2) * values)


@damage("schemes", "in.0", **STATIC)
def an_activation_is_not_smoothed(model: onnx.ModelProto) -> None:
    node(model, "QuantizeLinear").input[0] = "x0"


@damage("readable", "in.0", **STATIC)
def a_factor_is_negative(model: onnx.ModelProto) -> None:
    change(model, "x0_smoothing", lambda values: -values)


@damage("readable", "in.0", **QOPERATOR)
def a_product_takes_another_scale(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.node if each.output[0] == "x0_in_step").input[1] = "in.1_scale"


@damage("activations", "x0_smooth", **QOPERATOR)
def a_product_takes_codes_by_another_scale(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.node if each.output[0] == "x0_in_step").input[0] = "x1_scale"


@damage("activations", "x0_smooth", **QOPERATOR)
def a_product_takes_codes_by_another_zero_point(model: onnx.ModelProto) -> None:
    node(model, "MatMulInteger").input[2] = "x1_zero_point"


@damage("operators", "MatMulInteger", **QOPERATOR)
def a_product_forgets_its_scales(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.node if each.output[0] == "x0_in").input[1] = "x0_scale"


@damage("error_bounds", "in.0", **QOPERATOR)
def a_channel_s_factor_is_off_before_codes(model: onnx.ModelProto) -> None:
    change(model, "x0_smoothing", lambda values: np.float32(2) * values)


@damage("readable", "in.0", **UNSIGNED)
def unsigned_codes_have_no_zero_point(model: onnx.ModelProto) -> None:
    del next(each for each in model.graph.node if "in.0_quantized" in each.input).input[3:]


@damage("readable", "in.0", **UNSIGNED)
def unsigned_codes_have_another_zero_point(model: onnx.ModelProto) -> None:
    change(model, "quantmill_middle_80", lambda values: values - 1)


@damage("readable", "in.0")
def signed_codes_have_a_zero_point(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.full(80, 1, np.int8), "ones"))
    next(each for each in model.graph.node if "in.0_quantized" in each.input).input.append("ones")


@damage("float16", "table", **HALVED)
def a_value_is_not_the_nearest_float16(model: onnx.ModelProto) -> None:
    change(model, "table_float16", lambda values: first(values, np.nextafter(values[0, 0], np.float16(9))))


@damage("readable", "table", **HALVED)
def a_float16_is_taken_by_another_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Identity", ["table_float16"], ["more"]))


@damage("readable", "table", **HALVED)
def a_float16_becomes_another_weight(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.node if "table_float16" in each.input).output[0] = "another"


@damage("onnx_checker", "model.onnx")
def an_activation_is_made_of_itself(model: onnx.ModelProto) -> None:
    node(model, "Div").input[0] = node(model, "Div").output[0]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_artifact_is_refused(made: Made, tmp_path: Path, name: str) -> None:
    params, edit, check, named = DAMAGES[name]
    folder = Path(shutil.copytree(made.artifact(ONNX, params), tmp_path / "artifact"))
    model = onnx.load(str(folder / "model.onnx"))
    edit(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())

    assert_refused(made.failed_checks(ONNX, params, folder), check, named)


def moved(model: onnx.ModelProto) -> None:
    next(each for each in initializer(model, "in.0_quantized").external_data if each.key == "offset").value = "999999"


def elsewhere(model: onnx.ModelProto) -> None:
    next(
        each for each in initializer(model, "in.0_quantized").external_data if each.key == "location"
    ).value = "../model/model.onnx"


@pytest.mark.parametrize("edit", [moved, elsewhere])
def test_external_data_at_another_place_is_refused(made: Made, tmp_path: Path, edit: Damage) -> None:
    params = {"external_data": "always"}
    folder = Path(shutil.copytree(made.artifact(ONNX, params), tmp_path / "artifact"))
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    edit(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())

    assert_refused(made.failed_checks(ONNX, params, folder), "readable", "in.0_quantized")
