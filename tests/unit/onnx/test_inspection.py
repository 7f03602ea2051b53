"""What an inspection runs and compares: which inputs, which outputs, graphs that say little of their shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tests.onnx_models import one_product, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.reading import Observation
from quantmill.contract.testing import Run
from quantmill_onnx.plugin import ONNX

FLOAT = onnx.TensorProto.FLOAT
X = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)


def inspected(model: onnx.ModelProto, tmp_path: Path, **params: Any) -> tuple[list[Observation], tuple[str, ...]]:
    """All that is observed of the artifact, and the plan's warnings."""
    with open_checkpoint(save(model, tmp_path / "source")) as checkpoint:
        each = Run(ONNX, ONNX.params(**params), checkpoint)
        each.write(each.quantize(), tmp_path / "artifact")
        inspection = ONNX.inspect.load()(tmp_path / "artifact", each.plan, checkpoint.index, each.params)
        return list(inspection.observations), each.plan.warnings


def wrong(observations: list[Observation]) -> list[Observation]:
    return [each for each in observations if each.found != each.expected]


def test_graphs_whose_inputs_and_outputs_have_no_shape_are_accepted(tmp_path: Path) -> None:
    model = one_product()
    model.graph.input[0].type.tensor_type.ClearField("shape")

    observations, warnings = inspected(model, tmp_path)

    assert wrong(observations) == []
    assert warnings == ("verification loads the graph and does not run it: its input 'x' has no shape",)


def test_samples_that_are_read_are_what_a_graph_without_random_inputs_runs_on(tmp_path: Path) -> None:
    model = one_product()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, ["a", "b", "c", 64]))
    np.savez(tmp_path / "x.npz", x=X.reshape(5, 4, 2, 64))

    observations, warnings = inspected(
        model, tmp_path, mode="weight_only", algorithm="gptq", samples=str(tmp_path / "x.npz")
    )

    assert "the artifact on the first sample (least_cosine null leaves it out)" in [each.name for each in observations]
    assert (wrong(observations), warnings) == ([], ())


def test_outputs_that_are_infinite_in_part_are_compared_where_they_are_not(tmp_path: Path) -> None:
    model = one_product()
    masked = np.where(np.arange(32) % 2, 0, -np.inf).astype(np.float32)
    model.graph.node[0].output[0] = "product"
    model.graph.node.append(helper.make_node("Add", ["product", "masked"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(masked, "masked"))

    observations, _ = inspected(model, tmp_path)

    assert [each.found for each in observations if each.check == "divergence"] == ["at least 0.9"]
    assert wrong(observations) == []
