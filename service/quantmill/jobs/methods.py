"""The methods that jobs can name: those installed here, and those that only workers have."""

from __future__ import annotations

from typing import Any

from quantmill.contract.errors import NotFound, UnknownMethod
from quantmill.services import Services
from quantmill.store.methods import list_methods as published_methods


def list_methods(services: Services) -> list[dict[str, Any]]:
    """Every method's description, by name. The one installed here wins over what a worker published."""
    with services.database.read() as tx:
        found = {row["name"]: row for row in published_methods(tx)}
    found |= {name: method.describe() for name, method in services.plugins.methods.items()}
    return [found[name] for name in sorted(found)]


def get_method(services: Services, name: str) -> dict[str, Any]:
    """One method's description. Raises NotFound."""
    for description in list_methods(services):
        if description["name"] == name:
            return description
    raise NotFound(f"no method is named {name!r}; GET /v1/methods lists them", method=name)


def published_method(services: Services, name: str) -> dict[str, Any]:
    """The description of a method for a job. Raises UnknownMethod, naming those there are."""
    known = {description["name"]: description for description in list_methods(services)}
    if name not in known:
        raise UnknownMethod(f"no method is named {name!r}; there are: {', '.join(known) or 'none'}", method=name)
    return known[name]
