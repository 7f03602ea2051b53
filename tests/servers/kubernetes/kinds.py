"""What the server serves: one row for each kind. Nothing that is not named here can be created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    capability: str = ""  # what must be switched on for this kind; "" for what every cluster has

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def described(self) -> Object:
        """The entry of a discovery document."""
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        names = {"name": self.plural, "singularName": self.kind.lower(), "kind": self.kind}
        return {**names, "namespaced": self.namespaced, "verbs": verbs}


KINDS = (
    Kind("", "v1", "Namespace", "namespaces", namespaced=False),
    Kind("", "v1", "ConfigMap", "configmaps"),
    Kind("", "v1", "Secret", "secrets"),
    Kind("", "v1", "Service", "services"),
    Kind("", "v1", "ServiceAccount", "serviceaccounts"),
    Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    Kind("", "v1", "Pod", "pods"),
    Kind("", "v1", "Event", "events"),
    Kind("apiregistration.k8s.io", "v1", "APIService", "apiservices", namespaced=False),
    Kind("apps", "v1", "Deployment", "deployments"),
    Kind("apps", "v1", "ReplicaSet", "replicasets"),
    Kind("apps", "v1", "StatefulSet", "statefulsets"),
    Kind("batch", "v1", "Job", "jobs"),
    Kind("batch", "v1", "CronJob", "cronjobs"),
    Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("networking.k8s.io", "v1", "Ingress", "ingresses"),
    Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    Kind("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    Kind("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects", capability="keda"),
    Kind("keda.sh", "v1alpha1", "ScaledJob", "scaledjobs", capability="keda"),
    Kind("keda.sh", "v1alpha1", "TriggerAuthentication", "triggerauthentications", capability="keda"),
    Kind("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", capability="prometheus"),
    Kind("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors", capability="prometheus"),
    Kind("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules", capability="prometheus"),
    Kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes", capability="gateway"),
    Kind("route.openshift.io", "v1", "Route", "routes", capability="openshift"),
    Kind("security.openshift.io", "v1", "SecurityContextConstraints", "securitycontextconstraints", False, "openshift"),
    Kind("external-secrets.io", "v1", "ExternalSecret", "externalsecrets", capability="eso"),
)
CAPABILITIES = frozenset(kind.capability for kind in KINDS if kind.capability)


def pod_template(item: Object) -> Object | None:
    """The pod, or the pod template, of a workload: an object with `metadata` and `spec`."""
    spec = item.get("spec", {})
    match item["kind"]:
        case "Pod":
            return item
        case "Deployment" | "StatefulSet" | "ReplicaSet" | "Job":
            return spec["template"]  # type: ignore[no-any-return]
        case "CronJob":
            return spec["jobTemplate"]["spec"]["template"]  # type: ignore[no-any-return]
        case "ScaledJob":
            return spec["jobTargetRef"]["template"]  # type: ignore[no-any-return]
    return None


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
