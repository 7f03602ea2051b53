"""A calibrated job that cannot be held here is refused before it is queued."""

from __future__ import annotations

from typing import Any

import pytest

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.errors import RequestRejected
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo, TensorPlan, Unit
from quantmill.domain.calibration import CalibrationOptions
from quantmill.jobs import memory
from quantmill.jobs.memory import require_memory, shortfall, warned
from quantmill.jobs.plan import Planned
from quantmill.settings import Settings
from quantmill_gptq.params import GptqParams

NAME, SHAPE = "model.layers.0.mlp.up_proj.weight", (1024, 1024)
INDEX = ModelIndex({"hidden_size": 1024}, {NAME: TensorInfo(NAME, "F32", SHAPE, 4 << 20)}, {}, {})
ROW = TensorPlan(NAME, SHAPE, "F32", "quantize", "INT4", NAME, 1 << 19)
NEED = CalibrationNeed(of_blocks=("hessian",))
WINDOW = CalibrationOptions("text", window=512)
# a runner and torch, the block, 8 activations of 1024 in 2 windows of 512, its Hessian, the method's own
NEEDED = (62 << 20) + (350 << 20) + (4 << 20) + 8 * 4 * 1024 * 2 * 512 + (4 << 20) + 1000


def planned(need: CalibrationNeed | None = NEED) -> Planned:
    plan = Plan((ROW,), (Unit("block.0", (NAME,), 0),), 1000, calibration=need)
    return Planned(GptqParams(), plan, INDEX)


def here(**given: Any) -> Settings:
    return Settings(threads=1, **given)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: 1 << 40)


@pytest.mark.parametrize("limit", [None, NEEDED])
def test_what_fits_is_let_through(limit: int | None) -> None:
    require_memory(here(runner_memory_bytes=limit), planned(), WINDOW)


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        RequestRejected, match=f"takes {NEEDED} bytes of memory; QUANTMILL_RUNNER_MEMORY_BYTES"
    ) as caught:
        require_memory(here(runner_memory_bytes=NEEDED - 1), planned(), WINDOW)

    assert caught.value.fields == {"needed_bytes": NEEDED, "limit_bytes": NEEDED - 1}


def test_no_machine_holds_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: 1 << 28)

    with pytest.raises(RequestRejected, match="this machine allows 268435456"):
        require_memory(here(runner_memory_bytes=1 << 30), planned(), WINDOW)


@pytest.mark.parametrize(("windows", "threads"), [(1, 2), (2, 1)])
def test_more_threads_and_longer_windows_take_more(windows: int, threads: int) -> None:
    asked = CalibrationOptions("text", window=512 * windows)

    assert shortfall(Settings(threads=threads, runner_memory_bytes=NEEDED), planned(), asked)


@pytest.mark.parametrize("elsewhere", [{"broker_url": "redis://broker"}, {}])
def test_workers_elsewhere_and_jobs_without_calibration_are_not_judged(elsewhere: dict[str, str]) -> None:
    need = NEED if elsewhere else None

    assert shortfall(here(runner_memory_bytes=1, **elsewhere), planned(need)) is None


def test_a_plan_warns_of_what_could_not_be_held() -> None:
    assert warned(here(), planned()) == planned()
    (warning,) = warned(here(runner_memory_bytes=NEEDED - 1), planned()).plan.warnings
    assert f"allows {NEEDED - 1}" in warning
