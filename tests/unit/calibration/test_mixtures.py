"""Mixtures of experts, calibrated, quantized and verified: routed experts, shared ones, those that nothing reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.random_models import RANDOM_MODELS

from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import Method
from quantmill.contract.testing import MemorySession
from quantmill.verification import verify
from quantmill_awq.plugin import AWQ
from quantmill_gptq.plugin import GPTQ


@pytest.mark.parametrize("model", ["qwen3moe", "qwen2moe"])
@pytest.mark.parametrize(
    ("method", "asked"),
    [(GPTQ, {"format": "compressed-tensors"}), (AWQ, {"format": "compressed-tensors", "n_grid": 2})],
    ids=lambda each: each.name if isinstance(each, Method) else "",
)
def test_every_expert_of_a_mixture_is_in_a_verified_artifact(
    model: str, method: Method, asked: dict[str, Any], tmp_path: Path
) -> None:
    params = method.params(group_size=32, **asked)
    ids = [np.random.default_rng(0).integers(2, 300, 24) for _ in range(2)]
    (tmp_path / "artifact").mkdir()
    with open_checkpoint(RANDOM_MODELS[model].write(tmp_path / "model")) as checkpoint:
        plan = method.plan.load()(checkpoint.index, params)
        with calibrate(checkpoint, plan, ids, folder=tmp_path) as calibration:
            session = MemorySession(checkpoint, plan, calibration=calibration)
            made = {tensor.name: tensor for tensor in method.quantize.load()(session, params)}
        ordered = (made[row.name] for row in plan.tensors)
        method.write.load()(ordered, plan, checkpoint.index, params, tmp_path / "artifact")

        verify(checkpoint, plan, method, params, tmp_path / "artifact")

    experts = [row for row in plan.tensors if ".mlp.experts." in row.name]
    assert len(experts) == 3 * sum(map(len, calibration.routed.values()))
    assert {row.action for row in experts} == {"quantize"}
