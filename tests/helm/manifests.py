"""Finding one's way in rendered manifests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Document = dict[str, Any]


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
