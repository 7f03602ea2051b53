"""Finds plugins by their entry points and knows the methods they offer.

Entry points are loaded one by one: a broken plugin becomes a row in `failures`, never an exception at start-up.
Two plugins that offer one method name are the exception to that: neither may win, so start-up stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy

from quantmill.contract import hookspecs
from quantmill.contract.errors import PluginBroken, UnknownMethod
from quantmill.contract.facts import FormatFacts
from quantmill.contract.method import API_VERSION, Method


@dataclass(frozen=True)
class LoadedPlugin:
    name: str
    distribution: str
    version: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class PluginFailure:
    name: str
    reason: str


@dataclass(frozen=True)
class Plugins:
    """The plugins of this process."""

    manager: pluggy.PluginManager
    methods: Mapping[str, Method]
    loaded: tuple[LoadedPlugin, ...]
    failures: tuple[PluginFailure, ...]
    format_facts: tuple[FormatFacts, ...] = ()

    def method(self, name: str) -> Method:
        if name not in self.methods:
            known = ", ".join(sorted(self.methods)) or "none"
            raise UnknownMethod(f"no method is named {name!r}; installed: {known}", method=name)
        return self.methods[name]


def load_plugins(points: list[EntryPoint] | None = None) -> Plugins:
    """Load every plugin of the `quantmill.plugins` group, or just `points`.

    Raises PluginBroken when two plugins offer one method name.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    methods: dict[str, Method] = {}
    offered_by: dict[str, str] = {}
    loaded: list[LoadedPlugin] = []
    failures: list[PluginFailure] = []
    format_facts: list[FormatFacts] = []
    if points is None:
        points = sorted(entry_points(group=hookspecs.ENTRY_POINT_GROUP), key=lambda point: point.name)
    for point in points:
        try:
            offered, told = _register(manager, point)
        except Exception as error:  # a plugin's own code: anything may come
            failures.append(PluginFailure(point.name, f"{type(error).__name__}: {error}"))
            continue
        for method in offered:
            if method.name in methods:
                raise PluginBroken(
                    f"plugins {offered_by[method.name]!r} and {point.name!r} both offer the method {method.name!r}; "
                    "uninstall one of them",
                    method=method.name,
                )
            methods[method.name] = method
            offered_by[method.name] = point.name
        format_facts.extend(told)
        distribution = point.dist
        loaded.append(
            LoadedPlugin(
                name=point.name,
                distribution=distribution.name if distribution else "",
                version=distribution.version if distribution else "",
                methods=tuple(method.name for method in offered),
            )
        )
    return Plugins(manager, methods, tuple(loaded), tuple(failures), tuple(format_facts))


def _register(manager: pluggy.PluginManager, point: EntryPoint) -> tuple[list[Method], list[FormatFacts]]:
    """Load and register one plugin; give the methods it offers and the facts it tells."""
    plugin = point.load()
    manager.register(plugin, name=point.name)
    try:
        manager.check_pending()
        others = [other for other in manager.get_plugins() if other is not plugin]
        offers = manager.subset_hook_caller("quantmill_methods", remove_plugins=others)()
        offered = [method for offer in offers for method in offer]
        told = manager.subset_hook_caller("quantmill_runtimes", remove_plugins=others)()
        facts = [each for answer in told for each in answer]
        for method in offered:
            if method.api_version != API_VERSION:
                raise PluginBroken(
                    f"method {method.name!r} speaks api_version {method.api_version}, this quantmill {API_VERSION}"
                )
    except Exception:
        manager.unregister(plugin)
        raise
    return offered, facts
