"""How many pods there are, how many may be missing, and where they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import helm_python as helm
import pytest
from tests.helm.manifests import Document, at, names, one

Render = Callable[..., list[Document]]

CPU = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
MEMORY = {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}}
SCALER: dict[str, tuple[dict[str, Any], str, Any]] = {
    "what it scales": ({}, "spec.scaleTargetRef.name", "r-quantmill-api"),
    "least": ({"minReplicas": 3}, "spec.minReplicas", 3),
    "most": ({"maxReplicas": 9}, "spec.maxReplicas", 9),
    "CPU": ({}, "spec.metrics", [{"type": "Resource", "resource": CPU}]),
    "CPU and memory": (
        {"memoryUtilization": 80},
        "spec.metrics",
        [{"type": "Resource", "resource": CPU}, {"type": "Resource", "resource": MEMORY}],
    ),
    "memory alone": (
        {"cpuUtilization": 0, "memoryUtilization": 80},
        "spec.metrics",
        [{"type": "Resource", "resource": MEMORY}],
    ),
    "how fast": (
        {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}},
        "spec.behavior.scaleDown.stabilizationWindowSeconds",
        60,
    ),
}

BUDGETS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "two API pods": ({}, ["r-quantmill-api"]),
    "single pods": ({"api": {"replicas": 1}}, []),
    "an autoscaler with one pod at least": ({"api": {"autoscaling": {"enabled": True, "minReplicas": 1}}}, []),
    "an autoscaler with two at least": (
        {"api": {"replicas": 1, "autoscaling": {"enabled": True}}},
        ["r-quantmill-api"],
    ),
    "two schedulers": ({"scheduler": {"replicas": 2}}, ["r-quantmill-api", "r-quantmill-scheduler"]),
    "two workers": (
        {"workers": {"pools": {"cpu": {"replicas": 2}, "big": {}}}},
        ["r-quantmill-api", "r-quantmill-worker-cpu"],
    ),
    "a pool that is off": (
        {"workers": {"pools": {"cpu": {"enabled": False, "replicas": 2}}}},
        ["r-quantmill-api"],
    ),
    "none wanted": ({"api": {"pdb": {"enabled": False}}}, []),
}

REFUSED = {
    "fewer at most than at least": (
        {"minReplicas": 5, "maxReplicas": 3},
        {},
        "api.autoscaling.minReplicas is 5 and maxReplicas 3",
    ),
    "no measure": ({"cpuUtilization": 0}, {}, "set cpuUtilization or memoryUtilization"),
    "a share of nothing": ({}, {"resources": {"requests": {"cpu": None}}}, "api.resources.requests.cpu, which is not"),
}


@pytest.mark.parametrize(("values", "path", "expected"), SCALER.values(), ids=SCALER.keys())
def test_an_autoscaler_has(render: Render, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render({"api": {"autoscaling": {"enabled": True, **values}}})

    assert at(one(documents, "HorizontalPodAutoscaler", "r-quantmill-api"), path) == expected


@pytest.mark.parametrize(("scaling", "more", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_autoscaler_that_could_not_work_is_refused(
    chart: helm.Chart, scaling: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(helm.HelmRenderError) as refusal:
        chart.render({"api": {"autoscaling": {"enabled": True, **scaling}, **more}})

    assert message in str(refusal.value)


@pytest.mark.parametrize(("values", "expected"), BUDGETS.values(), ids=BUDGETS.keys())
def test_budgets_are_for_components_with_several_pods(
    render: Render, values: dict[str, Any], expected: list[str]
) -> None:
    assert names(render(values), "PodDisruptionBudget") == expected


@pytest.mark.parametrize("most", [2, "30%"])
def test_a_budget_says_how_many_may_be_away(render: Render, most: int | str) -> None:
    budget = one(render({"api": {"pdb": {"maxUnavailable": most}}}), "PodDisruptionBudget", "r-quantmill-api")

    assert at(budget, "spec.maxUnavailable") == most
    assert at(budget, "spec.unhealthyPodEvictionPolicy") == "AlwaysAllow"


def spread(documents: list[Document], component: str) -> list[dict[str, Any]]:
    deployment = one(documents, "Deployment", f"r-quantmill-{component}")
    return list(at(deployment, "spec.template.spec.topologySpreadConstraints") or [])


def test_api_pods_spread_over_hosts_and_zones_where_they_can(render: Render) -> None:
    found = spread(render(), "api")

    assert [each["topologyKey"] for each in found] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert {each["whenUnsatisfiable"] for each in found} == {"ScheduleAnyway"}
    assert found[0]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "api"
    assert found[0]["matchLabelKeys"] == ["pod-template-hash"]  # pods of the version before are not counted


def test_a_pools_pods_are_counted_apart(render: Render) -> None:
    rule = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    documents = render({"workers": {"defaults": {"topologySpreadConstraints": [rule]}, "pools": {"big": {}}}})

    pools = {
        name: spread(documents, f"worker-{name}")[0]["labelSelector"]["matchLabels"]["quantmill/pool"]
        for name in ("cpu", "big")
    }

    assert pools == {"cpu": "cpu", "big": "big"}


def test_a_selector_of_ones_own_is_kept(render: Render) -> None:
    rule = {
        "maxSkew": 1,
        "topologyKey": "rack",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"team": "models"}},
        "matchLabelKeys": ["team"],
    }

    found = spread(render({"api": {"topologySpreadConstraints": [rule]}}), "api")

    assert found[0]["matchLabelKeys"] == ["team"]
    assert found[0]["labelSelector"]["matchLabels"]["team"] == "models"
