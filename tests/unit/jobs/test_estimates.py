"""What a job is thought to take before any has run."""

from __future__ import annotations

from pathlib import Path

import onnx
from tests.onnx_models import one_product
from tests.unit.repack.nvfp4_files import SMALL, as_file, in_nvfp4

from quantmill.domain.estimates import UNKNOWN_HISTORY
from quantmill.jobs.estimates import estimate_from, for_plan
from quantmill.jobs.plan import plan_folder
from quantmill_onnx.plugin import ONNX
from quantmill_repack.plugin import REPACK


def test_a_graph_takes_its_weights_twice_because_verification_runs_it(tmp_path: Path) -> None:
    onnx.save(one_product(), str(tmp_path / "model.onnx"))
    planned = plan_folder(ONNX, tmp_path, {})

    expected = estimate_from(UNKNOWN_HISTORY, for_plan(str(tmp_path), "onnx", planned), planned)

    assert planned.index.nbytes >= 64 * 32 * 4
    assert expected.features.memory_bytes == (62 << 20) + (50 << 20) + 2 * planned.index.nbytes


def test_a_source_that_becomes_another_one_first_takes_the_room_of_both(tmp_path: Path) -> None:
    file = as_file(in_nvfp4(SMALL.write(tmp_path / "plain"), tmp_path / "nvfp4"), tmp_path / "file")
    planned = plan_folder(REPACK, file, {"to": "nvfp4-pack-quantized"})

    expected = estimate_from(UNKNOWN_HISTORY, for_plan(str(file), "repack", planned), planned)

    assert (expected.artifact_bytes, expected.scratch_bytes) == (planned.plan.nbytes, 2 * planned.plan.nbytes)
