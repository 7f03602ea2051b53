"""What holds for every pod and object, whatever the values: each test runs for every file in tests/helm/values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from tests.helm.validity import validate

from quantmill.settings import Settings

Document = dict[str, Any]

KUBERNETES = ["1.27", "1.30", "1.33", "1.37"]
WORKLOADS = {"Deployment", "Job"}
# variables of the process, beside the settings of quantmill
PROCESS = {"HOME", "LOGNAME", "TMPDIR", "USER"}


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def pods(documents: list[Document]) -> list[Document]:
    """Templates of workloads, and the pods of `helm test`."""
    return [*of_kind(documents, "Pod"), *(workload["spec"]["template"] for workload in of_kind(documents, *WORKLOADS))]


def containers(documents: list[Document]) -> list[Document]:
    return [container for pod in pods(documents) for container in pod["spec"]["containers"]]


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_lint_finds_nothing(chart_path: Path, values: dict[str, Any], kubernetes: str) -> None:
    report = helm.lint(chart_path, values, strict=True, kube_version=f"v{kubernetes}.0")

    assert report["messages"] == []


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_document_is_strictly_valid(documents: list[Document], kubernetes: str) -> None:
    for document in documents:
        validate(document, kubernetes)


def test_two_renders_are_equal(chart: helm.Chart, values: dict[str, Any]) -> None:
    assert chart.render(values, name="r") == chart.render(values, name="r")


def test_pods_keep_to_pod_security_restricted(documents: list[Document]) -> None:
    for pod in pods(documents):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod["spec"])
        assert {key for volume in pod["spec"]["volumes"] for key in volume} <= {
            "name", "emptyDir", "persistentVolumeClaim",
        }  # fmt: skip


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
    for container in containers(documents):
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/var/lib/quantmill", "/cache", "/tmp"}
        assert {environment(container)[name] for name in ("HOME", "TMPDIR")} <= writable


def test_scratch_volumes_are_limited(documents: list[Document]) -> None:
    volumes = [volume for pod in pods(documents) for volume in pod["spec"]["volumes"] if "emptyDir" in volume]

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


def test_every_variable_is_a_setting_of_the_service(documents: list[Document]) -> None:
    settings = {f"QUANTMILL_{name.upper()}" for name in Settings.model_fields}
    config = settings_of(documents).keys()
    env = {name for container in containers(documents) for name in environment(container)}

    assert config <= settings
    assert env <= settings | PROCESS


def test_no_variable_is_set_twice(documents: list[Document]) -> None:
    for container in containers(documents):
        counted = Counter(entry["name"] for entry in container["env"])
        assert counted.most_common(1)[0][1] == 1


def test_the_service_reads_back_every_setting_that_a_pod_gets(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings_of(documents)
    for container in containers(documents):
        with monkeypatch.context() as process:
            literal = {name: value for name, value in environment(container).items() if isinstance(value, str)}
            for name, value in {**config, **literal}.items():
                process.setenv(name, value)
            assert str(Settings().data_dir) == "/var/lib/quantmill"


def test_urls_come_from_secrets_alone(documents: list[Document]) -> None:
    for container in containers(documents):
        urls = {name: value for name, value in environment(container).items() if name.endswith("_URL")}
        assert ("QUANTMILL_DATABASE_URL" in urls) is (container["name"] != "test")
        assert all(value.keys() == {"secretKeyRef"} for value in urls.values())


def test_no_password_stands_outside_a_secret(documents: list[Document]) -> None:
    for document in documents:
        if document["kind"] != "Secret":
            assert "s3cr3t" not in str(document)


def test_every_reference_is_rendered_or_named_in_the_values(documents: list[Document], values: dict[str, Any]) -> None:
    rendered = {(document["kind"], document["metadata"]["name"]) for document in documents}
    expected_outside = {("Secret", "r-quantmill-database"), ("Secret", "r-quantmill-broker")}

    for kind, name in references(documents):
        assert (kind, name) in rendered | expected_outside or name in str(values)


def test_selectors_find_exactly_their_own_pods(documents: list[Document]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(documents)]

    for deployment in of_kind(documents, "Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        matching = [candidate for candidate in labels if selector.items() <= candidate.items()]
        assert matching == [deployment["spec"]["template"]["metadata"]["labels"]]


def test_the_service_finds_the_api_and_its_port(documents: list[Document]) -> None:
    [service] = of_kind(documents, "Service")
    found = [pod for pod in pods(documents) if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]

    assert [pod["spec"]["containers"][0]["name"] for pod in found] == ["api"]
    ports = {port["name"] for port in found[0]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_every_pod_is_selected_by_exactly_one_network_policy(documents: list[Document]) -> None:
    selectors = [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind(documents, "NetworkPolicy")]

    for pod in pods(documents):
        assert len([selector for selector in selectors if selects(selector, pod)]) == 1
    assert all(any(selects(selector, pod) for pod in pods(documents)) for selector in selectors)


def test_only_the_api_can_be_reached(documents: list[Document]) -> None:
    for policy in of_kind(documents, "NetworkPolicy"):
        is_api = policy["metadata"]["labels"]["app.kubernetes.io/component"] == "api"
        assert "Ingress" in policy["spec"]["policyTypes"]
        assert ("ingress" in policy["spec"]) is is_api


def test_a_budget_never_forbids_to_move_the_only_pod(documents: list[Document]) -> None:
    autoscaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in of_kind(documents, "HorizontalPodAutoscaler")}
    for budget in of_kind(documents, "PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        [deployment] = [
            each for each in of_kind(documents, "Deployment") if selects(selector, each["spec"]["template"])
        ]
        assert deployment["metadata"]["name"] in autoscaled or deployment["spec"]["replicas"] > 1


def test_no_replicas_stand_beside_an_autoscaler(documents: list[Document]) -> None:
    autoscaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in of_kind(documents, "HorizontalPodAutoscaler")}

    for deployment in of_kind(documents, "Deployment"):
        assert ("replicas" in deployment["spec"]) is (deployment["metadata"]["name"] not in autoscaled)


def test_nothing_belongs_to_the_whole_cluster(documents: list[Document]) -> None:
    assert not [document["kind"] for document in documents if document["kind"].startswith("Cluster")]


def test_nothing_that_outlives_an_upgrade_names_a_version(documents: list[Document]) -> None:
    lasting = [deployment["spec"]["selector"] for deployment in of_kind(documents, "Deployment")]
    lasting += of_kind(documents, "PersistentVolumeClaim")
    lasting += [workload["spec"]["template"]["metadata"]["labels"] for workload in of_kind(documents, *WORKLOADS)]

    assert all("0.1.0" not in str(part) for part in lasting)


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
    named = {source["configMapRef"]["name"] for each in containers(documents) for source in each.get("envFrom", [])}
    maps = [document["data"] for document in of_kind(documents, "ConfigMap") if document["metadata"]["name"] in named]
    return {name: value for data in maps for name, value in data.items()}


def environment(container: Document) -> dict[str, Any]:
    """Each variable with its literal value, or with what stands under valueFrom."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def references(documents: list[Document]) -> Iterator[tuple[str, str]]:
    for pod in pods(documents):
        for volume in pod["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "serviceAccountName" in pod["spec"]:
            yield "ServiceAccount", pod["spec"]["serviceAccountName"]
    for container in containers(documents):
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
        for value in environment(container).values():
            if isinstance(value, dict) and "secretKeyRef" in value:
                yield "Secret", value["secretKeyRef"]["name"]
