"""Whether the machine that runs a calibrated job can hold what it takes, said before it is queued."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantmill.contract.calibration import calibration_cost
from quantmill.contract.errors import RequestRejected
from quantmill.domain.calibration import CalibrationOptions
from quantmill.hardware.probes import usable_memory
from quantmill.jobs.estimates import BYTES_OF_A_RUNNER, BYTES_OF_TORCH, USUAL_WINDOW
from quantmill.jobs.plan import Planned
from quantmill.settings import Settings


@dataclass(frozen=True)
class Shortfall:
    """Memory in bytes that a job takes and that it may hold, and whose word the latter is."""

    needed: int
    limit: int
    limited_by: str
    window: int
    threads: int

    def __str__(self) -> str:
        return (
            f"calibration on windows of {self.window} tokens with {self.threads} threads takes {self.needed} bytes of "
            f"memory; {self.limited_by} allows {self.limit}. Use a smaller window or fewer threads, or allow more"
        )


def shortfall(settings: Settings, planned: Planned, asked: CalibrationOptions | None = None) -> Shortfall | None:
    """What a calibrated job lacks; None where it fits.

    Jobs that go to workers by a broker are not judged here: the scheduler finds one that can hold them.
    """
    if planned.plan.calibration is None or settings.broker_url is not None:
        return None
    window = asked.window if asked is not None and asked.window is not None else USUAL_WINDOW
    cost = calibration_cost(planned.index, planned.plan, windows=1, window=window, threads=settings.threads)
    needed = BYTES_OF_A_RUNNER + BYTES_OF_TORCH + cost.memory + planned.plan.peak_memory_bytes
    limits = {"this machine": usable_memory()}
    if settings.runner_memory_bytes is not None:
        limits["QUANTMILL_RUNNER_MEMORY_BYTES"] = settings.runner_memory_bytes
    by = min(limits, key=lambda name: limits[name])
    return Shortfall(needed, limits[by], by, window, settings.threads) if needed > limits[by] else None


def require_memory(settings: Settings, planned: Planned, asked: CalibrationOptions) -> None:
    """Raises RequestRejected with both numbers where the job that is asked for cannot be held."""
    if (short := shortfall(settings, planned, asked)) is not None:
        raise RequestRejected(str(short), needed_bytes=short.needed, limit_bytes=short.limit)


def warned(settings: Settings, planned: Planned) -> Planned:
    """The plan with a warning where a job that is calibrated as it is by default could not be held."""
    if (short := shortfall(settings, planned)) is None:
        return planned
    return replace(planned, plan=replace(planned.plan, warnings=(*planned.plan.warnings, str(short))))
