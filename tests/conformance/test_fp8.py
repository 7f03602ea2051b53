"""The fp8 method obeys the laws of quantmill.contract.testing."""

from pathlib import Path

import pytest

from quantmill.contract.method import lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import MethodConformance
from quantmill_fp8.plugin import FP8


class TestFp8(MethodConformance):
    method = FP8
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = ({"scheme": "NVFP4A16"}, {"scheme": "FP8A16"}, {"scheme": "FP8_DYNAMIC"})


class TestFp8WithStaticScales(MethodConformance):
    method = FP8
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    open_calibration = lazy("quantmill.calibration.engine:calibrate")
    ladder = (
        {"scheme": "FP8", "skip_modules": ()},
        {
            "scheme": "FP8",
            "strategy": "tensor",
            "percentile": 99.9,
            "kv_cache_scheme": "FP8",
            "skip_modules": ("lm_head", "*.down_proj"),
        },
    )

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=80, ffn=96, heads=2, kv_heads=1, blocks=1, vocab=301)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "model")

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=512, ffn=6144, blocks=1, heads=4, kv_heads=1, tied=True)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "wide")


class TestFp8InBlocks(MethodConformance):
    """Blocks of 32 and of 128 x 128 need weights that they divide."""

    method = FP8
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = (
        {"scheme": "MXFP4A16"},
        {"scheme": "MXFP8"},
        {"scheme": "MXFP8A16"},
        {"scheme": "FP8_BLOCK"},
        {"scheme": "FP8_NATIVE"},
    )

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=256, ffn=384, heads=2, kv_heads=2, blocks=2, vocab=301)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "model")
