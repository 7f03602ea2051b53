"""Whatever the schema lets through becomes valid manifests or is refused in words of ours.

QUANTMILL_CHART_EXAMPLES=1000 looks at more than the few that each run of the tests does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from hypothesis import HealthCheck, Phase, event, given, note, settings
from tests.helm.drawing import values
from tests.helm.manifests import Document, containers, environment, of_pod, pods
from tests.helm.validity import validate

from helm.model.kubernetes import VERSION

EXAMPLES = int(os.environ.get("QUANTMILL_CHART_EXAMPLES", "40"))
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


@pytest.fixture(scope="module")
def refusals(chart_path: Path) -> list[re.Pattern[str]]:
    """The messages of all templates, with anything where they are filled in."""
    texts = [path.read_text() for path in sorted(chart_path.glob("**/templates/**/*.*"))]
    formats = [found for text in texts for found in re.findall(r'fail \(?(?:printf )?"((?:[^"\\]|\\.)*)"', text)]
    return [re.compile(re.sub(r"%[a-z]", ".*", re.escape(each)), re.DOTALL) for each in formats]


@settings(
    max_examples=EXAMPLES, deadline=None, phases=PHASES, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(drawn=values())
def test_values_of_the_schema_become_valid_manifests_or_a_refusal_of_ours(
    chart: helm.Chart, refusals: list[re.Pattern[str]], drawn: dict[str, Any]
) -> None:
    note(yaml.safe_dump(drawn))
    texts, refused = rendered(chart, drawn)
    event("refused" if refused else "rendered")

    assert not refused or any(refusal.search(refused) for refusal in refusals), refused
    documents = list(loaded(texts))
    for document in documents:
        validate(document, VERSION)
    for pod in pods(documents):
        volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
        assert len(volumes) == len(set(volumes))
        for container in of_pod(pod):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(paths) == len(set(paths))
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    for container in containers(documents):
        assert len(environment(container)) == len(container.get("env", []))


def rendered(chart: helm.Chart, drawn: dict[str, Any]) -> tuple[dict[str, str], str]:
    """The manifests, or why there are none."""
    try:
        return chart.render(drawn, name="r", namespace="ns"), ""
    except helm.HelmRenderError as refusal:
        return {}, str(refusal)


def loaded(texts: dict[str, str]) -> Iterator[Document]:
    for path, text in texts.items():
        if path.endswith(".yaml"):
            yield from (item for item in yaml.load_all(text, yaml.CSafeLoader) if item)
