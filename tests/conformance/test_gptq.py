"""The gptq method obeys the laws of quantmill.contract.testing."""

from pathlib import Path

import pytest

from quantmill.contract.method import lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import MethodConformance
from quantmill_gptq.plugin import GPTQ


class TestGptq(MethodConformance):
    """Words of 32 and groups of 32 and 128 need weights that they divide."""

    method = GPTQ
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    open_calibration = lazy("quantmill.calibration.engine:calibrate")
    ladder = (
        {"bits": 2, "group_size": 128, "static_groups": False},
        {
            "bits": 3,
            "group_size": -1,
            "format": "compressed-tensors",
            "sym": False,
            "true_sequential": False,
            "lm_head": True,
        },
        {"bits": 8, "group_size": 32, "format": "gptq_v2", "desc_act": True, "predecessors": "source"},
    )

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=128, ffn=128, heads=2, kv_heads=1, blocks=3, vocab=288)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "model")

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Its largest Hessian and its largest weight outweigh the allowance."""
        model = SyntheticLlama(hidden=512, ffn=3072, blocks=1, heads=4, kv_heads=1)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "wide")
