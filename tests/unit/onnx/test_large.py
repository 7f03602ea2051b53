"""Graphs with many megabytes of external data take the memory of one weight."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ALLOWANCE_BYTES = 48 << 20  # the allocator's reserve, buffers, tables of names


@pytest.mark.parametrize("params", [[], ["mode=weight_only"]], ids=["dynamic", "weight_only"])
def test_three_hundred_megabytes_of_weights_take_the_memory_of_one(params: list[str]) -> None:
    command = [sys.executable, "tests/benchmarks/onnx_large.py", "--megabytes", "300", "--set", *params]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    told = json.loads(done.stdout)

    assert told["source_bytes"] > 290e6
    assert told["artifact_bytes"] > 70e6
    assert told["peak_bytes"] <= told["planned_bytes"] + ALLOWANCE_BYTES < 150e6
