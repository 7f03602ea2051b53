"""The chart, rendered by Helm itself, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # reads in a tenth of the time
Document = dict[str, Any]
Render = Callable[..., list[Document]]

CHART = Path(__file__).parents[2] / "helm" / "quantmill"
PROFILES = {path.stem.removesuffix("-values"): path for path in sorted(CHART.glob("ci/*-values.yaml"))}


def values_of(profile: str) -> dict[str, Any]:
    return dict(yaml.safe_load(PROFILES[profile].read_text()))


@pytest.fixture(scope="session")
def chart_path() -> Path:
    return CHART


class Chart:
    """The chart, read anew each time: one that was rendered has lost the subcharts that its values left out."""

    def render(self, values: dict[str, Any], **options: Any) -> dict[str, str]:
        with helm.Chart.load(CHART) as loaded:
            return dict(loaded.render(values, **options))

    def validate_schema(self, values: dict[str, Any]) -> None:
        with helm.Chart.load(CHART) as loaded:
            loaded.validate_schema(values)


@pytest.fixture(scope="session")
def chart() -> Chart:
    return Chart()


@pytest.fixture(scope="session")
def render(chart: Chart) -> Render:
    """The documents that release `r` in namespace `ns` consists of."""

    @cache
    def texts(values: str) -> list[str]:
        files = chart.render(json.loads(values), name="r", namespace="ns")
        return [text for path, text in files.items() if path.endswith(".yaml")]

    def rendered(values: dict[str, Any] | None = None) -> list[Document]:
        found = texts(json.dumps(values or {}))
        return [document for text in found for document in yaml.load_all(text, Loader) if document]

    return rendered


@pytest.fixture(scope="session", params=PROFILES)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The values of each profile in helm/quantmill/ci."""
    return values_of(request.param)


@pytest.fixture(scope="session")
def documents(render: Render, values: dict[str, Any]) -> list[Document]:
    return render(values)
