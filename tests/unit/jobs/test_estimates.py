"""What a job is thought to take before any has run."""

from __future__ import annotations

from pathlib import Path

import onnx
from tests.onnx_models import one_product

from quantmill.domain.estimates import UNKNOWN_HISTORY
from quantmill.jobs.estimates import estimate_from, for_plan
from quantmill.jobs.plan import plan_folder
from quantmill_onnx.plugin import ONNX


def test_a_graph_takes_its_weights_twice_because_verification_runs_it(tmp_path: Path) -> None:
    onnx.save(one_product(), str(tmp_path / "model.onnx"))
    planned = plan_folder(ONNX, tmp_path, {})

    expected = estimate_from(UNKNOWN_HISTORY, for_plan(str(tmp_path), "onnx", planned), planned)

    assert planned.index.nbytes >= 64 * 32 * 4
    assert expected.features.memory_bytes == (62 << 20) + (50 << 20) + 2 * planned.index.nbytes
