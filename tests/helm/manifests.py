"""Finding one's way in rendered manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Document = dict[str, Any]

WORKLOADS = {"Deployment": ("spec",), "Job": ("spec",), "StatefulSet": ("spec",), "ScaledJob": ("spec", "jobTargetRef")}


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def one(documents: Iterable[Document], kind: str, name: str) -> Document:
    [found] = [item for item in documents if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def names(documents: Iterable[Document], kind: str) -> list[str]:
    return sorted(item["metadata"]["name"] for item in documents if item["kind"] == kind)


def at(node: Any, path: str) -> Any:
    """What stands at a path such as `spec.rules.0.host`; None where nothing does."""
    for key in path.split("."):
        place = dict(enumerate(node)) if isinstance(node, list) else node or {}
        node = place.get(int(key) if isinstance(node, list) else key)
    return node


def template(workload: Document) -> Document:
    """The pod template of any kind of workload, with the claims that a StatefulSet makes for each pod."""
    for key in WORKLOADS[workload["kind"]]:
        workload = workload[key]
    pod = dict(workload["template"])
    claims = [
        {"name": claim["metadata"]["name"], "ephemeral": {}} for claim in workload.get("volumeClaimTemplates", [])
    ]
    return pod | {"spec": pod["spec"] | {"volumes": [*pod["spec"].get("volumes", []), *claims]}} if claims else pod


def pods(documents: list[Document]) -> list[Document]:
    """Pod templates, and pods that stand alone, as those of `helm test` do."""
    return [template(item) for item in of_kind(documents, *WORKLOADS)] + of_kind(documents, "Pod")


def containers(documents: list[Document]) -> list[Document]:
    """All of them: of workloads, hooks and tests, init containers too."""
    return [container for pod in pods(documents) for container in of_pod(pod)]


def of_pod(pod: Document) -> list[Document]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(container: Document) -> dict[str, Any]:
    """Each variable with its literal value, or with what stands under valueFrom."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


def references(documents: list[Document]) -> Iterator[tuple[str, str]]:
    """Kind and name of every object that pods cannot start without."""
    for pod in pods(documents):
        for volume in pod["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
            if "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"]
            if "secret" in volume:
                yield "Secret", volume["secret"]["secretName"]
        if "serviceAccountName" in pod["spec"]:
            yield "ServiceAccount", pod["spec"]["serviceAccountName"]
    for container in containers(documents):
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield kind, source[key]["name"]
        for value in environment(container).values():
            if isinstance(value, dict) and "secretKeyRef" in value:
                yield "Secret", value["secretKeyRef"]["name"]
    for authentication in of_kind(documents, "TriggerAuthentication"):
        for reference in authentication["spec"]["secretTargetRef"]:
            yield "Secret", reference["name"]
