"""ServiceAccounts: one for each component and pool, none with a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import helm_python as helm
import pytest
from tests.helm.manifests import Document, names, one, pods

Render = Callable[..., list[Document]]

COMPONENTS = ["api", "migrate", "scheduler", "test", "worker-cpu"]
OWN = {"serviceAccount": {"name": "team"}}
ACCOUNTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "one for each": ({}, {name: f"r-quantmill-{name}" for name in COMPONENTS}),
    "none": ({"serviceAccount": {"create": False}}, dict.fromkeys(COMPONENTS, "default")),
    "one for all": ({"serviceAccount": {"create": False, "name": "team"}}, dict.fromkeys(COMPONENTS, "team")),
    "one of one's own": ({"api": OWN}, {name: f"r-quantmill-{name}" for name in COMPONENTS} | {"api": "team"}),
    "one for workers": (
        {"serviceAccount": {"create": False}, "workers": {"defaults": OWN}},
        dict.fromkeys(COMPONENTS, "default") | {"worker-cpu": "team"},
    ),
    "before the release there are none": (
        {"migrations": {"mode": "hook"}},
        {name: f"r-quantmill-{name}" for name in COMPONENTS} | {"migrate": "default"},
    ),
    "but for one that is there": (
        {"migrations": {"mode": "hook", **OWN}},
        {name: f"r-quantmill-{name}" for name in COMPONENTS} | {"migrate": "team"},
    ),
}


def used(documents: list[Document]) -> dict[str, str]:
    """The account of each component's pods."""
    found = {}
    for pod in pods(documents):
        labels = pod["metadata"]["labels"]
        name = "-".join(filter(None, [labels["app.kubernetes.io/component"], labels.get("quantmill/pool")]))
        found[name] = pod["spec"]["serviceAccountName"]
    return found


@pytest.mark.parametrize(("values", "expected"), ACCOUNTS.values(), ids=ACCOUNTS.keys())
def test_pods_have_accounts(render: Render, values: dict[str, Any], expected: dict[str, str]) -> None:
    documents = render(values)

    assert used(documents) == expected
    assert names(documents, "ServiceAccount") == sorted({name for name in expected.values() if name.startswith("r-")})


def test_accounts_have_no_token(render: Render) -> None:
    accounts = [item for item in render() if item["kind"] == "ServiceAccount"]

    assert {account["automountServiceAccountToken"] for account in accounts} == {False}


def test_annotations_are_those_of_all_and_its_own(render: Render) -> None:
    documents = render(
        {
            "serviceAccount": {"annotations": {"role": "none", "team": "models"}},
            "workers": {"pools": {"cpu": {"serviceAccount": {"annotations": {"role": "reader"}}}}},
        }
    )

    annotations = {
        name: one(documents, "ServiceAccount", f"r-quantmill-{name}")["metadata"]["annotations"]
        for name in ("api", "worker-cpu")
    }

    assert annotations == {
        "api": {"role": "none", "team": "models"},
        "worker-cpu": {"role": "reader", "team": "models"},
    }


def test_one_name_for_many_accounts_is_refused(chart: helm.Chart) -> None:
    with pytest.raises(helm.HelmRenderError) as refusal:
        chart.render({"serviceAccount": {"name": "team"}})

    assert "set create to false" in str(refusal.value)
