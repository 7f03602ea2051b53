"""Products with ranges that samples have given."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError
from tests.onnx_models import SmallModel, array, fused, one_product, run, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.testing import Run
from quantmill_onnx import calibration
from quantmill_onnx.inspection import cosine
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX

Quantized = Callable[..., Path]
Params = Mapping[str, Any]
Weights = Callable[[Path], dict[str, np.ndarray]]

X = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 300, (12, 9))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("samples")
    np.savez(folder / "x.npz", x=X)
    np.savez(folder / "ids.npz", ids=IDS)
    return {name: str(folder / f"{name}.npz") for name in ("x", "ids")}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("kind", ["u8", "s8"])
@pytest.mark.parametrize("params", [{}, {"symmetric": False}, {"per_channel": False}, {"target": "avx2"}])
@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_a_product_is_that_of_what_the_codes_stand_for(
    quantized: Quantized, weights: Weights, samples: dict[str, str], op_type: str, params: Params, kind: str, form: str
) -> None:
    given = {"mode": "static", "samples": samples["x"], "activation_type": kind, "format": form, **params}
    folder = quantized(one_product(op_type), **given)
    scale, zero = array(folder, "x_scale"), array(folder, "x_zero_point")
    least, most = (0, 255) if kind == "u8" else (-128, 127)

    restored = (np.clip(np.rint(2 * X / scale) + zero, least, most) - zero) * scale
    expected = restored.astype(np.float64) @ weights(folder)["w"]

    assert np.abs(restored).max() < 0.7 * np.abs(2 * X).max()  # what no sample had is cut off
    assert np.allclose(run(folder, x=2 * X), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("params", [{}, {"symmetric": False}, {"per_channel": False}])
def test_unsigned_weights_give_what_signed_ones_give(
    quantized: Quantized, samples: dict[str, str], tmp_path: Path, params: Params, form: str
) -> None:
    given = {"mode": "static", "samples": samples["ids"], "format": form, **params}
    ids = np.random.default_rng(7).integers(0, 300, (2, 9))
    expected = run(quantized(SmallModel(tied=True).proto(), **given), ids=ids)
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "artifact")

    folder = quantized(SmallModel(tied=True).proto(), weight_type="u8", **given)

    assert array(folder, "in.0_quantized").dtype == np.uint8
    assert array(folder, "table_quantized").dtype == np.int8
    assert np.allclose(run(folder, ids=ids), expected, atol=1e-5)


def test_minmax_spans_what_the_samples_had(quantized: Quantized, samples: dict[str, str]) -> None:
    folder = quantized(one_product(), mode="static", samples=samples["x"])
    scale, zero = float(array(folder, "x_scale")), int(array(folder, "x_zero_point"))

    assert -zero * scale == pytest.approx(X.min(), abs=scale)
    assert (255 - zero) * scale == pytest.approx(X.max(), abs=scale)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_look_ups_gemms_and_transposes_stays_itself(
    quantized: Quantized, samples: dict[str, str], tied: bool, method: str
) -> None:
    model = SmallModel(tied=tied)
    folder = quantized(model.proto(), mode="static", samples=samples["ids"], calibration_method=method)

    ids = np.random.default_rng(7).integers(0, model.vocab, (2, 9))

    assert cosine(run(folder, ids=ids), run(folder.parent / "source", ids=ids)) > 0.9995


def test_the_runtime_fuses_every_product(quantized: Quantized, samples: dict[str, str], tmp_path: Path) -> None:
    folder = quantized(SmallModel(tied=True).proto(), mode="static", samples=samples["ids"])

    found = fused(folder, tmp_path / "fused.onnx")

    assert found["MatMulIntegerToFloat"] == 7
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & set(found)


def test_operators_of_integers_give_what_qdq_gives(
    quantized: Quantized, samples: dict[str, str], tmp_path: Path
) -> None:
    given = {"mode": "static", "samples": samples["ids"]}
    ids = np.random.default_rng(7).integers(0, 300, (2, 9))
    expected = run(quantized(SmallModel(tied=True).proto(), **given), ids=ids)
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "artifact")

    folder = quantized(SmallModel(tied=True).proto(), format="qoperator", **given)

    operators = {node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node}
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & operators
    assert np.allclose(run(folder, ids=ids), expected, atol=1e-5)


def made(source: Path, threads: int = 1, **params: Any) -> dict[str, bytes]:
    """The bytes of all parts of all tensors."""
    with open_checkpoint(source) as checkpoint:
        run = Run(ONNX, OnnxParams(mode="static", **params), checkpoint)
        return {
            f"{tensor.name} {part}": values.tobytes()
            for tensor in run.quantize(threads)
            for part, values in tensor.parts.items()
        }


@pytest.mark.parametrize("external", ["", "weights.bin"])
def test_threads_and_slices_change_no_byte(
    samples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: str
) -> None:
    source = SmallModel(external=external).write(tmp_path / "model")
    expected = made(source, samples=samples["ids"])

    assert made(source, threads=3, samples=samples["ids"]) == expected
    monkeypatch.setattr(calibration, "SLICE_BYTES", 1)
    assert made(source, threads=2, samples=samples["ids"]) == expected


def test_weights_behind_the_links_of_a_cache_are_found(samples: dict[str, str], tmp_path: Path) -> None:
    source = SmallModel(external="weights.bin").write(tmp_path / "models--small" / "blobs")
    snapshot = tmp_path / "models--small" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    for path in source.iterdir():
        (snapshot / path.name).symlink_to(path)

    assert made(snapshot, samples=samples["ids"]) == made(source, samples=samples["ids"])


def test_ranges_are_noted_of_the_weight_that_takes_them_first(samples: dict[str, str], tmp_path: Path) -> None:
    with open_checkpoint(SmallModel().write(tmp_path / "model")) as checkpoint:
        run = Run(ONNX, OnnxParams(mode="static", samples=samples["ids"]), checkpoint)
        list(run.quantize())

    assert sorted(note.tensor for note in run.notes) == ["gemm.0", "gemm.1", "head", "in.0", "in.1", "out.0", "out.1"]
    assert all(note.figures["low"] < 0 < note.figures["high"] for note in run.notes)


def test_samples_that_have_changed_end_the_job(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", ids=IDS)
    with open_checkpoint(SmallModel().write(tmp_path / "model")) as checkpoint:
        run = Run(ONNX, OnnxParams(mode="static", samples=str(tmp_path / "s.npz")), checkpoint)
        assert len(run.plan.inputs["samples"]) == 64
        np.savez(tmp_path / "s.npz", ids=IDS + 1)
        with pytest.raises(SourceRejected, match="have changed"):
            list(run.quantize())


def test_samples_that_the_graph_cannot_run_on_end_the_job(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", ids=IDS + 1000)

    with pytest.raises(SourceRejected, match="cannot run the source on the samples"):
        made(SmallModel().write(tmp_path / "model"), samples=str(tmp_path / "s.npz"))


def test_an_activation_that_is_not_finite_ends_the_job(tmp_path: Path) -> None:
    model = one_product()
    model.graph.node.insert(0, onnx.helper.make_node("Exp", ["x"], ["e"]))
    model.graph.node[1].input[0] = "e"
    np.savez(tmp_path / "s.npz", x=1000 * X)

    with pytest.raises(SourceRejected, match="sample 0 makes e what cannot be counted: a value is not finite"):
        made(save(model, tmp_path / "model"), samples=str(tmp_path / "s.npz"))


@pytest.mark.parametrize("mode", ["dynamic", "weight_only"])
def test_operators_of_integers_are_static(mode: Any) -> None:
    with pytest.raises(ValidationError, match="choose mode static for format qoperator"):
        OnnxParams(mode=mode, format="qoperator")


def test_static_has_weights_of_eight_bits() -> None:
    with pytest.raises(ValidationError, match="static has 8-bit weights"):
        OnnxParams(mode="static", samples="s.npz", weight_bits=4)


def test_an_old_opset_is_refused(samples: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="mode static needs 13"):
        made(SmallModel(opset=12, ir_version=7).write(tmp_path / "model"), samples=samples["ids"])


def test_samples_of_another_model_are_refused_when_the_job_is_planned(samples: dict[str, str], tmp_path: Path) -> None:
    with (
        open_checkpoint(SmallModel().write(tmp_path / "model")) as checkpoint,
        pytest.raises(ParamsRejected, match="no array 'ids'"),
    ):
        ONNX.plan.load()(checkpoint.index, OnnxParams(mode="static", samples=samples["x"]))
