"""The objects of a cluster, in memory: created, applied, watched and deleted as the Kubernetes API has it."""

from __future__ import annotations

import base64
import copy
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from servers.kubernetes import controllers
from servers.kubernetes.admission import admit, unchanged
from servers.kubernetes.fields import Owners, flatten, unflatten
from servers.kubernetes.kinds import CAPABILITIES, KINDS, Kind, Object
from servers.kubernetes.refusal import AlreadyExists, Conflict, Invalid, NotFound

Key = tuple[Kind, str, str]  # kind, namespace ("" for what has none), name

CONTROLLER = "kube-controller-manager"
# what the server writes itself, and an applied configuration must not own
SERVER_FIELDS = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink")


@dataclass(frozen=True)
class Event:
    version: int
    change: str  # ADDED | MODIFIED | DELETED
    kind: Kind
    item: Object


class Cluster:
    """Version `kubernetes` with the kinds of `capabilities`, one namespace `ns` beside `default`."""

    def __init__(self, kubernetes: str = "1.33", capabilities: frozenset[str] = frozenset()) -> None:
        if unknown := capabilities - CAPABILITIES:
            raise ValueError(f"no such capability: {', '.join(sorted(unknown))}; there are {sorted(CAPABILITIES)}")
        self.kubernetes = kubernetes
        self.kinds = [kind for kind in KINDS if not kind.capability or kind.capability in capabilities]
        self.behaviour = controllers.Behaviour()
        self.version = 0
        self._objects: dict[Key, Object] = {}
        self._owners: dict[Key, Owners] = {}
        self._events: list[Event] = []
        self._changed = threading.Condition(threading.RLock())
        for name in ("default", "ns"):
            self.create(self.kind("Namespace"), "", {"metadata": {"name": name}}, CONTROLLER)

    # What tests ask for

    def kind(self, name: str) -> Kind:
        return next(kind for kind in self.kinds if kind.kind == name)

    def items(self, *kinds: str, namespace: str = "ns") -> list[Object]:
        """Objects of these kinds in `namespace`, or of all; not what the cluster itself made."""
        with self._changed:
            found = [
                item
                for (kind, place, _), item in self._objects.items()
                if place == namespace and (kind.kind in kinds or not kinds)
            ]
        return copy.deepcopy([item for item in found if not _made_by_the_cluster(item)])

    def behave(self, behaviour: controllers.Behaviour) -> None:
        """What fails or hangs from now on; everything that has not ended is looked at again."""
        with self._changed:
            self.behaviour = behaviour
            self._settle()

    def scale(self, kind: str, name: str, replicas: int) -> None:
        """Set `spec.replicas` as an autoscaler does: it then owns the field."""
        item = self.get(self.kind(kind), "ns", name)
        item["spec"]["replicas"] = replicas
        self.replace(self.kind(kind), "ns", item, CONTROLLER)

    # The verbs of the API

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        with self._changed:
            return copy.deepcopy(self._objects[self._present((kind, namespace, name))])

    def list(self, kind: Kind, namespace: str) -> tuple[list[Object], int]:
        """All objects of `kind` in `namespace`, or in every one when it is empty, and the version of the whole."""
        with self._changed:
            keys = [key for key in self._objects if key[0] == kind and namespace in ("", key[1])]
            return copy.deepcopy([self._objects[key] for key in keys]), self.version

    def watch(self, kind: Kind, namespace: str, since: int, closed: Callable[[], bool]) -> Iterator[Event | None]:
        """Changes after version `since` until `closed`; None whenever there are no more for now."""
        seen = 0
        while not closed():
            with self._changed:
                if len(self._events) == seen:
                    self._changed.wait(0.5)  # `closed` is looked at again
                news = self._events[seen:]
                seen = len(self._events)
            yield from (
                event
                for event in news
                if event.version > since
                and event.kind == kind
                and namespace in ("", event.item["metadata"].get("namespace"))
            )
            yield None

    def create(self, kind: Kind, namespace: str, item: Object, manager: str, *, dry_run: bool = False) -> Object:
        with self._changed:
            item = self._complete(kind, namespace, item)
            key = (kind, namespace, item["metadata"]["name"])
            if key in self._objects:
                raise AlreadyExists(f'{kind.plural} "{key[2]}" already exists')
            admit(kind, item, self.kubernetes)
            if dry_run:
                return item
            self._owners[key] = Owners()
            self._owners[key].updated(manager, {}, flatten(_intent(item)))
            return self._store(key, "ADDED", item)

    def replace(self, kind: Kind, namespace: str, item: Object, manager: str, *, dry_run: bool = False) -> Object:
        with self._changed:
            item = self._complete(kind, namespace, item)
            key = self._present((kind, namespace, item["metadata"]["name"]))
            before = self._objects[key]
            sent = item["metadata"].get("resourceVersion")
            if sent not in (None, before["metadata"]["resourceVersion"]):
                raise Conflict(
                    f'{kind.plural} "{key[2]}": the object has been modified; apply your changes to the latest'
                )
            admit(kind, _intent(item), self.kubernetes)
            if not dry_run:
                self._owners[key].updated(manager, flatten(_intent(before)), flatten(_intent(item)))
            return self._change(key, item, dry_run)

    def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, manager: str, *, dry_run: bool = False
    ) -> Object:
        """A JSON merge patch (RFC 7396)."""
        with self._changed:
            merged = _merged(self.get(kind, namespace, name), patch)
            return self.replace(kind, namespace, merged, manager, dry_run=dry_run)

    def apply(
        self, kind: Kind, namespace: str, item: Object, manager: str, *, force: bool = False, dry_run: bool = False
    ) -> Object:
        """Server-side apply: `item` is all that `manager` wants of the object, which is made when it is not there."""
        with self._changed:
            item = self._complete(kind, namespace, item)
            key = (kind, namespace, item["metadata"]["name"])
            admit(kind, item, self.kubernetes)
            before = self._objects.get(key)
            owners = (
                self._owners.setdefault(key, Owners())
                if not dry_run
                else copy.deepcopy(self._owners.get(key, Owners()))
            )
            current, applied = flatten(_intent(before or {})), flatten(_intent(item))
            conflicts = owners.conflicts(manager, applied, current)
            if conflicts and not force:
                raise Conflict("; ".join(f'conflict with "{name}": {_shown(path)}' for path, name in conflicts))
            result = self._complete(kind, namespace, unflatten(owners.apply(manager, applied, current)))
            admit(kind, result, self.kubernetes)
            if before is None:
                return result if dry_run else self._store(key, "ADDED", result)
            return self._change(key, result, dry_run)

    def delete(self, kind: Kind, namespace: str, name: str) -> Object:
        with self._changed:
            key = self._present((kind, namespace, name))
            del self._owners[key]
            return self._store(key, "DELETED", self._objects.pop(key))

    # Inside

    def _present(self, key: Key) -> Key:
        if key not in self._objects:
            raise NotFound(f'{key[0].plural} "{key[2]}" not found')
        return key

    def _complete(self, kind: Kind, namespace: str, item: Object) -> Object:
        """A copy of `item` as this kind in this namespace, with what the cluster fills in."""
        item = {"apiVersion": kind.api_version, "kind": kind.kind, **copy.deepcopy(item)}
        if (item["apiVersion"], item["kind"]) != (kind.api_version, kind.kind):
            raise Invalid(f"{item['apiVersion']} {item['kind']} was sent to {kind.api_version} {kind.kind}")
        if kind.namespaced:
            self._present((self.kind("Namespace"), "", namespace))
            if item["metadata"].setdefault("namespace", namespace) != namespace:
                raise Invalid(
                    f"{kind.kind} names the namespace {item['metadata']['namespace']}, but was sent to {namespace}"
                )
        for name, value in item.pop("stringData", {}).items():
            item.setdefault("data", {})[name] = base64.b64encode(value.encode()).decode()
        controllers.defaults(item)
        return item

    def _change(self, key: Key, item: Object, dry_run: bool) -> Object:
        """Store `item` instead of what was there, unless they are equal."""
        before = self._objects[key]
        unchanged(key[0].kind, before, item)
        kept = {name: before["metadata"][name] for name in SERVER_FIELDS if name in before["metadata"]}
        item["metadata"] |= kept
        if "status" in before:
            item["status"] = before["status"]
        if dry_run or item == before:
            return copy.deepcopy(item)
        if item.get("spec") != before.get("spec"):
            item["metadata"]["generation"] += 1
        return self._store(key, "MODIFIED", item)

    def _store(self, key: Key, change: str, item: Object) -> Object:
        self._record(key, change, item)
        if change == "ADDED" and key[0].kind == "Namespace":
            account = {"metadata": {"name": "default"}}
            self.create(self.kind("ServiceAccount"), key[2], account, CONTROLLER)
        self._settle()
        return copy.deepcopy(self._objects.get(key, item))

    def _record(self, key: Key, change: str, item: Object) -> None:
        self.version += 1
        metadata = item["metadata"]
        metadata["resourceVersion"] = str(self.version)
        metadata.setdefault("uid", str(uuid.UUID(int=self.version)))
        metadata.setdefault("creationTimestamp", controllers.EPOCH)
        metadata.setdefault("generation", 1)
        if change != "DELETED":
            self._objects[key] = item
        self._events.append(Event(self.version, change, key[0], copy.deepcopy(item)))
        self._changed.notify_all()

    def _settle(self) -> None:
        """Let the controllers report until nothing changes."""
        for key, item in list(self._objects.items()):
            if _has_ended(item):
                continue
            status = controllers.status_of(item, self._exists, self.behaviour)
            if status is not None and status != item.get("status"):
                self._record(key, "MODIFIED", {**item, "metadata": dict(item["metadata"]), "status": status})

    def _exists(self, kind: str, namespace: str, name: str) -> bool:
        return (self.kind(kind), namespace, name) in self._objects


def _made_by_the_cluster(item: Object) -> bool:
    return item["kind"] == "ServiceAccount" and item["metadata"]["name"] == "default"


def _has_ended(item: Object) -> bool:
    status = item.get("status", {})
    ended = {condition["type"] for condition in status.get("conditions", [])} & {"Complete", "Failed"}
    return bool(ended) or status.get("phase") in ("Succeeded", "Failed")


def _intent(item: Object) -> Object:
    """`item` without what the server and the controllers write."""
    metadata = {name: value for name, value in item.get("metadata", {}).items() if name not in SERVER_FIELDS}
    return {name: value for name, value in item.items() if name != "status"} | {"metadata": metadata}


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _shown(path: tuple[Any, ...]) -> str:
    return "".join(f".{step}" if isinstance(step, str) else f"[{','.join(map(str, step))}]" for step in path)
