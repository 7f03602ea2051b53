"""Blocks whose codes are solved for by what samples have shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from pydantic import ValidationError
from tests.onnx_models import Attempts, SmallModel, one_product, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.testing import Run
from quantmill.verification.compare import compare
from quantmill_onnx import hessians
from quantmill_onnx.counting import moments_of
from quantmill_onnx.inspection import open_session
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX
from quantmill_onnx.samples import read_samples

Quantized = Callable[..., Path]

GENERATOR = np.random.default_rng(11)
MIXED = GENERATOR.standard_normal((64, 64)).astype(np.float32)
X = (GENERATOR.standard_normal((300, 8)) @ GENERATOR.standard_normal((8, 64))).astype(np.float32)
X += 0.1 * GENERATOR.standard_normal(X.shape).astype(np.float32)  # nearly of eight dimensions
W = GENERATOR.standard_normal((64, 32)).astype(np.float32)
IDS = GENERATOR.integers(0, 300, (6, 40))
SOLVED: dict[str, Any] = {"mode": "weight_only", "weight_bits": 4, "algorithm": "gptq"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("samples")
    np.savez(folder / "x.npz", x=X)
    np.savez(folder / "ids.npz", ids=IDS)
    return {name: str(folder / f"{name}.npz") for name in ("x", "ids")}


def tensors(source: Path, threads: int = 1, finished: tuple[str, ...] = (), **params: Any) -> dict[str, bytes]:
    """The bytes of all parts of all tensors."""
    with open_checkpoint(source) as checkpoint:
        run = Run(ONNX, OnnxParams(**SOLVED, **params), checkpoint)
        return {
            f"{tensor.name} {part}": values.tobytes()
            for tensor in run.quantize(threads, finished)
            for part, values in tensor.parts.items()
        }


def stored(folder: Path) -> dict[str, np.ndarray]:
    """The initializers by name."""
    model = onnx.load(str(folder / "model.onnx"))
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def lost(folder: Path) -> float:
    """Relative error of the products of the samples."""
    expected = X.astype(np.float64) @ W
    return float(np.linalg.norm(X @ dict(ONNX.weights(folder))["w"] - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("params", [{}, {"symmetric": False}, {"block_size": 128}, {"op_type": "Gemm"}])
def test_products_of_the_samples_lose_less_than_by_the_nearest_codes(
    quantized: Quantized, samples: dict[str, str], tmp_path: Path, params: dict[str, Any]
) -> None:
    given = {"mode": "weight_only", "weight_bits": 4, **params}
    model = one_product(given.pop("op_type", "MatMul"), W)
    nearest = lost(quantized(model, **given))
    for name in ("source", "artifact"):
        (tmp_path / name).rename(tmp_path / f"nearest-{name}")

    assert lost(quantized(model, **given, algorithm="gptq", samples=samples["x"])) < 0.6 * nearest


def test_the_runtime_computes_with_what_is_read_back(quantized: Quantized, samples: dict[str, str]) -> None:
    folder = quantized(one_product(weight=W), **SOLVED, samples=samples["x"], symmetric=False, accuracy_level=1)
    (found,) = open_session(folder / "model.onnx").run(None, {"x": X})

    assert np.allclose(found, X @ dict(ONNX.weights(folder))["w"], rtol=1e-4, atol=1e-3)


def test_codes_are_those_of_the_column_solver_on_the_hessian_of_the_samples(
    quantized: Quantized, samples: dict[str, str]
) -> None:
    """A slow reference: Algorithm 1 of arXiv 2210.17323, a column at a time, in float64."""
    folder = quantized(one_product(weight=W), **SOLVED, samples=samples["x"], block_size=64)
    packed, scale = stored(folder)["w_quantized"][:, 0], stored(folder)["w_scale"].astype(np.float64)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(32, 64)

    x = X.astype(np.float64)
    hessian = x.T @ x
    order = np.argsort(-np.diagonal(hessian).astype(np.float32), kind="stable")
    damped = hessian + 0.05 * np.mean(np.diagonal(hessian)) * np.eye(64)
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left, expected = W.T.astype(np.float64)[:, order], np.empty((32, 64))
    for column in range(64):
        steps = np.clip(np.rint(left[:, column] / scale[:, 0]), -8, 7)
        expected[:, order[column]] = steps + 8
        error = (left[:, column] - steps * scale[:, 0]) / upper[column, column]
        left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])

    assert np.mean(codes == expected) > 0.995


def test_moments_are_the_sums_over_all_rows(samples: dict[str, str], tmp_path: Path) -> None:
    with open_checkpoint(save(one_product(weight=W), tmp_path / "model")) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        found = moments_of(graph, ["x"], read_samples(Path(samples["x"]), graph), 3, Attempts())["x"]

    assert found.rows == 300
    assert np.allclose(found.total, X.T.astype(np.float64) @ X, rtol=1e-4, atol=1e-2)


def test_moments_of_other_activations_take_the_place_of_those_kept_before(
    samples: dict[str, str], tmp_path: Path
) -> None:
    host = Attempts()
    with open_checkpoint(SmallModel().write(tmp_path / "model")) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        ids = read_samples(Path(samples["ids"]), graph)
        alone = moments_of(graph, ["x1"], ids, 1, Attempts())["x1"]
        for name in ("x2", "x1", "x1"):
            found = moments_of(graph, [name], ids, 1, host)[name]

    assert [*host.state] == ["moments"]
    assert host.samples == 2 * ids.count  # of x2, and once of x1
    assert np.array_equal(found.total, alone.total)


@pytest.mark.parametrize("external", ["", "weights.bin"])
def test_threads_and_slices_change_no_byte(
    samples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: str
) -> None:
    source = SmallModel(external=external).write(tmp_path / "model")
    expected = tensors(source, samples=samples["ids"])

    assert tensors(source, threads=3, samples=samples["ids"]) == expected
    monkeypatch.setattr(hessians, "HESSIAN_BYTES", 1)
    assert tensors(source, threads=2, samples=samples["ids"]) == expected


def test_the_plan_counts_the_hessians_that_are_in_memory_together(
    samples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_checkpoint(SmallModel(blocks=9).write(tmp_path / "model")) as checkpoint:
        run = Run(ONNX, OnnxParams(**SOLVED, samples=samples["ids"]), checkpoint)
        together = run.first_plan.peak_memory_bytes
        monkeypatch.setattr(hessians, "HESSIAN_BYTES", 1)
        alone = run.first_plan.peak_memory_bytes

    inputs = [48, *9 * [48, 80, 48]]  # of the head and of each block's products
    assert together - alone == hessians.COPIES * 4 * (sum(each**2 for each in inputs) - 80**2)


def test_a_later_attempt_counts_only_what_is_missing(
    samples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SmallModel().write(tmp_path / "model")
    expected = tensors(source, samples=samples["ids"])
    asked: list[list[str]] = []

    def counted(graph: Any, names: list[str], *rest: Any) -> Any:
        asked.append(names)
        return moments_of(graph, names, *rest)

    monkeypatch.setattr(hessians, "moments_of", counted)
    rest = tensors(source, finished=("gemm.0", "gemm.1", "in.0", "out.0"), samples=samples["ids"])

    assert rest == {name: expected[name] for name in rest}
    assert asked == [["x2", "x1", "x1_same"]]


def test_a_weight_of_two_activations_is_solved_by_both(samples: dict[str, str], tmp_path: Path) -> None:
    model = one_product(weight=MIXED)
    model.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"], name="again"))
    model.graph.output[0].name = "z"
    with open_checkpoint(save(model, tmp_path / "model")) as checkpoint:
        made = Run(ONNX, OnnxParams(**SOLVED, samples=samples["x"]), checkpoint)
        made.write(made.quantize(), tmp_path / "artifact")

    assert made.notes == []
    assert next(iter(ONNX.read.load()(tmp_path / "artifact"))).scheme == "INT4-32-GPTQ"


def notes_of(source: Path, samples: Path) -> dict[str, Any]:
    with open_checkpoint(source) as checkpoint:
        run = Run(ONNX, OnnxParams(**SOLVED, samples=str(samples)), checkpoint)
        list(run.quantize())
    return {note.found: dict(note.figures) for note in run.notes}


@pytest.mark.parametrize(
    ("x", "noted"),
    [
        (np.zeros((70, 64)), {"rounded to nearest": {"why": "its inputs were always 0"}}),
        (X[:70] * (np.arange(64) < 60), {"inputs that were always 0": {"inputs": 4, "of": 64}}),
        (X[:10], {"fewer tokens than inputs": {"tokens": 10, "inputs": 64}}),
    ],
)
def test_what_the_samples_do_not_settle_is_noted(tmp_path: Path, x: np.ndarray, noted: dict[str, Any]) -> None:
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))

    assert notes_of(save(one_product(weight=W), tmp_path / "model"), tmp_path / "x.npz") == noted


def test_inputs_that_were_always_zero_have_the_nearest_codes(quantized: Quantized, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X * (np.arange(64) != 7))
    folder = quantized(one_product(weight=W), **SOLVED, samples=str(tmp_path / "x.npz"), block_size=16)
    scale = stored(folder)["w_scale"][:, 0]

    nearest = np.clip(np.rint(W[7] / scale), -8, 7) * scale

    assert np.array_equal(dict(ONNX.weights(folder))["w"][7], nearest)


@pytest.fixture(scope="module")
def products(distributions: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose products take the same activation, of which 40 of 512 channels are not noise; x.npz beside it."""
    weights = {
        name: np.ascontiguousarray(each.reshape(-1, 512)[:64].T, np.float32) for name, each in distributions.items()
    }
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], [f"y of {name}"], name=name) for name in weights],
        "products",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 512])],
        [helper.make_tensor_value_info(f"y of {name}", onnx.TensorProto.FLOAT, ["batch", 64]) for name in weights],
        [numpy_helper.from_array(each, name) for name, each in weights.items()],
    )
    folder = tmp_path_factory.mktemp("products")
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model")
    generator = np.random.default_rng(12)
    x = generator.standard_normal((200, 512)) @ (generator.standard_normal((512, 512)) * (np.arange(512) < 40))
    np.savez(folder / "x.npz", x=x.astype(np.float32))
    return folder


