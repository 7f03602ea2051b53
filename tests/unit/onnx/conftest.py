"""Quantized models, made and run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill_onnx.plugin import ONNX

Quantized = Callable[..., Path]


@pytest.fixture
def quantized(tmp_path: Path) -> Quantized:
    """The artifact of a model's proto with these parameters."""

    def make(model: onnx.ModelProto, **params: Any) -> Path:
        source = tmp_path / "source"
        source.mkdir()
        onnx.save(model, str(source / "model.onnx"))
        with open_checkpoint(source) as checkpoint:
            run = Run(ONNX, ONNX.params(**params), checkpoint)
            run.write(run.quantize(), tmp_path / "artifact")
        return tmp_path / "artifact"

    return make


@pytest.fixture
def weights() -> Callable[[Path], dict[str, np.ndarray]]:
    return lambda folder: dict(ONNX.weights(folder))
