"""The hqq method obeys the laws of quantmill.contract.testing."""

from pathlib import Path

import pytest

from quantmill.contract.method import lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import MethodConformance
from quantmill_hqq.plugin import HQQ


class TestHqq(MethodConformance):
    method = HQQ
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = (
        {"nbits": 1, "group_size": 16},
        {"nbits": 2, "group_size": 16, "axis": 0, "iters": 4},
        {"nbits": 3, "group_size": 16, "round_zero": True},
        {"nbits": 4, "group_size": -1},
        {"nbits": 4, "group_size": 16, "overrides": {"*.down_proj": {"nbits": 8}}},
        {"nbits": 8, "group_size": 32},
    )


class TestHqqAsCompressedTensors(MethodConformance):
    """Zero points of 8 output features share a word, which rows and columns have to divide."""

    method = HQQ
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = (
        {"format": "compressed-tensors", "group_size": -1},
        {"format": "compressed-tensors", "group_size": 32},
        {
            "format": "compressed-tensors",
            "group_size": 32,
            "overrides": {"*.down_proj": {"nbits": 8, "group_size": 64}},
        },
        {"format": "compressed-tensors", "nbits": 8},
    )

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = SyntheticLlama(hidden=128, ffn=192, heads=2, kv_heads=2, blocks=2, vocab=301)
        return model.write(tmp_path_factory.mktemp("checkpoint") / "model")
