"""Calibration on a device that is not the CPU, as far as that can be seen without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from tests.another_device import NAME, another_device
from tests.unit.calibration.test_engine import plan_of, windows
from tests.unit.evaluation.test_forward import save_random

from quantmill.calibration import StatisticsCache, block, engine
from quantmill.calibration.block import ExpertRules
from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.calibration import STATISTICS, Statistics
from quantmill.contract.errors import RequestRejected

KIND = "cuda Tesla T9"
FED_ALL = ExpertRules(10**6, all_tokens=True)

T = TypeVar("T")
R = TypeVar("R")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(engine, "kind_of", lambda device: KIND if device.type == NAME else "cpu")
    monkeypatch.setattr(engine, "compute_in_float32", lambda device: None)
    monkeypatch.setattr(block.Threads, "map", in_this_thread)  # whose torch knows of the device
    with another_device() as name:
        yield name


def in_this_thread(self: block.Threads, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with torch.inference_mode():
        return [work(item) for item in items]


def gathered(folder: Path, work: Path, device: str) -> dict[str, Statistics]:
    """What the Linears of both blocks are fed: in the source model, and behind a block whose weights are halved."""
    work.mkdir()
    found: dict[str, Statistics] = {}
    with open_checkpoint(folder) as source:
        names = tuple(each for each in source.index.tensors if each.endswith(("_proj.weight", ".w1.weight")))
        plan = plan_of(source.index, names)
        with calibrate(source, plan, windows(), folder=work, experts=FED_ALL, device=device) as calibration:
            found |= {name: calibration.statistics(name) for name in names}
            for each in calibration.blocks(()):
                for stage in each.stages:
                    known = each.statistics(stage, STATISTICS)
                    found |= {f"{name} behind": statistics for name, statistics in known.items()}
                    for name in stage:
                        each.replace(name, each.weight(name) / 2)
    return found


@pytest.mark.parametrize("family", ["Llama", "Mixtral", "GPT-2"])
def test_all_that_is_computed_there_is_moved_there_and_back(family: str, device: str, tmp_path: Path) -> None:
    save_random(tmp_path / "model", family)

    expected = gathered(tmp_path / "model", tmp_path / "here", "cpu")
    found = gathered(tmp_path / "model", tmp_path / "there", device)

    assert found.keys() == expected.keys()
    assert len(found) >= 8
    for name, statistics in found.items():
        for kind in STATISTICS:
            np.testing.assert_array_equal(getattr(statistics, kind), getattr(expected[name], kind), f"{name} {kind}")


def test_statistics_of_another_kind_of_device_are_others(device: str, tmp_path: Path) -> None:
    save_random(tmp_path / "model", "Llama")
    cache = StatisticsCache(tmp_path / "cache", 1 << 30)
    known = []

    with open_checkpoint(tmp_path / "model") as source:
        names = tuple(each for each in source.index.tensors if each.endswith("q_proj.weight"))
        for on in ("cpu", device, device, "cpu"):
            with calibrate(
                source, plan_of(source.index, names), windows(), folder=tmp_path, device=on, cache=cache
            ) as calibration:
                calibration.statistics(names[0])
                known.append((calibration.kind, calibration.from_cache))

    assert known == [("cpu", False), (KIND, False), (KIND, True), ("cpu", True)]


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    save_random(tmp_path / "model", "Llama")

    with open_checkpoint(tmp_path / "model") as source, pytest.raises(RequestRejected, match="'cuda' is not a device"):
        calibrate(source, plan_of(source.index, ()), windows(), folder=tmp_path, device="cuda")
