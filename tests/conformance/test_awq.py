"""The awq method obeys the laws of quantmill.contract.testing."""

from pathlib import Path

import pytest

from quantmill.contract.method import lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import MethodConformance
from quantmill_awq.plugin import AWQ


class TestAwq(MethodConformance):
    """Words of 32 and groups of 32 and 128 need weights that they divide; values of their own for each head."""

    method = AWQ
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    open_calibration = lazy("quantmill.calibration.engine:calibrate")
    ladder = (
        {
            "bits": 3,
            "group_size": -1,
            "format": "compressed-tensors",
            "zero_point": False,
            "n_grid": 2,
        },
        {"bits": 4, "n_grid": 3, "predecessors": "quantized"},
        {"bits": 8, "group_size": 32, "format": "compressed-tensors", "duo_scaling": "both", "n_grid": 2},
    )

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=128, ffn=128, heads=2, kv_heads=2, blocks=2, vocab=288)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "model")

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Its largest Hessian and its largest weight outweigh the allowance."""
        model = SyntheticLlama(hidden=512, ffn=2048, blocks=1, heads=4, kv_heads=1)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "wide")
