"""Variants of one model side by side: the comparison's values, its recommendation, and its JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from quantmill.domain.artifacts import Metric
from quantmill.domain.comparisons import VariantRequest, shown
from quantmill.domain.escalation import Step

MOST_RATIO = 1.03  # of the perplexities: what a recommended variant may lose, its interval's upper end included
SCHEMA = "quantmill.comparison.v1"
CSV_METRICS = (
    "bits_per_weight",
    "perplexity",
    "perplexity_ratio",
    "retention",
    "kld_mean",
    "kld_median",
    "kld_p99",
    "kld_max",
    "top1_agreement",
    "top5_agreement",
    "flips",
    "continuation_agreement",
    "continuation_divergence",
    "continuation_identical",
    "predicted_memory",
    "measured_memory",
    "load_seconds",
    "prompt_speed",
    "generation_speed",
    "relative_rmse",
)


@dataclass(frozen=True)
class MeasuredVariant:
    """One variant of a comparison and what became of it.

    `digest` is the artifact's, None where the job did not succeed; `size` (bytes) is known of what missed a gate too.
    `steps` are smaller attempts that missed the gates, `made_with` the parameters that replaced those asked for.
    `calibration` is the text that it was calibrated on and how, where it was.
    """

    method: str
    params: Mapping[str, Any]
    state: str
    seconds: float | None
    size: int | None = None
    digest: str | None = None
    error: str | None = None
    metrics: tuple[Metric, ...] = ()
    steps: tuple[Step, ...] = ()
    made_with: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What was asked for, and what it was escalated to."""
        asked = VariantRequest(self.method, self.params).name
        return f"{asked} → {VariantRequest('', self.made_with).name.strip()}" if self.made_with else asked

    @property
    def made_params(self) -> Mapping[str, Any]:
        return {**self.params, **self.made_with}

    @property
    def succeeded(self) -> bool:
        return self.digest is not None

    def metric(self, name: str, subject: str = "artifact") -> Metric | None:
        return next((each for each in self.metrics if (each.subject, each.name) == (subject, name)), None)

    def value(self, name: str, subject: str = "artifact") -> float:
        """NaN where it was not measured."""
        found = self.metric(name, subject)
        return math.nan if found is None else found.value

    @cached_property
    def blocks(self) -> list[Metric]:
        """The output error of each block, in the model's order."""
        return sorted((each for each in self.metrics if each.name == "output_error"), key=_order)


