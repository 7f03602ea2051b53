"""The gguf method obeys the laws of quantmill.contract.testing."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import CHECKPOINTS, WIDE, MethodConformance, Run
from quantmill_gguf.plugin import GGUF


class TestGguf(MethodConformance):
    method = GGUF
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = (
        {"type": "TQ1_0"},
        {"type": "Q2_K", "pure": True},
        {"type": "Q3_K_S"},
        {"type": "Q4_0"},
        {"type": "Q4_K_M"},
        {"type": "Q5_K_M"},
        {"type": "Q6_K"},
        {"type": "Q8_0", "overrides": {"blk.*": "F16"}},
        {"type": "F16"},
    )


class TestGgufBudget(MethodConformance):
    """Types that the weights decide. Rows that blocks of 256 do not divide are in tests/unit/gguf/test_budget.py."""

    method = GGUF
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = ({"target_bpw": 3.5}, {"target_bpw": 6, "overrides": {"*.attn_v.weight": "Q8_0"}})

    @pytest.fixture(scope="class", params=["bf16, tied"])
    @classmethod
    def checkpoint(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return CHECKPOINTS[request.param].write(tmp_path_factory.mktemp("checkpoint") / "model")


class TestGgufOfGguf(MethodConformance):
    """A GGUF file as the source, its matrices in blocks."""

    method = GGUF
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = ({"type": "Q2_K", "pure": True}, {"type": "Q4_K_M"})

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return in_blocks(CHECKPOINTS["bf16, tied"], tmp_path_factory.mktemp("source"))

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return in_blocks(WIDE, tmp_path_factory.mktemp("source"))


def in_blocks(model: SyntheticLlama, folder: Path) -> Path:
    """The model as a GGUF file in Q8_0."""
    with open_checkpoint(model.write(folder / "checkpoint")) as checkpoint:
        run = Run(GGUF, GGUF.params(type="Q8_0"), checkpoint)
        path, *_ = run.write(run.quantize(), folder / "gguf")
    return path
