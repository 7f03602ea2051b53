"""Parts of pods that the chart hands on as they are, by Kubernetes' own schema."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from helm.model.shapes import defined

VERSION = (
    "1.37"  # the newest that kubernetes_validate has; a key that an older cluster lacks is refused by that cluster
)
CORE = "io.k8s.api.core.v1"
NETWORKING = "io.k8s.api.networking.v1"

Affinity = Annotated[dict[str, Any], defined(f"{CORE}.Affinity")]
ConfigMapSource = Annotated[dict[str, Any], defined(f"{CORE}.ConfigMapVolumeSource")]
ContainerPort = Annotated[dict[str, Any], defined(f"{CORE}.ContainerPort")]
CsiSource = Annotated[dict[str, Any], defined(f"{CORE}.CSIVolumeSource")]
DownwardApiSource = Annotated[dict[str, Any], defined(f"{CORE}.DownwardAPIVolumeSource")]
EmptyDirSource = Annotated[dict[str, Any], defined(f"{CORE}.EmptyDirVolumeSource")]
EnvFrom = Annotated[dict[str, Any], defined(f"{CORE}.EnvVarSource")]
EnvFromSource = Annotated[dict[str, Any], defined(f"{CORE}.EnvFromSource")]
EphemeralSource = Annotated[dict[str, Any], defined(f"{CORE}.EphemeralVolumeSource")]
Lifecycle = Annotated[dict[str, Any], defined(f"{CORE}.Lifecycle")]
PersistentVolumeClaimSource = Annotated[dict[str, Any], defined(f"{CORE}.PersistentVolumeClaimVolumeSource")]
PodResourceClaim = Annotated[dict[str, Any], defined(f"{CORE}.PodResourceClaim")]
Probe = Annotated[dict[str, Any], defined(f"{CORE}.Probe")]
ProjectedSource = Annotated[dict[str, Any], defined(f"{CORE}.ProjectedVolumeSource")]
ResourceClaim = Annotated[dict[str, Any], defined(f"{CORE}.ResourceClaim")]
SecretSource = Annotated[dict[str, Any], defined(f"{CORE}.SecretVolumeSource")]
Toleration = Annotated[dict[str, Any], defined(f"{CORE}.Toleration")]
TopologySpreadConstraint = Annotated[dict[str, Any], defined(f"{CORE}.TopologySpreadConstraint")]
NetworkPolicyPeer = Annotated[dict[str, Any], defined(f"{NETWORKING}.NetworkPolicyPeer")]
NetworkPolicyEgressRule = Annotated[dict[str, Any], defined(f"{NETWORKING}.NetworkPolicyEgressRule")]
ScalingBehavior = Annotated[dict[str, Any], defined("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior")]


def definitions(schema: Any) -> dict[str, Any]:
    """Every definition of Kubernetes' that `schema` refers to, and those that these refer to, by name."""
    found: dict[str, Any] = {}
    waiting = _referred(schema)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _without_prose(_all()[name])
            waiting |= _referred(found[name])
    return dict(sorted(found.items()))


@cache
def _all() -> dict[str, Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"
    return dict(json.loads((folder / "_definitions.json").read_text())["$defs"])


def _referred(node: Any) -> set[str]:
    if isinstance(node, list):
        return {name for item in node for name in _referred(item)}
    if not isinstance(node, dict):
        return set()
    own = str(node.get("$ref", "")).rpartition("/")[2]
    return {own} & _all().keys() | {name for item in node.values() for name in _referred(item)}


def _without_prose(node: Any) -> Any:
    """References lead to `definitions`, and null is no value: Helm takes it as the wish to have none."""
    if isinstance(node, list):
        return [_without_prose(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_prose(item) for key, item in node.items() if not _is_prose(key, item)}
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = kept["$ref"].replace("#/$defs/", "#/definitions/")
    if isinstance(kept.get("type"), list):
        [kept["type"]] = [each for each in kept["type"] if each != "null"]
    if kept.get("type") == "object" and not {"properties", "additionalProperties"} & kept.keys():
        kept["additionalProperties"] = False  # who manages which field is not for users to say
    return kept


def _is_prose(key: str, item: Any) -> bool:
    return (key in {"description", "format"} and isinstance(item, str)) or key.startswith("x-kubernetes-")