@pytest.mark.parametrize(
    ("bits", "size", "symmetric"), [(4, 16, True), (4, 256, False), (8, 32, False), (8, 128, True)]
)
def test_weights_are_read_back_within_the_bounds_of_their_scheme(
    products: Path, tmp_path: Path, bits: int, size: int, symmetric: bool
) -> None:
    asked = {**SOLVED, "weight_bits": bits, "block_size": size, "symmetric": symmetric}
    scheme = f"INT{bits}-{size}{'' if symmetric else '-ASYM'}-GPTQ"
    with open_checkpoint(products / "model") as checkpoint:
        made = Run(ONNX, OnnxParams(**asked, samples=str(products / "x.npz")), checkpoint)
        made.write(made.quantize(threads=2), tmp_path / "artifact")
        sources = {name: checkpoint.tensor(name).values for name in checkpoint.index.tensors}

    for read in ONNX.read.load()(tmp_path / "artifact"):
        source = sources.pop(read.name)
        error = np.sqrt(np.mean((read.values - source) ** 2.0) / np.mean(source**2.0))
        assert read.scheme == scheme
        assert error <= ONNX.error_bounds[scheme], read.name
        assert compare(read.values.T, source.T, ONNX.block_bounds[scheme]).worst.share <= 1, read.name
    assert sources == {}


def test_gates_are_met_with_solved_weights(samples: dict[str, str], tmp_path: Path) -> None:
    with open_checkpoint(SmallModel().write(tmp_path / "model")) as checkpoint:
        params = OnnxParams(**SOLVED, samples=samples["ids"], gates=("cosine.mean >= 0.999",))
        plan = Run(ONNX, params, checkpoint).plan

    assert {row.scheme for row in plan.tensors} == {"F32", "INT4-32-GPTQ", "INT8-ROW"}


def test_an_activation_that_is_not_finite_ends_the_job(tmp_path: Path) -> None:
    model = one_product(weight=W)
    model.graph.node.insert(0, helper.make_node("Exp", ["x"], ["e"]))
    model.graph.node[1].input[0] = "e"
    np.savez(tmp_path / "x.npz", x=1000 * X)

    with pytest.raises(SourceRejected, match="sample 0 makes e what cannot be counted: it cannot be squared"):
        tensors(save(model, tmp_path / "model"), samples=str(tmp_path / "x.npz"))


def test_solving_is_for_blocks() -> None:
    with pytest.raises(ValidationError, match="gptq is for blocks of weights"):
        OnnxParams(algorithm="gptq")
