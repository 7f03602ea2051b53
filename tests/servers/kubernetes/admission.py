"""What a cluster refuses before it stores an object: schema, names, duplicates, Pod Security, fixed fields."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from servers.kubernetes.kinds import Kind, Object, containers, pod_template
from servers.kubernetes.refusal import Forbidden, Invalid
from servers.kubernetes.schemas import validator

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
# Deployment, Job ... give their pods' names to labels, which hold 63 characters
NAMES_PODS = {"Deployment": 52, "StatefulSet": 52, "Job": 63, "CronJob": 52}
RESTRICTED_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SECCOMP = ("RuntimeDefault", "Localhost")


def admit(kind: Kind, item: Object, kubernetes: str) -> None:
    """Refuse `item` as the API server of that version would, with a message that names the field."""
    _named(kind, item)
    if not kind.capability:
        _strict(item, kubernetes)
    pod = pod_template(item)
    if pod is not None:
        _pod(item, pod)


def unchanged(kind: str, before: Object, after: Object) -> None:
    """Refuse a change of what cannot be changed in this kind."""
    for path in IMMUTABLE.get(kind, ()):
        if _at(before, path) != _at(after, path):
            raise Invalid(f"{kind} {after['metadata']['name']!r} is invalid: {path}: field is immutable")
    if kind == "StatefulSet" and _fixed_part(before) != _fixed_part(after):
        allowed = ", ".join(sorted(STATEFULSET_MAY_CHANGE))
        raise Invalid(f"StatefulSet is invalid: spec: updates to fields other than {allowed} are forbidden")
    if kind in ("Secret", "ConfigMap") and before.get("immutable") and before.get("data") != after.get("data"):
        raise Invalid(f"{kind} is invalid: data: field is immutable when `immutable` is set")


IMMUTABLE = {
    "Deployment": ("spec.selector",),
    "ReplicaSet": ("spec.selector",),
    "Job": ("spec.selector", "spec.template", "spec.completions", "spec.completionMode"),
    "Pod": ("spec",),
    "Secret": ("type",),
    "PersistentVolumeClaim": ("spec.accessModes", "spec.storageClassName", "spec.volumeName", "spec.selector"),
    "RoleBinding": ("roleRef",),
}
STATEFULSET_MAY_CHANGE = frozenset(
    {"minReadySeconds", "ordinals", "persistentVolumeClaimRetentionPolicy", "replicas", "template", "updateStrategy"}
)


def _fixed_part(item: Object) -> Object:
    return {name: value for name, value in item["spec"].items() if name not in STATEFULSET_MAY_CHANGE}


def _at(item: Object, path: str) -> Any:
    value: Any = item
    for step in path.split("."):
        value = (value or {}).get(step)
    return value


def _strict(item: Object, kubernetes: str) -> None:
    for error in validator(item["apiVersion"], item["kind"], kubernetes).iter_errors(item):
        at = ".".join(str(step) for step in error.path)
        raise Invalid(f"{item['kind']} {item['metadata']['name']!r} is invalid: {at}: {error.message}")


def _named(kind: Kind, item: Object) -> None:
    name = item["metadata"]["name"]
    pattern = SERVICE_NAME if kind.kind == "Service" else NAME
    if not pattern.fullmatch(name) or len(name) > NAMES_PODS.get(kind.kind, 253):
        raise Invalid(f"{kind.kind} {name!r} is invalid: metadata.name")
    for label, value in item["metadata"].get("labels", {}).items():
        if not LABEL_VALUE.fullmatch(value):
            raise Invalid(f"{kind.kind} {name!r} is invalid: metadata.labels: {label}: {value!r}")


def _pod(item: Object, pod: Object) -> None:
    where = f"{item['kind']} {item['metadata']['name']!r}"
    selector = item.get("spec", {}).get("selector", {}).get("matchLabels", {})
    if not selector.items() <= pod.get("metadata", {}).get("labels", {}).items():
        raise Invalid(f"{where} is invalid: spec.selector does not match the template's labels")
    claimed = {claim["metadata"]["name"] for claim in item.get("spec", {}).get("volumeClaimTemplates", [])}
    for problem in (*_duplicates(pod), *_dangling_mounts(pod, claimed)):
        raise Invalid(f"{where} is invalid: {problem}")
    violations = list(violations_of_restricted(pod))
    if violations:
        raise Forbidden(f'{where} violates PodSecurity "restricted:latest": {"; ".join(violations)}')


def _duplicates(pod: Object) -> Iterator[str]:
    spec = pod["spec"]
    yield from _repeated("container", (container["name"] for container in containers(pod)))
    yield from _repeated("volume", (volume["name"] for volume in spec.get("volumes", [])))
    for container in containers(pod):
        inside = f"in container {container['name']}"
        yield from _repeated(f"env {inside}", (entry["name"] for entry in container.get("env", [])))
        yield from _repeated(f"mountPath {inside}", (mount["mountPath"] for mount in container.get("volumeMounts", [])))
        ports = container.get("ports", [])
        numbers = ((port["containerPort"], port.get("protocol", "TCP")) for port in ports)
        yield from _repeated(f"containerPort {inside}", numbers)
        yield from _repeated(f"port name {inside}", (port["name"] for port in ports if "name" in port))


def _repeated(what: str, values: Iterable[Any]) -> Iterator[str]:
    return (f"duplicate {what}: {value}" for value, count in Counter(values).items() if count > 1)


def _dangling_mounts(pod: Object, claimed: set[str]) -> Iterator[str]:
    volumes = claimed | {volume["name"] for volume in pod["spec"].get("volumes", [])}
    for container in containers(pod):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"volumeMounts of {container['name']}: no volume is called {mount['name']}"


# Pod Security "restricted" (kubernetes.io/docs/concepts/security/pod-security-standards). What a rule's name says is
# a violation, and the function says whether it is absent: in a pod's spec, or in the pod's and a container's
# securityContext.

ContainerRule = Callable[[Object, Object], bool]

POD_RULES: dict[str, Callable[[Object], bool]] = {
    "host namespaces": lambda spec: not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
    "volume types": lambda spec: all(
        set(volume) - {"name"} <= RESTRICTED_VOLUMES for volume in spec.get("volumes", [])
    ),
    "runAsUser=0": lambda spec: _context(spec).get("runAsUser") != 0,
    "seccompProfile": lambda spec: _seccomp(_context(spec)) in (None, *SECCOMP),
    "sysctls": lambda spec: not _context(spec).get("sysctls"),
    "seLinuxOptions": lambda spec: not {"user", "role"} & _context(spec).get("seLinuxOptions", {}).keys(),
}  # fmt: skip
CONTAINER_RULES: dict[str, ContainerRule] = {
    "privileged": lambda pod, own: not own.get("privileged"),
    "allowPrivilegeEscalation != false": lambda pod, own: own.get("allowPrivilegeEscalation") is False,
    "unrestricted capabilities": lambda pod, own: (
        "ALL" in own.get("capabilities", {}).get("drop", [])
        and set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"}
    ),
    "runAsNonRoot != true": lambda pod, own: own.get("runAsNonRoot", pod.get("runAsNonRoot")) is True,
    "runAsUser=0": lambda pod, own: own.get("runAsUser") != 0,
    "seccompProfile": lambda pod, own: (_seccomp(own) or _seccomp(pod)) in SECCOMP,
    "procMount": lambda pod, own: own.get("procMount", "Default") == "Default",
    "hostProcess": lambda pod, own: not own.get("windowsOptions", {}).get("hostProcess"),
}  # fmt: skip


def violations_of_restricted(pod: Object) -> Iterator[str]:
    spec = pod["spec"]
    yield from (f"{rule} (pod)" for rule, keeps in POD_RULES.items() if not keeps(spec))
    for container in containers(pod):
        own = _context(container)
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"hostPort (container {container['name']})"
        for rule, kept in CONTAINER_RULES.items():
            if not kept(_context(spec), own):
                yield f"{rule} (container {container['name']})"


def _context(of: Object) -> Object:
    return of.get("securityContext") or {}


def _seccomp(context: Object) -> str | None:
    return (context.get("seccompProfile") or {}).get("type")
