"""What a job will take: a formula first, then what such jobs took before.

The formula's figure, in seconds of a usual machine, is the one feature that counts; what jobs of a kind really took is
a line through it, drawn by the median of all slopes between two of them (Theil 1950, Sen 1968), which up to 29 % of
outliers do not move. Memory is done the same way, from what the plan counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

RUNS_FOR_A_LINE = 3
APART = 1.2  # features nearer to each other than this factor say nothing of a slope
UNKNOWN = 3.0  # a formula that no run has corrected may be off by this factor, either way
LEAST_MARGIN = 0.05
CAUGHT = 0.9  # share of earlier runs that an interval would have held


@dataclass(frozen=True)
class Interval:
    """What is expected, and between what nine of ten such jobs lay."""

    expected: float
    least: float
    most: float


@dataclass(frozen=True)
class Features:
    """What a job's figures are computed of: seconds by the formula, bytes of memory by its plan."""

    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Run:
    """A job of the same kind that has succeeded: what it was thought to take, and what it took."""

    features: Features
    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class History:
    """Runs of one kind on one class of hardware, the one that the newest of them ran on."""

    hardware: str | None
    runs: tuple[Run, ...]


UNKNOWN_HISTORY = History(None, ())


@dataclass(frozen=True)
class Estimate:
    """Before a run.

    `artifact_bytes` is exact but for the container's own bytes, and a first guess where the plan leaves schemes open;
    memory is the runner's largest resident set, `scratch_bytes` what the job holds on disk beside source and artifact.
    `runs` earlier ones on `hardware` corrected it; both are empty where the formula stands alone.
    """

    artifact_bytes: int
    memory_bytes: Interval
    scratch_bytes: int
    seconds: Interval
    features: Features
    runs: int = 0
    hardware: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        intervals = {name: Interval(**data[name]) for name in ("memory_bytes", "seconds")}
        return cls(**{**data, **intervals, "features": Features(**data["features"])})


def predict(feature: float, runs: Sequence[tuple[float, float]]) -> Interval:
    """From a feature, and (feature, what it took) of earlier runs."""
    line = _line(runs)
    expected = line(feature)
    if not runs:
        return Interval(expected, expected / UNKNOWN, expected * UNKNOWN)
    factors = sorted(took / line(before) for before, took in runs if line(before) > 0)
    outside = int(len(factors) * (1 - CAUGHT) / 2)
    margin = LEAST_MARGIN + (UNKNOWN - 1) / (1 + len(runs)) ** 2  # few runs say little of the next one
    least, most = factors[outside] / (1 + margin), factors[-1 - outside] * (1 + margin)
    return Interval(expected, min(expected, expected * least), max(expected, expected * most))


class _Line:
    """`offset` + `slope` * feature, never less than a thousandth of the feature."""

    def __init__(self, slope: float, offset: float = 0.0) -> None:
        self.slope, self.offset = slope, offset

    def __call__(self, feature: float) -> float:
        return max(self.offset + self.slope * feature, feature / 1000)


def _line(runs: Sequence[tuple[float, float]]) -> _Line:
    if not runs:
        return _Line(1.0)
    slopes = [
        (took - other) / (feature - before)
        for (before, other), (feature, took) in combinations(sorted(runs), 2)
        if feature > APART * before
    ]
    if len(runs) >= RUNS_FOR_A_LINE and slopes and (slope := median(slopes)) > 0:
        return _Line(slope, median(took - slope * feature for feature, took in runs))
    return _Line(median(took / feature for feature, took in runs if feature > 0))


def error_of(estimate: Estimate, run: Run) -> tuple[float, float]:
    """How far off the estimate was of seconds and of memory, as a share of what it took."""
    return (
        abs(estimate.seconds.expected - run.seconds) / run.seconds,
        abs(estimate.memory_bytes.expected - run.memory_bytes) / run.memory_bytes,
    )
