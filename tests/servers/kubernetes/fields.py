"""Objects as flat maps from field path to value, and who owns which field (server-side apply).

A step of a path is a map's key, or, in a list whose entries Kubernetes tells apart by keys, those keys' values
(`("containers", ("api",), "image")`). Other lists are values, owned as a whole. What a chart applies and what a
controller sets meet here: a field that two managers want with different values is a conflict.
"""

from __future__ import annotations

from typing import Any

Path = tuple[Any, ...]
Fields = dict[Path, Any]

# the keys of "listType=map" lists; a name stands for the list wherever it occurs in the kinds that are served
LIST_KEYS = {
    "containers": ("name",), "initContainers": ("name",), "env": ("name",), "volumes": ("name",),
    "volumeMounts": ("mountPath",), "imagePullSecrets": ("name",), "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"), "conditions": ("type",),
}  # fmt: skip
PORT_KEYS = {"containerPort": ("containerPort", "protocol"), "port": ("port", "protocol")}


def list_keys(name: Any, entries: list[Any]) -> tuple[str, ...] | None:
    """The keys of the list called `name`; None for a list that is one value."""
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        return None
    if name == "ports":
        return next((keys for first, keys in PORT_KEYS.items() if all(first in entry for entry in entries)), None)
    keys = LIST_KEYS.get(name)
    return keys if keys and all(keys[0] in entry for entry in entries) else None


def key_of(entry: dict[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(entry.get(key, "TCP" if key == "protocol" else None) for key in keys)


def flatten(value: Any, path: Path = ()) -> Fields:
    """Every leaf of `value`; empty maps are leaves."""
    if isinstance(value, dict) and value:
        return {at: leaf for key, inner in value.items() for at, leaf in flatten(inner, (*path, key)).items()}
    if isinstance(value, list) and (keys := list_keys(path[-1] if path else None, value)):
        entries = ((key_of(entry, keys), entry) for entry in value)
        return {at: leaf for key, entry in entries for at, leaf in flatten(entry, (*path, key)).items()}
    return {path: value}


def unflatten(fields: Fields) -> Any:
    """The object that `flatten` was given, map keys and list entries in the order of `fields`."""
    if () in fields:
        return fields[()]
    groups: dict[Any, Fields] = {}
    for path, value in fields.items():
        groups.setdefault(path[0], {})[path[1:]] = value
    # an empty map that has got fields since is no leaf any more
    values = {
        step: unflatten({path: value for path, value in inner.items() if path or len(inner) == 1})
        for step, inner in groups.items()
    }
    return list(values.values()) if all(isinstance(step, tuple) for step in values) else values


class Owners:
    """Which manager owns which fields of one object."""

    def __init__(self) -> None:
        self.fields: dict[str, set[Path]] = {}

    def others(self, manager: str) -> dict[Path, str]:
        return {path: name for name, paths in self.fields.items() if name != manager for path in paths}

    def conflicts(self, manager: str, applied: Fields, current: Fields) -> list[tuple[Path, str]]:
        """Fields that `manager` applies with another value than their owner gave them."""
        others = self.others(manager)
        return [
            (path, others[path])
            for path, value in applied.items()
            if path in others and path in current and current[path] != value
        ]

    def apply(self, manager: str, applied: Fields, current: Fields) -> Fields:
        """`current` after `manager` applied all that it wants: what it left out goes, unless another owns it too."""
        changed = {path for path, value in applied.items() if path in current and current[path] != value}
        for name, paths in self.fields.items():
            if name != manager:
                paths -= changed
        dropped = self.fields.get(manager, set()) - applied.keys() - self.others(manager).keys()
        self.fields[manager] = set(applied)
        return {path: value for path, value in current.items() if path not in dropped} | applied

    def updated(self, manager: str, before: Fields, after: Fields) -> None:
        """`manager` wrote the object as a whole: what it changed is its own."""
        changed = {path for path, value in after.items() if path not in before or before[path] != value}
        for paths in self.fields.values():
            paths -= changed
            paths &= after.keys()
        if changed:
            self.fields.setdefault(manager, set()).update(changed)
