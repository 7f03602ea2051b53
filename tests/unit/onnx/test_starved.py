"""Products that no row of a sample goes to, as experts have them: activations with values for some tokens only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.onnx_models import run, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.testing import Run
from quantmill_onnx.inspection import cosine
from quantmill_onnx.plugin import ONNX

FLOAT = onnx.TensorProto.FLOAT
NONE = np.random.default_rng(1).standard_normal((12, 64)).astype(np.float32)  # no row goes to the expert
SOME = np.where(np.arange(12)[:, None] % 3 == 0, NONE + 5, NONE)


def expert() -> onnx.ModelProto:
    """y = x w + the sum of what the expert makes of the rows whose first value is above 2.5. y has no shape."""
    generator = np.random.default_rng(0)
    constants = {
        "w": generator.standard_normal((64, 32)).astype(np.float32),
        "expert": generator.standard_normal((64, 32)).astype(np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "limit": np.array(2.5, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["all"], name="all/MatMul"),
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["first"]),
        helper.make_node("Squeeze", ["first", "one"], ["firsts"]),
        helper.make_node("Greater", ["firsts", "limit"], ["chosen"]),
        helper.make_node("Compress", ["x", "chosen"], ["taken"], axis=0),
        helper.make_node("MatMul", ["taken", "expert"], ["made"], name="expert/MatMul"),
        helper.make_node("ReduceSum", ["made", "zero"], ["summed"]),
        helper.make_node("Add", ["all", "summed"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "expert",
        [helper.make_tensor_value_info("x", FLOAT, ["tokens", 64])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(expert(), tmp_path / "source")


def made(source: Path, tmp_path: Path, x: np.ndarray, **params: Any) -> tuple[Path, Run]:
    """The artifact, in which nothing is found wrong, with the rows of `x` as samples."""
    np.savez(tmp_path / "x.npz", x=x)
    folder = tmp_path / "artifact"
    with open_checkpoint(source) as checkpoint:
        each = Run(ONNX, ONNX.params(samples=str(tmp_path / "x.npz"), **params), checkpoint)
        each.write(each.quantize(), folder)
        inspection = ONNX.inspect.load()(folder, each.plan, checkpoint.index, each.params)
    assert [seen for seen in inspection.observations if seen.found != seen.expected] == []
    return folder, each


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "static"},
        {"mode": "static", "format": "qoperator"},
        {"mode": "dynamic"},
        {"mode": "dynamic", "smoothing": True},
        {"mode": "weight_only", "algorithm": "gptq"},
    ],
)
def test_samples_and_inputs_without_a_row_for_it_run(source: Path, tmp_path: Path, params: dict[str, Any]) -> None:
    folder, _ = made(source, tmp_path, SOME, **params)

    for x in (NONE, SOME):
        assert cosine(run(folder, x=x), run(source, x=x)) > 0.99


def test_no_range_follows_from_samples_that_never_reach_it(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="no sample has a value of taken"):
        made(source, tmp_path, NONE, mode="static")


def test_blocks_that_no_sample_reaches_are_rounded(source: Path, tmp_path: Path) -> None:
    _, each = made(source, tmp_path, NONE, mode="weight_only", weight_bits=4, algorithm="gptq", least_cosine=None)

    assert [note.tensor for note in each.notes if note.found == "rounded to nearest"] == ["expert"]
