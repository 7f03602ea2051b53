"""What becomes of stored objects: the controllers and kubelets of a cluster, reduced to what they report.

A pod runs when everything that it names exists. A Job succeeds and a Deployment is ready at once, unless `Behaviour`
says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from servers.kubernetes.kinds import Object, containers, pod_template

Exists = Callable[[str, str, str], bool]  # kind, namespace, name


def no_workload(item: Object) -> bool:
    return False


@dataclass(frozen=True)
class Behaviour:
    """Which workloads do not do what they should."""

    fails: Callable[[Object], bool] = no_workload  # its pods end with an error
    hangs: Callable[[Object], bool] = no_workload  # its pods never become ready, or never end


def status_of(item: Object, exists: Exists, behaviour: Behaviour) -> Object | None:
    """The status that `item` has as things stand; None for kinds without one."""
    reporter = REPORTERS.get(item["kind"])
    return reporter(item, _running(item, exists, behaviour), behaviour) if reporter else None


def missing(item: Object, exists: Exists) -> list[str]:
    """What the pods of `item` name and the namespace does not have."""
    pod = pod_template(item)
    namespace = item["metadata"]["namespace"]
    named = set(references(pod)) if pod else set()
    claims = {claim["metadata"]["name"] for claim in item.get("spec", {}).get("volumeClaimTemplates", [])}
    return sorted(
        f"{kind}/{name}"
        for kind, name in named
        if not exists(kind, namespace, name) and not (kind == "PersistentVolumeClaim" and name in claims)
    )


def references(pod: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of every object that must be there before a pod's containers can be made."""
    spec = pod["spec"]
    yield "ServiceAccount", spec.get("serviceAccountName", "default")
    for volume in spec.get("volumes", []):
        yield from _volume_references(volume)
    for container in containers(pod):
        sources = [*container.get("envFrom", []), *(entry.get("valueFrom", {}) for entry in container.get("env", []))]
        for source in sources:
            for key, kind in SOURCES.items():
                if key in source and not source[key].get("optional"):
                    yield kind, source[key]["name"]


SOURCES = {
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "configMap": "ConfigMap",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
    "secret": "Secret",
}


def _volume_references(volume: Object) -> Iterator[tuple[str, str]]:
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for source in (volume, *volume.get("projected", {}).get("sources", [])):
        for key in ("configMap", "secret"):
            if key in source and not source[key].get("optional"):
                yield SOURCES[key], source[key].get("name") or source[key]["secretName"]


def _running(item: Object, exists: Exists, behaviour: Behaviour) -> bool:
    return not missing(item, exists) and not behaviour.hangs(item)


def _replicated(item: Object, running: bool, behaviour: Behaviour) -> Object:
    wanted = item["spec"].get("replicas", 1)
    ready = wanted if running and not behaviour.fails(item) else 0
    counts = {"replicas": wanted, "updatedReplicas": wanted, "readyReplicas": ready, "availableReplicas": ready}
    observed = {"observedGeneration": item["metadata"]["generation"], **counts}
    if item["kind"] == "StatefulSet":
        revision = f"{item['metadata']['name']}-{item['metadata']['generation']}"
        return {**observed, "currentReplicas": wanted, "currentRevision": revision, "updateRevision": revision}
    conditions = [_condition("Available", ready == wanted), _condition("Progressing", True, "NewReplicaSetAvailable")]
    return {**observed, "conditions": conditions}


def _job(item: Object, running: bool, behaviour: Behaviour) -> Object:
    if not running:
        return {"active": 1, "startTime": EPOCH}
    if behaviour.fails(item):
        failure = _condition("Failed", True, "BackoffLimitExceeded")
        return {"failed": 1, "startTime": EPOCH, "conditions": [failure]}
    done = [_condition("SuccessCriteriaMet", True), _condition("Complete", True)]
    return {"succeeded": 1, "startTime": EPOCH, "completionTime": EPOCH, "conditions": done}


def _pod(item: Object, running: bool, behaviour: Behaviour) -> Object:
    if not running:
        return {"phase": "Pending"}
    failed = behaviour.fails(item)
    states = [
        {"name": container["name"], "ready": False, "restartCount": 0, "image": container["image"], "imageID": "",
         "state": {"terminated": {"exitCode": int(failed), "startedAt": EPOCH, "finishedAt": EPOCH}}}
        for container in item["spec"]["containers"]
    ]  # fmt: skip
    return {"phase": "Failed" if failed else "Succeeded", "startTime": EPOCH, "containerStatuses": states}


def _condition(kind: str, true: bool, reason: str = "Reported") -> Object:
    return {"type": kind, "status": str(true), "reason": reason, "lastTransitionTime": EPOCH}


# no clock: equal states are equal objects
EPOCH = "2026-01-01T00:00:00Z"

Reporter = Callable[[Object, bool, Behaviour], Object]
_bound: Object = {"phase": "Bound"}
_allowed: Object = {"disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
REPORTERS: dict[str, Reporter] = {
    "Deployment": _replicated,
    "StatefulSet": _replicated,
    "ReplicaSet": _replicated,
    "Job": _job,
    "Pod": _pod,
    "PersistentVolumeClaim": lambda item, *_: _bound | {"capacity": item["spec"]["resources"]["requests"]},
    "PodDisruptionBudget": lambda item, *_: _allowed | {"observedGeneration": item["metadata"]["generation"]},
    "Service": lambda item, *_: {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
}


def defaults(item: Object) -> Any:
    """Fields that the cluster itself fills in, where they are left open."""
    match item["kind"]:
        case "Service":
            spec = item.setdefault("spec", {})
            spec.setdefault("type", "ClusterIP")
            spec.setdefault("clusterIP", "10.96.0.1")
        case "Secret":
            item.setdefault("type", "Opaque")
        case "PersistentVolumeClaim":
            item["spec"].setdefault("storageClassName", "standard")
