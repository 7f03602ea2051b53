"""PostgreSQL and Redis inside the release: off by default, with passwords that outlast upgrades."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import helm_python as helm
import pytest
from tests.helm.releases import CHART, SECONDS, Objects, installation

Document = dict[str, Any]
Render = Callable[..., list[Document]]

BOTH: Document = {"postgresql": {"enabled": True}, "redis": {"enabled": True}}
STORES = ["postgresql", "redis"]


def named(documents: list[Document], kind: str, name: str) -> Document:
    [found] = [item for item in documents if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def server(documents: list[Document], store: str) -> Document:
    """The pod of a store."""
    return named(documents, "StatefulSet", f"r-{store}")["spec"]["template"]["spec"]


def passwords(objects: Objects) -> dict[str, str]:
    found = {name: item["data"] for (kind, name), item in objects.items() if kind == "Secret"}
    return {name: base64.b64decode(data["password"]).decode() for name, data in found.items() if "password" in data}


def test_a_plain_installation_brings_no_store(render: Render) -> None:
    assert {item["kind"] for item in render()}.isdisjoint({"StatefulSet", "Secret"})


@pytest.mark.parametrize(
    ("store", "url"),
    [("postgresql", "postgresql://quantmill:{}@r-postgresql:5432/quantmill"), ("redis", "redis://:{}@r-redis:6379/0")],
)
def test_the_url_names_service_port_and_password(render: Render, store: str, url: str) -> None:
    documents = render(BOTH)

    secret = named(documents, "Secret", f"r-{store}")["stringData"]
    assert len(secret["password"]) == 32
    assert secret["url"] == url.format(secret["password"])
    [port] = named(documents, "Service", f"r-{store}")["spec"]["ports"]
    assert f":{port['port']}/" in secret["url"]


@pytest.mark.parametrize("component", ["api", "scheduler", "worker-cpu"])
def test_pods_read_the_urls_of_the_bundled_stores(render: Render, component: str) -> None:
    [container] = named(render(BOTH), "Deployment", f"r-quantmill-{component}")["spec"]["template"]["spec"][
        "containers"
    ]

    read = {entry["name"]: entry["valueFrom"].get("secretKeyRef") for entry in container["env"] if "valueFrom" in entry}
    assert read["QUANTMILL_DATABASE_URL"] == {"name": "r-postgresql", "key": "url"}
    assert read["QUANTMILL_BROKER_URL"] == {"name": "r-redis", "key": "url"}


@pytest.mark.parametrize("store", STORES)
def test_a_secret_of_your_own_is_used_and_none_is_made(render: Render, store: str) -> None:
    documents = render({store: {"enabled": True, "auth": {"existingSecret": "team"}}})

    assert "Secret" not in {item["kind"] for item in documents}
    [container] = server(documents, store)["containers"]
    assert {"name": "team", "key": "password"} in [
        entry.get("valueFrom", {}).get("secretKeyRef") for entry in container["env"]
    ]


@pytest.mark.parametrize(
    ("store", "image"),
    [("postgresql", "mirror:5000/hub/library/postgres:17.5"), ("redis", "mirror:5000/hub/library/redis:7.2.7")],
)
def test_images_of_stores_come_from_the_mirror_with_its_login(render: Render, store: str, image: str) -> None:
    documents = render({**BOTH, "global": {"imageRegistry": "mirror:5000/hub", "imagePullSecrets": ["login"]}})

    pod = server(documents, store)
    assert [container["image"] for container in pod["containers"]] == [image]
    assert pod["imagePullSecrets"] == [{"name": "login"}]


@pytest.mark.parametrize("store", STORES)
def test_on_openshift_ids_are_left_to_the_cluster(render: Render, store: str) -> None:
    plain = server(render(BOTH), store)["securityContext"]
    openshift = server(render({**BOTH, "global": {"openshift": True}}), store)["securityContext"]

    assert plain["runAsUser"] == 999
    assert {"runAsUser", "runAsGroup", "fsGroup"}.isdisjoint(openshift)


@pytest.mark.parametrize("store", STORES)
def test_only_pods_of_the_release_reach_a_store(render: Render, store: str) -> None:
    policy = named(render(BOTH), "NetworkPolicy", f"r-{store}")["spec"]

    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == store
    [rule] = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "r"}}}]


def test_a_database_without_a_claim_lives_on_scratch_space(render: Render) -> None:
    documents = render({"postgresql": {"enabled": True, "persistence": {"enabled": False, "size": "2Gi"}}})

    assert "volumeClaimTemplates" not in named(documents, "StatefulSet", "r-postgresql")["spec"]
    assert {"name": "data", "emptyDir": {"sizeLimit": "2Gi"}} in server(documents, "postgresql")["volumes"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"postgresql": {"enabled": True}, "database": {"external": {"existingSecret": "s"}}},
            "postgresql.enabled and",
        ),
        (
            {"redis": {"enabled": True}, "broker": {"external": {"url": "redis://h/0"}}},
            "redis.enabled and broker.external",
        ),
        ({"postgresql": {"enabled": True}, "migrations": {"mode": "hook"}}, "migrations.mode hook runs before"),
    ],
)
def test_two_stores_for_one_purpose_are_refused(chart: helm.Chart, values: Document, message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        chart.render(values)


def test_notes_say_that_it_is_a_trial(chart: helm.Chart) -> None:
    [notes] = [text for path, text in chart.render(BOTH).items() if path == "quantmill/templates/NOTES.txt"]

    assert "runs PostgreSQL and Redis itself" in notes
    assert "passwords were generated" in notes


def test_generated_passwords_last_as_long_as_what_they_open() -> None:
    with installation() as release:
        first = release.install(CHART, BOTH)
        upgraded = release.upgrade({**BOTH, "config": {"lease_seconds": 77}})
        left = release.uninstall()
        again = release.install(CHART, BOTH)

    assert sorted(passwords(first)) == ["r-postgresql", "r-redis"]
    assert passwords(upgraded) == passwords(first)
    assert passwords(left) == {"r-postgresql": passwords(first)["r-postgresql"]}  # the database's claim is there still
    assert passwords(again)["r-postgresql"] == passwords(first)["r-postgresql"]
    assert passwords(again)["r-redis"] != passwords(first)["r-redis"]


def test_two_releases_in_one_namespace_do_not_meet() -> None:
    with installation() as release:
        release.install(CHART, BOTH)
        release.config.install(CHART, "other", BOTH, wait="watcher", timeout=SECONDS)

        assert len(set(passwords(release.objects()).values())) == 4
