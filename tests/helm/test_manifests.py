"""What single values do to the manifests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm.manifests import environment, of_kind, of_pod, one, template
from typer.main import get_command

from quantmill.cli.app import app

Document = dict[str, Any]
Render = Callable[..., list[Document]]

DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
COMPONENTS = ("api", "scheduler", "worker-cpu", "migrate")


def pod(documents: list[Document], component: str) -> Document:
    """The pod template of a component; the name of the migration's Job ends with what it does."""
    [found] = [
        item
        for item in of_kind(documents, "Deployment", "Job")
        if item["metadata"]["name"] == f"r-quantmill-{component}" or (component == "migrate" and item["kind"] == "Job")
    ]
    return template(found)


def container(documents: list[Document], component: str) -> Document:
    return pod(documents, component)["spec"]["containers"][0]


def env(documents: list[Document], component: str) -> dict[str, Any]:
    return environment(container(documents, component))


# What a plain installation consists of


def test_a_plain_installation_is_an_api_a_scheduler_one_pool_and_a_migration(render: Render) -> None:
    documents = render()
    [job] = of_kind(documents, "Job")

    assert sorted((item["kind"], item["metadata"]["name"]) for item in documents) == [
        ("ConfigMap", "r-quantmill"),
        ("Deployment", "r-quantmill-api"),
        ("Deployment", "r-quantmill-scheduler"),
        ("Deployment", "r-quantmill-worker-cpu"),
        ("Job", job["metadata"]["name"]),
        ("NetworkPolicy", "r-quantmill-api"),
        ("NetworkPolicy", "r-quantmill-migrate"),
        ("NetworkPolicy", "r-quantmill-scheduler"),
        ("NetworkPolicy", "r-quantmill-test"),
        ("NetworkPolicy", "r-quantmill-worker-cpu"),
        ("PersistentVolumeClaim", "r-quantmill-data"),
        ("Pod", "r-quantmill-test-compress"),
        ("Pod", "r-quantmill-test-ready"),
        ("Pod", "r-quantmill-test-workers"),
        ("PodDisruptionBudget", "r-quantmill-api"),
        ("Service", "r-quantmill-api"),
        ("ServiceAccount", "r-quantmill-api"),
        ("ServiceAccount", "r-quantmill-migrate"),
        ("ServiceAccount", "r-quantmill-scheduler"),
        ("ServiceAccount", "r-quantmill-test"),
        ("ServiceAccount", "r-quantmill-worker-cpu"),
    ]


def test_each_component_runs_its_command(render: Render) -> None:
    documents = render()
    commands = {
        component: " ".join(container(documents, component)["command"] + container(documents, component)["args"])
        for component in COMPONENTS
    }

    assert commands == {
        "api": "quantmill serve --host 0.0.0.0 --port 8642",
        "scheduler": "quantmill scheduler",
        "worker-cpu": "quantmill worker",
        "migrate": "quantmill migrate",
    }


@pytest.mark.parametrize("component", ["api", "scheduler", "worker-cpu", "migrate"])
def test_every_command_line_is_one_that_quantmill_understands(render: Render, component: str) -> None:
    name, *options = container(render(), component)["args"]
    command = get_command(app).commands[name]

    context = command.make_context(name, options)

    assert context.args == []


def test_names_follow_the_release_and_can_be_replaced(render: Render) -> None:
    one(render({"fullnameOverride": "mill"}), "Deployment", "mill-api")
    one(render({"nameOverride": "compression"}), "Deployment", "r-compression-api")


def test_names_stay_short_enough_for_labels(render: Render) -> None:
    documents = render({"fullnameOverride": "a" * 63, "workers": {"pools": {"b" * 20: {}}}})

    assert max(len(item["metadata"]["name"]) for item in documents) <= 63


# API