@dataclass(frozen=True)
class Report:
    """What a comparison found. `source` and `text` are paths, `source_bytes` is the size of the source's weights,
    `version` that of the quantmill which reports, `evaluation` how it was measured where that is not the default."""

    source: str
    source_bytes: int
    text: str
    variants: tuple[MeasuredVariant, ...]
    version: str
    seed: int = 0
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> tuple[float, str]:
        """The bytes and the name of the unit that sizes are shown in."""
        return (1e9, "GB") if self.source_bytes >= 2e9 else (1e6, "MB")

    @property
    def succeeded(self) -> list[MeasuredVariant]:
        return [variant for variant in self.variants if variant.succeeded]

    def first(self, name: str, subject: str = "artifact") -> Metric | None:
        """The metric of the first variant that has it: what is said of the source is the same for all."""
        return next((found for each in self.variants if (found := each.metric(name, subject))), None)

    @property
    def frontier(self) -> list[MeasuredVariant]:
        """Those that no other beats in both size and mean KL divergence, smallest first."""
        best, kept = math.inf, []
        for variant in sorted(self.succeeded, key=lambda each: (each.size or 0, each.value("kld_mean"))):
            if variant.value("kld_mean") < best:
                best = variant.value("kld_mean")
                kept.append(variant)
        return kept

    def recommend(self) -> tuple[MeasuredVariant | None, str]:
        """The variant to take, and why."""
        good = [each for each in self.frontier if _most_ratio(each) <= MOST_RATIO]
        divisor, unit = self.unit
        allowed = f"{100 * (MOST_RATIO - 1):.0f} %"
        if good:
            chosen = min(good, key=lambda each: each.size or 0)
            return chosen, (
                f"the smallest of those whose perplexity is at most {allowed} above the source's: "
                f"{_shown_ratio(chosen)}, {(chosen.size or 0) / divisor:.2f} {unit}."
            )
        if self.frontier:
            nearest = min(self.frontier, key=lambda each: each.value("kld_mean"))
            return nearest, (
                f"the nearest to the source, but none keeps its perplexity within {allowed} of the source's: "
                f"{_shown_ratio(nearest)}. Try a larger type."
            )
        return None, "no variant succeeded."

    def command(self, variant: MeasuredVariant) -> str:
        """The shell command that makes and measures the variant again."""
        sets = [part for key, value in variant.made_params.items() for part in ("--set", f"{key}={shown(value)}")]
        output = re.sub(r"[^\w.+]+", "-", "-".join([variant.method, *map(shown, variant.made_params.values())])).strip(
            "-"
        )
        seed = ["--seed", str(self.seed)] if self.seed else []
        method = ["--method", variant.method, *sets, *seed, *_calibrates(variant)]
        method += ["--evaluate", self.text, *self._measures()]
        return shlex.join(["quantmill", "quantize", self.source, *method, "--output", output])

    def _measures(self) -> Iterator[str]:
        for name, value in self.evaluation.items():
            for each in value if isinstance(value, list | tuple) else [value]:
                yield from ("--measure", f"{name}={shown(each)}")

    def to_json(self) -> str:
        recommended, reason = self.recommend()
        whole = {
            "schema": SCHEMA,
            "quantmill": self.version,
            "source": self.source,
            "source_bytes": self.source_bytes,
            "text": self.text,
            "seed": self.seed,
            "evaluation": dict(self.evaluation),
            "recommendation": {"variant": recommended.name if recommended else None, "reason": reason},
            "variants": [self._variant_json(variant) for variant in self.variants],
        }
        return json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=2) + "\n"

    def _variant_json(self, variant: MeasuredVariant) -> dict[str, Any]:
        built = {"metrics", "blocks", "params", "steps", "made_with"}
        fields = {name: value for name, value in vars(variant).items() if name not in built}
        return {
            "name": variant.name,
            **fields,
            "params": dict(variant.params),
            "made_with": dict(variant.made_with),
            "calibration": dict(variant.calibration),
            "steps": [step.to_json() for step in variant.steps],
            "on_frontier": variant in self.frontier,
            "command": self.command(variant),
            "metrics": [
                {**vars(each), **{name: _finite(getattr(each, name)) for name in ("value", "ci_low", "ci_high")}}
                for each in variant.metrics
            ],
        }

    def to_csv(self) -> str:
        """A line for each variant; an empty cell is what was not measured."""
        out = io.StringIO()
        lines = csv.writer(out)
        lines.writerow(["variant", "state", "bytes", "seconds", *CSV_METRICS, "kld_mean_low", "kld_mean_high"])
        for each in self.variants:
            kld = each.metric("kld_mean")
            ends = (kld.ci_low, kld.ci_high) if kld else (None, None)
            values = [_finite(each.value(name)) for name in CSV_METRICS]
            lines.writerow([_cell(each.name), each.state, each.size, each.seconds, *values, *ends])
        return out.getvalue()


def _calibrates(variant: MeasuredVariant) -> Iterator[str]:
    if variant.calibration:
        yield from ("--calibration", variant.calibration["text"])
    for name, value in variant.calibration.items():
        if name != "text":
            yield from ("--calibrate", f"{name}={shown(value)}")


def _most_ratio(variant: MeasuredVariant) -> float:
    found = variant.metric("perplexity_ratio")
    return math.inf if found is None else found.value if found.ci_high is None else found.ci_high


def _shown_ratio(variant: MeasuredVariant) -> str:
    return f"{100 * (variant.value('perplexity_ratio') - 1):+.2f} %"


def _order(metric: Metric) -> tuple[Any, ...]:
    return tuple((part.isdigit(), int(part) if part.isdigit() else part) for part in metric.subject.split("."))


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
