"""Gates: conditions that an artifact must meet, such as `kld.mean <= 0.05`.

A gate is a name, one of <= < >= >, and a decimal number. Nothing is evaluated but that comparison.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantmill.contract.errors import GateFailed, RequestRejected
from quantmill.domain.artifacts import Metric

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
GATE = re.compile(
    r"\s*(?P<name>[a-z0-9_.]+)\s*(?P<comparison><=|>=|<|>)\s*(?P<limit>[+-]?\d{1,30}(\.\d{1,30})?(e[+-]?\d{1,3})?)\s*",
    re.ASCII,
)


@dataclass(frozen=True)
class Measure:
    """Where a name's value comes from: a metric of the artifact, in this many of the metric's units."""

    metric: str
    needs_text: bool = True
    unit: float = 1.0


MEASURES = {
    "kld.mean": Measure("kld_mean"),
    "kld.median": Measure("kld_median"),
    "kld.p99": Measure("kld_p99"),
    "kld.max": Measure("kld_max"),
    "ppl": Measure("perplexity"),
    "ppl.ratio": Measure("perplexity_ratio"),
    "retention": Measure("retention"),
    "top1": Measure("top1_agreement"),
    "top5": Measure("top5_agreement"),
    "flips": Measure("flips"),
    "continuation": Measure("continuation_agreement"),
    "embedding.cosine": Measure("embedding_cosine"),
    "embedding.cosine_worst": Measure("embedding_cosine_worst"),
    "memory_mb": Measure("predicted_memory", unit=1e6),
    "size_mb": Measure("size", needs_text=False, unit=1e6),
    "bpw": Measure("bits_per_weight", needs_text=False),
    "rmse": Measure("relative_rmse", needs_text=False),
}


@dataclass(frozen=True)
class Gate:
    """A parsed condition; `text` is as it was written."""

    text: str
    name: str
    comparison: str
    limit: float

    @property
    def measure(self) -> Measure:
        return MEASURES[self.name]


@dataclass(frozen=True)
class GateVerdict:
    """A gate and what became of it: both are None until the artifact has been measured."""

    gate: str
    observed: float | None = None
    passed: bool | None = None


def parse(text: str) -> Gate:
    """Raises RequestRejected, saying what a gate looks like or which names there are."""
    found = GATE.fullmatch(text)
    if found is None:
        raise RequestRejected(f"{text[:100]!r} is not a gate; write one as in 'kld.mean <= 0.05'")
    if found["name"] not in MEASURES:
        raise RequestRejected(f"{found['name'][:100]!r} is not measured; a gate's name is one of {', '.join(MEASURES)}")
    limit = float(found["limit"])
    if not math.isfinite(limit):
        raise RequestRejected(f"the limit of {text[:100]!r} is not a finite number")
    return Gate(text, found["name"], found["comparison"], limit)


def judge(gates: Iterable[str], metrics: Iterable[Metric]) -> tuple[GateVerdict, ...]:
    """Each gate against the artifact's metrics. What was not measured, or is NaN, does not pass."""
    measured = {metric.name: metric.value for metric in metrics if metric.subject == "artifact"}
    return tuple(_verdict(parse(text), measured) for text in gates)


def _verdict(gate: Gate, measured: dict[str, float]) -> GateVerdict:
    value = measured.get(gate.measure.metric, math.nan) / gate.measure.unit
    if math.isnan(value):
        return GateVerdict(gate.text, None, False)
    return GateVerdict(gate.text, value, COMPARISONS[gate.comparison](value, gate.limit))


def refusal(
    verdicts: Sequence[GateVerdict], metrics: Iterable[Metric], steps: Sequence[Mapping[str, Any]] = ()
) -> GateFailed:
    """The error of a job whose gates were not all met, with everything that was measured, and all `steps` where it had
    escalated."""
    said = "; ".join(f"{verdict.gate}: {_shown(verdict.observed)}" for verdict in verdicts if not verdict.passed)
    tried = f" at the last of {len(steps)} steps" if steps else ""
    return GateFailed(
        f"not met{tried}: {said}. Choose a larger type, or another limit.",
        gates=[dict(vars(verdict)) for verdict in verdicts],
        metrics=[_plain(metric) for metric in metrics],
        **({"steps": list(steps)} if steps else {}),
    )


def _shown(observed: float | None) -> str:
    return "not measured" if observed is None else f"{observed:.4g} was observed"


def metrics_in(error: Mapping[str, Any]) -> tuple[Metric, ...]:
    """What was measured on an artifact that `refusal` kept back, from its job's error; none in any other error."""
    return tuple(
        Metric(**{**row, "value": math.nan if row["value"] is None else row["value"]})
        for row in error.get("metrics", ())
    )


def _plain(metric: Metric) -> dict[str, object]:
    """As JSON can hold it: null where the value is not finite."""
    return {**vars(metric), "value": metric.value if math.isfinite(metric.value) else None}