def test_the_api_is_live_without_its_database_and_ready_only_with_it(render: Render) -> None:
    api = container(render(), "api")

    assert api["startupProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert api["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert api["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


@pytest.mark.parametrize("component", ["scheduler", "worker-cpu"])
@pytest.mark.parametrize(("age", "code"), [(0, 0), (119, 0), (121, 1), (None, 1)])
def test_workers_and_scheduler_live_as_long_as_they_touch_their_file(
    render: Render, tmp_path: Path, component: str, age: int | None, code: int
) -> None:
    rendered = container(render(), component)
    command = rendered["livenessProbe"]["exec"]["command"]
    file = tmp_path / "heartbeat"
    if age is not None:
        file.touch()
        os.utime(file, (time.time() - age,) * 2)

    probed = subprocess.run([sys.executable, *command[1:]], env={"QUANTMILL_HEARTBEAT_FILE": str(file)}, check=False)

    assert (command[0], probed.returncode) == ("python3", code)
    assert rendered["startupProbe"]["exec"]["command"] == command
    assert {"name": "QUANTMILL_HEARTBEAT_FILE", "value": "/tmp/heartbeat"} in rendered["env"]


def test_a_stopping_api_pod_still_answers_while_load_balancers_forget_it(render: Render) -> None:
    command = container(render({"api": {"preStopSeconds": 7}}), "api")["lifecycle"]["preStop"]["exec"]["command"]

    assert command == ["python3", "-c", "import time; time.sleep(7)"]
    assert "lifecycle" not in container(render({"api": {"preStopSeconds": 0}}), "api")


# Images


IMAGES = {
    "the chart's version": ({}, "docker.io/quantmill/quantmill:0.1.0", "docker.io/quantmill/worker:0.1.0"),
    "a tag": ({"image": {"tag": "0.2.0"}}, "docker.io/quantmill/quantmill:0.2.0", "docker.io/quantmill/worker:0.2.0"),
    "a digest, which is of one image": (
        {"image": {"tag": "0.2.0", "digest": DIGEST}},
        f"docker.io/quantmill/quantmill@{DIGEST}",
        "docker.io/quantmill/worker:0.2.0",
    ),
    "digests of both": (
        {"image": {"digest": DIGEST}, "workers": {"defaults": {"image": {"digest": OTHER_DIGEST}}}},
        f"docker.io/quantmill/quantmill@{DIGEST}",
        f"docker.io/quantmill/worker@{OTHER_DIGEST}",
    ),
    "a mirror": (
        {"global": {"imageRegistry": "mirror:5000"}},
        "mirror:5000/quantmill/quantmill:0.1.0",
        "mirror:5000/quantmill/worker:0.1.0",
    ),
    "a path in a mirror": (
        {"global": {"imageRegistry": "mirror:5000", "imageNamespace": "hub/docker"}},
        "mirror:5000/hub/docker/quantmill/quantmill:0.1.0",
        "mirror:5000/hub/docker/quantmill/worker:0.1.0",
    ),
}


@pytest.mark.parametrize(("values", "service", "worker"), IMAGES.values(), ids=IMAGES.keys())
def test_every_container_gets_the_image_of_the_values(
    render: Render, values: dict[str, Any], service: str, worker: str
) -> None:
    documents = render(values)
    images = {name: {each["image"] for each in of_pod(pod(documents, name))} for name in COMPONENTS}

    assert images == {"api": {service}, "scheduler": {service}, "migrate": {service}, "worker-cpu": {worker}}


def test_pull_secrets_reach_every_pod(render: Render) -> None:
    documents = render({"global": {"imagePullSecrets": ["login"]}})

    for component in ("api", "scheduler", "worker-cpu", "migrate"):
        assert pod(documents, component)["spec"]["imagePullSecrets"] == [{"name": "login"}]


# Settings and secrets


def test_large_numbers_reach_the_service_as_digits(render: Render) -> None:
    config = {"job_timeout_seconds": 8_640_000, "runner_memory_bytes": 103_079_215_104, "lease_seconds": 25.5}

    data = one(render({"config": config}), "ConfigMap", "r-quantmill")["data"]

    assert data["QUANTMILL_JOB_TIMEOUT_SECONDS"] == "8640000"
    assert data["QUANTMILL_RUNNER_MEMORY_BYTES"] == "103079215104"
    assert data["QUANTMILL_LEASE_SECONDS"] == "25.5"


def test_existing_secrets_are_used_by_name_and_key(render: Render) -> None:
    documents = render({"database": {"external": {"existingSecret": "pg", "urlKey": "uri"}}})

    for component in ("api", "scheduler", "worker-cpu", "migrate"):
        assert env(documents, component)["QUANTMILL_DATABASE_URL"] == {"secretKeyRef": {"name": "pg", "key": "uri"}}
    assert not [item for item in documents if item["kind"] == "Secret"]


def test_a_url_in_the_values_becomes_a_secret(render: Render) -> None:
    documents = render({"broker": {"external": {"url": "redis://h/0", "urlKey": "u"}}})

    assert one(documents, "Secret", "r-quantmill-broker")["stringData"] == {"u": "redis://h/0"}
    assert env(documents, "api")["QUANTMILL_BROKER_URL"] == {"secretKeyRef": {"name": "r-quantmill-broker", "key": "u"}}


@pytest.mark.parametrize(
    "change",
    [{"config": {"lease_seconds": 90}}, {"broker": {"external": {"url": "redis://other/0"}}}],
    ids=["setting", "url"],
)
@pytest.mark.parametrize("component", ["api", "scheduler", "worker-cpu"])
def test_a_changed_setting_or_url_restarts_the_pods(render: Render, component: str, change: dict[str, Any]) -> None:
    before = pod(render(), component)["metadata"]["annotations"]
    after = pod(render(change), component)["metadata"]["annotations"]

    assert before != after


def test_an_unrelated_value_restarts_no_worker(render: Render) -> None:
    unrelated = {
        "api": {"replicas": 5},
        "artifacts": {"pvc": {"size": "1Ti"}},
        "serviceAccount": {"annotations": {"a": "b"}},
    }

    assert pod(render(), "worker-cpu") == pod(render(unrelated), "worker-cpu")


# Storage and sources


def test_the_claim_is_shared_and_survives_the_release(render: Render) -> None:
    claim = one(render(), "PersistentVolumeClaim", "r-quantmill-data")

    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_an_existing_claim_is_used_instead(render: Render) -> None:
    documents = render({"artifacts": {"pvc": {"existingClaim": "team"}}})

    assert not [item for item in documents if item["kind"] == "PersistentVolumeClaim"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "team"}} in pod(documents, "worker-cpu")["spec"][
        "volumes"
    ]


def test_sources_are_mounted_read_only_where_models_are_read(render: Render) -> None:
    documents = render({"sources": {"hub": {"claim": "models", "mountPath": "/models", "subPath": "approved"}}})
    mount = {"name": "source-hub", "mountPath": "/models", "subPath": "approved", "readOnly": True}

    assert mount in container(documents, "api")["volumeMounts"]
    assert mount in container(documents, "worker-cpu")["volumeMounts"]
    assert mount not in container(documents, "scheduler")["volumeMounts"]


@pytest.mark.parametrize(
    ("sources", "roots"),
    [
        ({}, ["/var/lib/quantmill/sources"]),
        ({"b": {"claim": "c", "mountPath": "/texts"}, "a": {"claim": "c", "mountPath": "/m"}}, ["/m", "/texts"]),
    ],
)
def test_jobs_may_read_the_sources_and_nothing_else(render: Render, sources: dict[str, Any], roots: list[str]) -> None:
    data = one(render({"sources": sources}), "ConfigMap", "r-quantmill")["data"]

    assert json.loads(data["QUANTMILL_SOURCE_ROOTS"]) == roots


# OpenShift


def test_openshift_chooses_the_group_of_volumes_itself(render: Render) -> None:
    values = {"podSecurityContext": {"fsGroup": 10001, "runAsUser": 10001, "supplementalGroups": [7]}}
    elsewhere = pod(render(values), "api")["spec"]["securityContext"]
    openshift = pod(render({**values, "global": {"openshift": True}}), "api")["spec"]["securityContext"]

    assert (elsewhere["fsGroup"], elsewhere["runAsUser"]) == (10001, 10001)
    assert openshift == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
        "supplementalGroups": [7],
    }


