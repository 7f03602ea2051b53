"""The onnx method obeys the laws of quantmill.contract.testing."""

from pathlib import Path

import pytest
from tests.onnx_models import SmallModel

from quantmill.contract.method import lazy
from quantmill.contract.testing import MethodConformance
from quantmill_onnx.plugin import ONNX

SAMPLES = Path(__file__).parents[1] / "data" / "onnx_samples.npz"

SOLVED = {"mode": "weight_only", "algorithm": "gptq", "samples": str(SAMPLES)}
STATIC = {"mode": "static", "samples": str(SAMPLES)}

MODELS = {
    "opset 17": SmallModel(),
    "opset 21, tied": SmallModel(opset=21, ir_version=10, tied=True, seed=1),
    "opset 13, external data": SmallModel(opset=13, ir_version=7, external="weights.bin", hidden=40, seed=2),
}


class TestOnnx(MethodConformance):
    method = ONNX
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = (
        {"mode": "weight_only", "weight_bits": 4, "block_size": 128},
        {"mode": "weight_only", "weight_bits": 4, "symmetric": False, "block_size": 32, "algorithm": "hqq"},
        {"target": "avx2", "per_channel": False, "weight_type": "u8"},
        {**STATIC, "calibration_method": "percentile", "format": "qoperator"},
        {**STATIC, "gates": ["cosine.mean >= 0.9999"], "external_data": "always", "symmetric": False},
        {"mode": "weight_only", "block_size": 16, "symmetric": False, "embeddings": "keep", "rest": "float16"},
    )

    @pytest.fixture(scope="class", params=sorted(MODELS))
    @classmethod
    def checkpoint(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return MODELS[request.param].write(tmp_path_factory.mktemp("checkpoint") / "model")

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SmallModel(vocab=4096, hidden=1600, inner=4096, blocks=1)  # 25 MiB in each of three
        return model.write(tmp_path_factory.mktemp("checkpoint") / "wide")


class TestSolvedBlocks(MethodConformance):
    method = ONNX
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    open_calibration = lazy("torch:from_numpy")  # never called: blocks are solved with torch, which is loaded by it
    ladder = (
        {**SOLVED, "weight_bits": 4, "block_size": 128},
        {**SOLVED, "weight_bits": 8, "block_size": 32, "symmetric": False},
    )

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return MODELS["opset 21, tied"].write(tmp_path_factory.mktemp("checkpoint") / "model")

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SmallModel(vocab=8192, hidden=800, inner=64, blocks=1)  # 25 MiB in each of two
        return model.write(tmp_path_factory.mktemp("checkpoint") / "wide")
