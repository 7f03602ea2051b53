"""The bounds that verification uses hold for weights of many shapes, and are not idle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.onnx_models import one_product

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill.verification.compare import compare
from quantmill_onnx.plugin import ONNX

INPUTS, OUTPUTS = 1024, 128
FOUR: dict[str, Any] = {"mode": "weight_only", "weight_bits": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "INT8-CHANNEL": {},
    "INT8-CHANNEL-ASYM": {"symmetric": False},
    "INT8-CHANNEL-REDUCED": {"target": "avx2"},
    "UINT8-CHANNEL": {"weight_type": "u8"},
    "INT8-TENSOR": {"per_channel": False},
    "INT8-32": {"mode": "weight_only"},
    "INT8-256-ASYM": {"mode": "weight_only", "block_size": 256, "symmetric": False, "algorithm": "hqq"},
    "INT4-16": {**FOUR, "block_size": 16},
    "INT4-32-ASYM": {**FOUR, "symmetric": False, "algorithm": "hqq"},
    "INT4-128": {**FOUR, "block_size": 128},
    "INT4-256-ASYM": {**FOUR, "block_size": 256, "symmetric": False},
}


@pytest.mark.parametrize("scheme", SETTINGS)
def test_no_tensor_and_no_block_exceeds_its_bound_and_one_comes_near(
    scheme: str, distributions: dict[str, np.ndarray], unequal_blocks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    errors, shares = {}, {}
    for name, each in (distributions | unequal_blocks).items():
        source = np.ascontiguousarray(each.reshape(OUTPUTS, INPUTS).T, np.float32)
        read = read_back(source, SETTINGS[scheme], tmp_path / name)
        assert read.scheme == scheme
        shares[name] = compare(read.values.T, source.T, ONNX.block_bounds[scheme]).worst.share
        if name in distributions:
            errors[name] = float(np.sqrt(np.mean((read.values - source) ** 2.0) / np.mean(source**2.0)))

    assert max(errors.values()) <= ONNX.error_bounds[scheme], errors
    assert max(errors.values()) >= 0.25 * ONNX.error_bounds[scheme], errors  # longer rows hold more outliers
    assert max(shares.values()) <= 1, shares
    assert max(shares.values()) >= 0.3, shares


def read_back(weight: np.ndarray, params: dict[str, Any], folder: Path) -> Any:
    (folder / "source").mkdir(parents=True)
    onnx.save(one_product(weight=weight), str(folder / "source" / "model.onnx"))
    with open_checkpoint(folder / "source") as checkpoint:
        run = Run(ONNX, ONNX.params(**params), checkpoint)
        run.write(run.quantize(threads=2), folder / "artifact")
    return next(iter(ONNX.read.load()(folder / "artifact")))
