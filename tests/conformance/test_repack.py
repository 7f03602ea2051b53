"""The repack method obeys the laws of quantmill.contract.testing."""

from pathlib import Path

import pytest

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import WIDE, MethodConformance, Run
from quantmill_fp8.plugin import FP8
from quantmill_repack.plugin import REPACK

SMALL = SyntheticLlama(hidden=256, ffn=384, heads=2, kv_heads=2, blocks=2, vocab=301)


def in_blocks(model: SyntheticLlama, folder: Path) -> Path:
    """`model` as DeepSeek stores FP8."""
    with open_checkpoint(model.write(folder / "plain")) as source:
        run = Run(FP8, FP8.params(scheme="FP8_NATIVE"), source)
        run.write(run.quantize(), folder / "model")
    return folder / "model"


class TestRepack(MethodConformance):
    method = REPACK
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = ({"to": "float-quantized"},)

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return in_blocks(SMALL, tmp_path_factory.mktemp("small"))

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return in_blocks(WIDE, tmp_path_factory.mktemp("wide"))

    def test_the_error_falls_as_the_bits_rise(self) -> None:
        """There is none: every bound is zero."""
        assert {REPACK.error_bounds[scheme] for scheme in ("W4", "W4-ASYM", "FP8-128x128")} == {0.0}
