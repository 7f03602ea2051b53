"""Weights that stay float, stored as float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tests.onnx_models import SmallModel, one_product, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.tensors import TensorPlan
from quantmill.contract.testing import Run
from quantmill_onnx.inspection import cosine, open_session
from quantmill_onnx.plugin import ONNX

SAMPLES = Path(__file__).parents[2] / "data" / "onnx_samples.npz"
IDS = np.random.default_rng(7).integers(0, 300, (2, 9))
KEPT: dict[str, Any] = {"rest": "float16", "embeddings": "keep", "exclude": ["block.0/*"]}


def made(proto: onnx.ModelProto, folder: Path, **params: Any) -> tuple[Run, Path]:
    with open_checkpoint(save(proto, folder / "source")) as checkpoint:
        run = Run(ONNX, ONNX.params(**params), checkpoint)
        run.write(run.quantize(), folder / "artifact")
        assert ONNX.inspect is not None
        observations = ONNX.inspect.load()(folder / "artifact", run.plan, checkpoint.index, run.params).observations
        assert [f"{each.name}: {each.found}" for each in observations if not each.holds] == []
        return run, folder / "artifact"


def product() -> onnx.ModelProto:
    model = one_product()
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 32]))
    return model


def stored(folder: Path) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(str(folder / "model.onnx")).graph.initializer}


@pytest.mark.parametrize("mode", ["dynamic", "weight_only"])
def test_what_stays_float_is_the_nearest_float16(tmp_path: Path, mode: str) -> None:
    run, folder = made(SmallModel().proto(), tmp_path, mode=mode, **KEPT)

    source, arrays = SmallModel().weights(), stored(folder)
    kept = {row.name for row in run.plan.tensors if row.scheme == "F16-ROUNDED"}
    assert kept == {"table", "in.0", "gemm.0", "out.0"}
    for name in kept:
        assert np.array_equal(arrays[f"{name}_float16"], source[name].astype(np.float16))
        assert run.plan.by_name[name].nbytes == source[name].nbytes // 2
        assert name not in arrays


def test_consumers_need_no_change_and_the_runtime_casts_once(tmp_path: Path) -> None:
    _, folder = made(SmallModel().proto(), tmp_path, **KEPT)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    (found,) = session.run(None, {"ids": IDS})

    (expected,) = open_session(tmp_path / "source" / "model.onnx").run(None, {"ids": IDS})
    optimized = onnx.load(str(tmp_path / "optimized.onnx")).graph
    assert found.dtype == np.float32
    assert cosine(found, expected) > 0.9995
    assert not {each.name for each in optimized.initializer if each.data_type == onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([65519.9], ""),
        ([65520.0], "float16 ends at 65504 and it has 6.552e+04"),
        ([float(np.finfo(np.float32).min)], "float16 ends at 65504 and it has 3.403e+38"),
        ([1e-7] * 2048, "most of its values are too small for float16"),
    ],
)
def test_what_float16_does_not_hold_stays_float32_with_the_reason(
    tmp_path: Path, values: list[float], why: str
) -> None:
    weight = np.zeros((64, 32), np.float32) if len(values) > 1 else np.ones((64, 32), np.float32)
    weight.reshape(-1)[: len(values)] = values
    model = product()
    model.graph.initializer.append(numpy_helper.from_array(weight.reshape(2, 32, 32), "mask"))
    model.graph.node.append(onnx.helper.make_node("Identity", ["mask"], ["unused"]))

    run, folder = made(model, tmp_path, rest="float16", least_cosine=None)

    row: TensorPlan = run.plan.by_name["mask"]
    assert row.scheme == ("F32" if why else "F16-ROUNDED")
    assert row.reason == ("3 dimensions" + (f"; float32, since {why}" if why else ""))
    assert stored(folder)["mask" if why else "mask_float16"].dtype == (np.float32 if why else np.float16)


def test_what_the_caller_sees_stays_as_it_is(tmp_path: Path) -> None:
    model = product()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((64, 32), np.float32), "given"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, [64, 32]))

    run, _ = made(model, tmp_path, rest="float16")

    assert run.plan.by_name["given"].scheme == "F32"


def test_a_weight_that_gates_keep_float_becomes_float16(tmp_path: Path) -> None:
    gates = {"gates": ["cosine.mean >= 0.99999"], "samples": str(SAMPLES)}
    run, folder = made(SmallModel().proto(), tmp_path, rest="float16", **gates)

    kept = {row.name for row in run.plan.tensors if row.action == "keep"}
    assert kept
    assert {run.plan.by_name[name].scheme for name in kept} == {"F16-ROUNDED"}
    assert {f"{name}_float16" for name in kept} <= set(stored(folder))


def test_sources_in_float16_are_kept_as_they_are(tmp_path: Path) -> None:
    model = product()
    half = np.ones((64, 32), np.float16)
    model.graph.initializer.append(numpy_helper.from_array(half, "half"))
    model.graph.node.append(onnx.helper.make_node("Cast", ["half"], ["whole"], to=onnx.TensorProto.FLOAT))

    run, _ = made(model, tmp_path, rest="float16")

    assert run.plan.by_name["half"].scheme == "F16"
