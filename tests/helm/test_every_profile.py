"""What holds for every pod and object, whatever the values: each test runs for every file in helm/quantmill/ci."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from tests.helm.manifests import WORKLOADS, containers, environment, of_kind, of_pod, one, pods, references, template
from tests.helm.validity import validate

from quantmill.settings import Settings

Document = dict[str, Any]
Render = Callable[..., list[Document]]

KUBERNETES = ["1.27", "1.30", "1.33", "1.37"]
OURS = {"api", "scheduler", "worker", "migrate", "wait-schema"}
STORES = {"postgresql", "redis"}
GENERATED = re.compile(r"(?<=:)[A-Za-z0-9]{32}(?=@)|(?<=password: )[A-Za-z0-9]{32}")
LONG_LIVED = ("api", "scheduler", "worker")
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
CLUSTER_SCOPED = {"Namespace", "CustomResourceDefinition", "PriorityClass", "StorageClass", "PersistentVolume"}


def ours(documents: list[Document]) -> list[Document]:
    return [container for container in containers(documents) if container["name"] in OURS]


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_lint_finds_nothing(chart_path: Path, values: dict[str, Any], kubernetes: str) -> None:
    report = helm.lint(chart_path, values, strict=True, kube_version=f"v{kubernetes}.0")

    assert report["messages"] == []


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_document_is_strictly_valid(documents: list[Document], kubernetes: str) -> None:
    for document in documents:
        validate(document, kubernetes)


def test_two_renders_are_equal(chart: helm.Chart, values: dict[str, Any]) -> None:
    def render() -> dict[str, str]:
        return {path: GENERATED.sub("", text) for path, text in chart.render(values, name="r").items()}

    assert render() == render()


def test_pods_keep_to_pod_security_restricted(documents: list[Document]) -> None:
    for pod in pods(documents):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod["spec"])
        assert {key for volume in pod["spec"].get("volumes", []) for key in volume} <= {"name"} | RESTRICTED_VOLUMES


def test_containers_have_no_privilege_and_a_read_only_root(documents: list[Document]) -> None:
    for container in containers(documents):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_no_pod_carries_a_token_or_the_addresses_of_services(documents: list[Document]) -> None:
    for pod in pods(documents):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False  # QUANTMILL_PORT=tcp://... is no port


def test_everything_that_a_process_writes_to_is_a_volume(documents: list[Document]) -> None:
    for container in ours(documents):
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert {"/var/lib/quantmill", "/cache", "/tmp"} <= writable
        variables = environment(container)
        folders = [value for name, value in variables.items() if name in {"HOME", "TMPDIR"} or "CACHE" in name]
        caches = [folder for folder in folders if isinstance(folder, str) and not folder.startswith("/etc/")]
        assert caches
        assert {f"/{folder.split('/')[1]}" for folder in caches} <= writable


def test_scratch_volumes_are_limited(documents: list[Document]) -> None:
    volumes = [volume for pod in pods(documents) for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume]

    assert volumes
    assert all("sizeLimit" in volume["emptyDir"] for volume in volumes)


def test_containers_ask_for_what_they_need_and_are_limited_in_memory(documents: list[Document]) -> None:
    for container in containers(documents):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_images_are_pinned_by_tag_or_digest(documents: list[Document]) -> None:
    for container in containers(documents):
        name = container["image"].rsplit("/", 1)[1]
        assert "@sha256:" in name or ":" in name
        assert not name.endswith(":latest")


def test_every_image_comes_from_the_mirror_where_there_is_one(chart: helm.Chart, values: dict[str, Any]) -> None:
    mirror = {"imageRegistry": "reg.test:5000", "imageNamespace": "x/y"}
    texts = chart.render({**values, "global": {**values.get("global", {}), **mirror}}, name="r").values()

    images = [
        line.split()[-1].strip('"')
        for text in texts
        for line in text.splitlines()
        if line.strip("- ").startswith("image:")
    ]
    assert images
    assert [image for image in images if not image.startswith("reg.test:5000/x/y/")] == []


def test_pull_secrets_stand_in_every_pod(documents: list[Document], values: dict[str, Any]) -> None:
    expected = [{"name": name} for name in values.get("global", {}).get("imagePullSecrets", [])]

    assert all(pod["spec"].get("imagePullSecrets", []) == expected for pod in pods(documents))


def test_every_variable_is_a_setting_of_the_service(documents: list[Document]) -> None:
    settings = {f"QUANTMILL_{name.upper()}" for name in Settings.model_fields}
    config = settings_of(documents).keys()
    env = {name for container in ours(documents) for name in environment(container) if name.startswith("QUANTMILL_")}

    assert config | env <= settings


def test_no_variable_is_set_twice(documents: list[Document]) -> None:
    for container in containers(documents):
        assert repeated(entry["name"] for entry in container.get("env", [])) == []


def test_no_name_port_or_path_is_there_twice_in_a_pod(documents: list[Document]) -> None:
    for pod in pods(documents):
        assert repeated(container["name"] for container in of_pod(pod)) == []
        assert repeated(volume["name"] for volume in pod["spec"].get("volumes", [])) == []
        assert repeated(port["name"] for each in of_pod(pod) for port in each.get("ports", [])) == []
        for container in of_pod(pod):
            assert repeated(mount["mountPath"] for mount in container["volumeMounts"]) == []


def test_every_mount_has_its_volume(documents: list[Document]) -> None:
    for pod in pods(documents):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        assert {mount["name"] for container in of_pod(pod) for mount in container["volumeMounts"]} == volumes


def test_ports_have_a_name_and_a_protocol(documents: list[Document]) -> None:
    ports = [port for container in containers(documents) for port in container.get("ports", [])]
    ports += [port for service in of_kind(documents, "Service") for port in service["spec"]["ports"]]

    assert all({"name", "protocol"} <= port.keys() for port in ports)


def test_processes_that_stay_are_probed(documents: list[Document]) -> None:
    for container in containers(documents):
        if container["name"] in LONG_LIVED:
            assert {"startupProbe", "livenessProbe"} <= container.keys()


def test_the_service_reads_back_every_setting_that_a_pod_gets(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings_of(documents)
    for container in ours(documents):
        with monkeypatch.context() as process:
            literal = {name: value for name, value in environment(container).items() if isinstance(value, str)}
            for name, value in {**config, **literal}.items():
                process.setenv(name, value)
            assert str(Settings().data_dir) == "/var/lib/quantmill"


def test_urls_come_from_secrets_alone(documents: list[Document]) -> None:
    for container in ours(documents):
        urls = {name: value for name, value in environment(container).items() if name.endswith("_URL")}
        assert "QUANTMILL_DATABASE_URL" in urls
        assert all(value.keys() == {"secretKeyRef"} for value in urls.values())


def test_no_password_stands_outside_a_secret(documents: list[Document]) -> None:
    for document in documents:
        if document["kind"] != "Secret":
            assert "s3cr3t" not in str(document)


def test_every_reference_is_rendered_or_named_in_the_values(documents: list[Document], values: dict[str, Any]) -> None:
    rendered = {(document["kind"], document["metadata"]["name"]) for document in documents}
    expected_outside = {
        ("Secret", "r-quantmill-database"), ("Secret", "r-quantmill-broker"), ("ServiceAccount", "default"),
    }  # fmt: skip

    for kind, name in references(documents):
        assert (kind, name) in rendered | expected_outside or name in str(values)


def test_selectors_find_exactly_their_own_pods(documents: list[Document]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(documents)]

    for deployment in of_kind(documents, "Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        matching = [candidate for candidate in labels if selector.items() <= candidate.items()]
        assert matching == [template(deployment)["metadata"]["labels"]]


def test_the_service_finds_the_api_and_its_port(documents: list[Document]) -> None:
    service = one(documents, "Service", "r-quantmill-api")
    found = [pod for pod in pods(documents) if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]

    assert [pod["spec"]["containers"][0]["name"] for pod in found] == ["api"]
    ports = {port["name"] for port in found[0]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_nothing_that_outlives_an_upgrade_names_a_version(documents: list[Document], chart_path: Path) -> None:
    versions = yaml.safe_load((chart_path / "Chart.yaml").read_text())
    lasting = [deployment["spec"]["selector"] for deployment in of_kind(documents, "Deployment", "StatefulSet")]
    lasting += of_kind(documents, "PersistentVolumeClaim")
    lasting += [template(workload)["metadata"]["labels"] for workload in of_kind(documents, *WORKLOADS)]

    for version in (versions["version"], versions["appVersion"]):
        assert all(version not in str(part) for part in lasting)


def test_every_pod_is_selected_by_exactly_one_network_policy(documents: list[Document]) -> None:
    selectors = [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind(documents, "NetworkPolicy")]

    for pod in pods(documents):
        assert len([selector for selector in selectors if selects(selector, pod)]) == 1
    assert all(any(selects(selector, pod) for pod in pods(documents)) for selector in selectors)


def test_only_the_api_can_be_reached(documents: list[Document]) -> None:
    for policy in of_kind(documents, "NetworkPolicy"):
        component = policy["metadata"]["labels"]["app.kubernetes.io/component"]
        assert "Ingress" in policy["spec"]["policyTypes"]
        assert ("ingress" in policy["spec"]) is (component in {"api", *STORES})


def test_a_budget_never_forbids_to_move_the_only_pod(documents: list[Document]) -> None:
    autoscaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in of_kind(documents, "HorizontalPodAutoscaler")}
    for budget in of_kind(documents, "PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        [deployment] = [each for each in of_kind(documents, "Deployment") if selects(selector, template(each))]
        assert deployment["metadata"]["name"] in autoscaled or deployment["spec"]["replicas"] > 1


def test_who_is_scaled_has_no_number_of_replicas(documents: list[Document]) -> None:
    scalers = of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")
    scaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers}

    for deployment in of_kind(documents, "Deployment"):
        assert ("replicas" in deployment["spec"]) != (deployment["metadata"]["name"] in scaled)


def test_nothing_reaches_beyond_the_namespace(documents: list[Document]) -> None:
    kinds = {document["kind"] for document in documents}

    assert not {kind for kind in kinds if kind.startswith("Cluster")} | kinds & CLUSTER_SCOPED
    assert {document["metadata"].get("namespace", "ns") for document in documents} == {"ns"}


def test_every_object_says_what_it_belongs_to(render: Render, values: dict[str, Any]) -> None:
    for document in render({**values, "extraObjects": {}}):
        labels = document["metadata"]["labels"]
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance"} <= labels.keys()


def test_the_data_folder_is_one_claim_for_all_but_the_migration(documents: list[Document]) -> None:
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for deployment in of_kind(documents, "Deployment")
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "data"
    }

    assert len(claims) == 1


def selects(labels: dict[str, str], pod: Document) -> bool:
    return labels.items() <= pod["metadata"]["labels"].items()


def settings_of(documents: list[Document]) -> dict[str, str]:
    """What the ConfigMaps hold that containers take their environment from."""
    sources = [source for each in containers(documents) for source in each.get("envFrom", [])]
    named = {source["configMapRef"]["name"] for source in sources if "configMapRef" in source}
    maps = [document["data"] for document in of_kind(documents, "ConfigMap") if document["metadata"]["name"] in named]
    return {name: value for data in maps for name, value in data.items()}


def repeated(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
