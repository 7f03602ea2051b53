"""What users add to pods, and what every pod is told of the world outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.helm.manifests import environment, of_kind, of_pod, one, template

Document = dict[str, Any]
Render = Callable[..., list[Document]]


def pod(documents: list[Document], name: str) -> Document:
    return template(one(documents, "Deployment", f"r-quantmill-{name}"))


def main(documents: list[Document], name: str) -> Document:
    return dict(pod(documents, name)["spec"]["containers"][0])


def every_pod(documents: list[Document]) -> list[Document]:
    return [template(workload) for workload in of_kind(documents, "Deployment", "Job")]


# Additions

COMPONENTS = [
    ("api", lambda values: {"api": values}),
    ("scheduler", lambda values: {"scheduler": values}),
    ("worker-cpu", lambda values: {"workers": {"defaults": values}}),
    ("worker-cpu", lambda values: {"workers": {"pools": {"cpu": values}}}),
]


@pytest.mark.parametrize(("name", "level"), COMPONENTS, ids=["api", "scheduler", "defaults", "pool"])
def test_what_a_component_adds_wins_over_what_the_release_adds(
    render: Render, name: str, level: Callable[[Any], dict[str, Any]]
) -> None:
    documents = render({"extraEnv": {"TZ": "UTC", "A": "1"}, **level({"extraEnv": {"TZ": "CET"}})})

    variables = environment(main(documents, name))
    assert (variables["TZ"], variables["A"]) == ("CET", "1")
    assert [environment(each["spec"]["containers"][0])["A"] for each in every_pod(documents)] == ["1"] * 4


def test_a_variable_may_come_from_elsewhere(render: Render) -> None:
    source = {"secretKeyRef": {"name": "hub", "key": "token"}}

    documents = render({"extraEnv": {"HF_TOKEN": "none"}, "api": {"extraEnv": {"HF_TOKEN": source}}})

    assert environment(main(documents, "api"))["HF_TOKEN"] == source
    assert environment(main(documents, "scheduler"))["HF_TOKEN"] == "none"


def test_variables_from_maps_of_all_levels_come_in_their_order(render: Render) -> None:
    documents = render(
        {
            "extraEnvFrom": [{"configMapRef": {"name": "all"}}],
            "api": {"extraEnvFrom": [{"secretRef": {"name": "own"}}]},
        }
    )

    assert main(documents, "api")["envFrom"] == [
        {"configMapRef": {"name": "r-quantmill"}},
        {"configMapRef": {"name": "all"}},
        {"secretRef": {"name": "own"}},
    ]


def test_volumes_are_added_with_their_mounts(render: Render) -> None:
    volumes = {"extra": {"secret": {"secretName": "s"}}}
    mounts = {"/extra": {"name": "extra", "subPath": "a", "readOnly": True}}

    documents = render({"extraVolumes": volumes, "api": {"extraVolumeMounts": mounts}})

    assert {"name": "extra", "secret": {"secretName": "s"}} in pod(documents, "api")["spec"]["volumes"]
    mount = {"mountPath": "/extra", "name": "extra", "subPath": "a", "readOnly": True}
    assert mount in main(documents, "api")["volumeMounts"]
    assert mount not in main(documents, "scheduler")["volumeMounts"]


def test_a_container_more_runs_the_charts_image_as_restricted_as_the_others(render: Render) -> None:
    documents = render({"api": {"extraContainers": {"tail": {"command": ["python3", "-V"], "env": {"A": "1"}}}}})
    own, extra = pod(documents, "api")["spec"]["containers"]

    assert (extra["name"], extra["command"]) == ("tail", ["python3", "-V"])
    assert (extra["image"], extra["securityContext"]) == (own["image"], own["securityContext"])
    assert extra["volumeMounts"] == [{"mountPath": "/tmp", "name": "tmp"}]
    assert extra["env"] == [{"name": "A", "value": "1"}]


def test_a_container_more_may_have_an_image_of_its_own(render: Render) -> None:
    image = {"repository": "team/logs", "tag": "2", "pullPolicy": "Always"}
    documents = render({"global": {"imageRegistry": "mirror"}, "extraContainers": {"logs": {"image": image}}})

    for name in ("api", "scheduler", "worker-cpu"):
        extra = pod(documents, name)["spec"]["containers"][1]
        assert (extra["image"], extra["imagePullPolicy"]) == ("mirror/team/logs:2", "Always")


def test_a_sidecar_may_start_before_the_database_is_waited_for(render: Render) -> None:
    proxy = {"restartPolicy": "Always", "image": {"repository": "team/db-proxy", "tag": "1"}}
    documents = render({"extraInitContainers": {"db-proxy": proxy}})

    first, second = pod(documents, "api")["spec"]["initContainers"]
    assert (first["name"], first["restartPolicy"], second["name"]) == ("db-proxy", "Always", "wait-schema")


def test_a_priority_class_is_handed_on(render: Render) -> None:
    assert pod(render({"api": {"priorityClassName": "high"}}), "api")["spec"]["priorityClassName"] == "high"


# The world outside


@pytest.mark.parametrize(
    ("values", "volume"),
    [
        ({"configMap": "site"}, {"configMap": {"name": "site", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}),
        ({"secret": "site"}, {"secret": {"secretName": "site", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}),
    ],
)
def test_every_container_trusts_the_certificates_that_the_site_trusts(
    render: Render, values: dict[str, Any], volume: dict[str, Any]
) -> None:
    documents = render({"trustedCA": values, "extraContainers": {"logs": {}}, "extraInitContainers": {"fetch": {}}})

    for each in every_pod(documents):
        assert {"name": "trusted-ca", **volume} in each["spec"]["volumes"]
        for container in of_pod(each):
            variables = environment(container)
            names = ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
            assert {variables[name] for name in names} == {"/etc/quantmill/ca/ca.crt"}
            mount = {"mountPath": "/etc/quantmill/ca", "name": "trusted-ca", "readOnly": True}
            assert mount in container["volumeMounts"]


def test_a_proxy_is_not_used_within_the_cluster(render: Render) -> None:
    values = {"proxy": {"httpsProxy": "http://p:3128", "noProxy": [".corp"]}, "clusterDomain": "k8s.local"}

    variables = environment(main(render(values), "worker-cpu"))

    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == "http://p:3128"
    assert variables["no_proxy"] == variables["NO_PROXY"]
    assert variables["NO_PROXY"] == ".corp,localhost,127.0.0.1,::1,.svc,.k8s.local,r-quantmill-api"
    assert "HTTP_PROXY" not in variables


def test_without_a_proxy_nothing_is_said_of_one(render: Render) -> None:
    assert not [name for name in environment(main(render(), "api")) if "PROXY" in name.upper()]


def test_offline_libraries_are_told_so(render: Render) -> None:
    variables = environment(main(render({"offline": {"enabled": True}}), "worker-cpu"))

    offline = ("DO_NOT_TRACK", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
    assert {variables[name] for name in (*offline, "TRANSFORMERS_OFFLINE")} == {"1"}


def test_a_mirror_of_the_hub_may_be_named(render: Render) -> None:
    variables = environment(main(render({"offline": {"hubEndpoint": "https://hub.corp"}}), "worker-cpu"))

    assert variables["HF_ENDPOINT"] == "https://hub.corp"


def test_volumes_take_the_class_of_the_release_unless_they_name_one(render: Render) -> None:
    values = {"global": {"storageClass": "fast"}, "workers": {"defaults": {"scratch": {"type": "pvc"}}}}
    documents = render(values)

    [claim] = of_kind(documents, "PersistentVolumeClaim")
    [scratch] = [each for each in pod(documents, "worker-cpu")["spec"]["volumes"] if each["name"] == "tmp"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert scratch["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "fast"
