"""Secrets from a store, the pods of `helm test`, and objects that the chart knows nothing of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from tests.helm.manifests import Document, at, names, one
from tests.helm.releases import Installation, installation

Render = Callable[..., list[Document]]

STORE = {"storeRef": {"name": "vault", "kind": "ClusterSecretStore"}, "database": {"key": "teams/q", "property": "pg"}}
EXTERNAL: dict[str, tuple[dict[str, Any], str, Any]] = {
    "the store": ({}, "spec.secretStoreRef", {"name": "vault", "kind": "ClusterSecretStore"}),
    "how often": ({"externalSecret": {"refreshInterval": "15m"}}, "spec.refreshInterval", "15m"),
    "the Secret that pods read": ({}, "spec.target.name", "r-quantmill-database"),
    "a Secret of another name": (
        {"database": {"external": {"existingSecret": "pg", "urlKey": "uri"}}},
        "spec.target.name",
        "pg",
    ),
    "its key": ({"database": {"external": {"urlKey": "uri"}}}, "spec.data.0.secretKey", "uri"),
    "where the store has it": ({}, "spec.data.0.remoteRef", {"key": "teams/q", "property": "pg"}),
}

REFUSED = {
    "no store": ({"externalSecret": {"storeRef": {"name": ""}}}, "externalSecret.storeRef.name is empty"),
    "nothing to fetch": (
        {"externalSecret": {"database": {"key": ""}}},
        "neither externalSecret.database.key nor externalSecret.broker.key is set",
    ),
    "two homes of one URL": (
        {"database": {"external": {"url": "postgresql://h/d"}}},
        "externalSecret.database.key and database.external.url are both set",
    ),
    "a store that the release brings": (
        {"postgresql": {"enabled": True}},
        "externalSecret.database.key is set, but postgresql.enabled brings a store with a Secret of its own",
    ),
    "a migration before the Secret": ({"migrations": {"mode": "hook"}}, "migrations.mode hook runs before"),
}


def merged(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "externalSecret": {"enabled": True, **STORE, **values.get("externalSecret", {})}}


@pytest.mark.parametrize(("values", "path", "expected"), EXTERNAL.values(), ids=EXTERNAL.keys())
def test_an_external_secret_has(render: Render, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render(merged(values))

    assert at(one(documents, "ExternalSecret", "r-quantmill-database"), path) == expected


def test_only_what_the_store_has_is_fetched(render: Render) -> None:
    assert names(render(merged({})), "ExternalSecret") == ["r-quantmill-database"]
    assert names(render(), "ExternalSecret") == []


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_external_secrets_that_could_not_work_are_refused(
    chart: helm.Chart, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(helm.HelmRenderError) as refusal:
        chart.render(merged(values))

    assert message in str(refusal.value)


# helm test


def test_tests_run_in_the_image_of_the_api_and_need_no_shell(render: Render) -> None:
    documents = render({"image": {"tag": "0.9.0"}, "global": {"imagePullSecrets": ["login"]}})
    image = at(one(documents, "Deployment", "r-quantmill-api"), "spec.template.spec.containers.0.image")

    for name in names(documents, "Pod"):
        pod = one(documents, "Pod", name)
        assert at(pod, "metadata.annotations")["helm.sh/hook"] == "test"
        assert at(pod, "spec.imagePullSecrets") == [{"name": "login"}]
        assert at(pod, "spec.restartPolicy") == "Never"
        assert at(pod, "spec.containers.0.image") == image
        assert at(pod, "spec.containers.0.command")[:2] == ["python3", "-c"]


def test_tests_talk_to_the_service(render: Render) -> None:
    documents = render({"api": {"service": {"port": 80}}})
    env = at(one(documents, "Pod", "r-quantmill-test-ready"), "spec.containers.0.env")

    assert {"name": "QUANTMILL_SERVER", "value": "http://r-quantmill-api:80"} in env


COMPRESSION: dict[str, tuple[dict[str, Any], list[str] | None]] = {
    "a random model": ({}, ["600"]),
    "a model of one's own": (
        {"tests": {"compression": {"source": "llama", "timeoutSeconds": 60}}, "sources": {"hub": {}}},
        ["60", "llama"],
    ),
    "sources that cannot be written to": ({"sources": {"hub": {}}}, None),
    "no pool": ({"workers": {"pools": {"cpu": {"enabled": False}}}}, None),
    "no compression": ({"tests": {"compression": {"enabled": False}}}, None),
    "no tests": ({"tests": {"enabled": False}}, None),
}


@pytest.mark.parametrize(("values", "arguments"), COMPRESSION.values(), ids=COMPRESSION.keys())
def test_a_model_is_compressed_where_that_can_be_done(
    render: Render, values: dict[str, Any], arguments: list[str] | None
) -> None:
    claims = {name: {"claim": "models", "mountPath": "/models"} for name in values.get("sources", {})}
    documents = render({**values, "sources": claims})

    pods = [item for item in documents if item["metadata"]["name"] == "r-quantmill-test-compress"]

    assert [at(pod, "spec.containers.0.args") for pod in pods] == ([arguments] if arguments else [])


WAITED_FOR: dict[str, tuple[dict[str, Any], list[str] | None]] = {
    "the pool": ({}, ["300", "r-quantmill-worker-cpu-=1"]),
    "pools": (
        {"cpu": {"replicas": 2}, "big": {}},
        ["300", "r-quantmill-worker-big-=1", "r-quantmill-worker-cpu-=2"],
    ),
    "not one that is off": ({"cpu": {"enabled": False}}, None),
    "not one without pods": ({"cpu": {"replicas": 0}}, None),
    "not one that is scaled": ({"cpu": {"keda": {"enabled": True}, "queue": "cpu"}}, None),
}


@pytest.mark.parametrize(("pools", "arguments"), WAITED_FOR.values(), ids=WAITED_FOR.keys())
def test_workers_of_pools_with_a_fixed_number_are_waited_for(
    render: Render, pools: dict[str, Any], arguments: list[str] | None
) -> None:
    token = {"autoscalingToken": {"existingSecret": "token"}}
    documents = render({"api": token, "workers": {"pools": pools}})

    pods = [item for item in documents if item["metadata"]["name"] == "r-quantmill-test-workers"]

    assert [at(pod, "spec.containers.0.args") for pod in pods] == ([arguments] if arguments else [])


def test_only_a_random_model_is_written_to_the_data_folder(render: Render) -> None:
    random = one(render(), "Pod", "r-quantmill-test-compress")
    given = one(render({"tests": {"compression": {"source": "llama"}}}), "Pod", "r-quantmill-test-compress")

    [made] = [volume for volume in random["spec"]["volumes"] if volume["name"] == "data"]
    [none] = [volume for volume in given["spec"]["volumes"] if volume["name"] == "data"]
    assert made["persistentVolumeClaim"] == {"claimName": "r-quantmill-data"}
    assert "emptyDir" in none


# Extra objects


@pytest.mark.parametrize(
    "extra",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-more}",
    ],
    ids=["map", "text"],
)
def test_extra_objects_are_templates(render: Render, extra: Any) -> None:
    assert names(render({"extraObjects": {"more": extra}}), "ConfigMap") == ["r-more", "r-quantmill"]


def test_an_extra_object_of_another_values_file_can_be_taken_back(render: Render) -> None:
    assert names(render({"extraObjects": {"more": None}}), "ConfigMap") == ["r-quantmill"]


# What a cluster must serve

NEEDS = {
    "metrics.serviceMonitor.enabled": ({"metrics": {"serviceMonitor": {"enabled": True}}}, "monitoring.coreos.com/v1"),
    "metrics.prometheusRule.enabled": ({"metrics": {"prometheusRule": {"enabled": True}}}, "monitoring.coreos.com/v1"),
    "httpRoute.enabled": (
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}},
        "gateway.networking.k8s.io/v1",
    ),
    "route.enabled": ({"route": {"enabled": True, "host": "q.example"}}, "route.openshift.io/v1"),
    "externalSecret.enabled": (merged({}), "external-secrets.io/v1"),
}


@pytest.fixture(scope="module")
def bare() -> Iterator[Installation]:
    """A cluster without any operator."""
    with installation(frozenset()) as release:
        yield release


@pytest.mark.parametrize(("key", "values", "api"), [(key, *need) for key, need in NEEDS.items()], ids=NEEDS.keys())
def test_a_cluster_without_the_kind_refuses_and_says_which_value_wants_it(
    bare: Installation, chart_path: Path, key: str, values: dict[str, Any], api: str
) -> None:
    with pytest.raises(helm.HelmError) as refusal:
        bare.config.install(chart_path, "r", values, dry_run="server")

    assert f"{key} is true, but the cluster does not serve {api}" in str(refusal.value)
    assert f"or set {key} to false" in str(refusal.value)


@pytest.mark.parametrize("values", [values for values, _ in NEEDS.values()], ids=NEEDS.keys())
def test_without_a_cluster_nothing_is_known_and_nothing_refused(chart: helm.Chart, values: dict[str, Any]) -> None:
    assert chart.render(values)