# What the user is told


def test_the_notes_name_the_secrets_and_the_way_to_the_api(chart: Any) -> None:
    notes = chart.render({"broker": {"external": {"existingSecret": "team-redis"}}}, name="r", namespace="ns")[
        "quantmill/templates/NOTES.txt"
    ]

    assert "r-quantmill-database (key url)" in notes
    assert "team-redis (key url)" in notes
    assert "kubectl --namespace ns port-forward service/r-quantmill-api 8642:8642" in notes


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "  cpu: 1 pods, the queue of their hardware\n"),
        ({"workers": {"pools": {"cpu": None}}}, "none: jobs wait until workers.pools has one"),
        ({"migrations": {"mode": "none"}}, "Nothing here migrates the database: run `quantmill migrate`"),
        ({"artifacts": {"pvc": {"accessModes": ["ReadWriteOnce"]}}}, "WARNING: artifacts.pvc.accessModes"),
        (
            {
                "api": {"autoscalingToken": {"existingSecret": "t"}},
                "workers": {"pools": {"gpu": {"queue": "q", "keda": {"enabled": True}, "gpu": {"enabled": True}}}},
            },
            "  gpu: 0 to 4 pods by KEDA, q, with GPUs\n",
        ),
    ],
    ids=["plain", "no workers", "no migration", "one node", "scaled"],
)
def test_the_notes_tell_what_follows_from_the_values(chart: Any, values: dict[str, Any], told: str) -> None:
    assert told in chart.render(values, name="r", namespace="ns")["quantmill/templates/NOTES.txt"]


def test_the_readme_installs_the_secrets_that_the_chart_reads(chart: Any, chart_path: Any) -> None:
    readme = (chart_path / "README.md").read_text()
    files = chart.render({}, name="quantmill", namespace="ns")
    documents = [
        item for path, text in files.items() if path.endswith(".yaml") for item in yaml.safe_load_all(text) if item
    ]
    api = one(documents, "Deployment", "quantmill-api")["spec"]["template"]["spec"]["containers"][0]

    for entry in api["env"]:
        if "valueFrom" in entry:
            assert f"create secret generic {entry['valueFrom']['secretKeyRef']['name']} " in readme
