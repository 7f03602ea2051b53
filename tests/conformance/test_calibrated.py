"""A method that walks blocks obeys the laws of quantmill.contract.testing."""

from pathlib import Path

import pytest
from tests.plugins.rounding import ROUNDING

from quantmill.contract.method import lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import MethodConformance


class TestRounding(MethodConformance):
    method = ROUNDING
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    open_calibration = lazy("quantmill.calibration.engine:calibrate")
    ladder = ({"bits": 4}, {"bits": 8})

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=64, ffn=96, blocks=3, heads=2, kv_heads=1)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "model")

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=512, ffn=8192, blocks=1, heads=4, kv_heads=1, tied=True)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "wide")
