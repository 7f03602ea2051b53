"""The hooks of quantmill, and with them the manual for plugin authors.

A plugin is a pip package with an entry point in the group `quantmill.plugins` that names a module (or object)
with functions marked by `hookimpl`:

    [project.entry-points."quantmill.plugins"]
    mymethod = "mymethod.plugin"

Importing that module must be cheap: no torch, no device, no network. A plugin that fails to load is reported by
`quantmill plugins` and `GET /v1/workers`, and does not take the service down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from quantmill.contract.facts import FormatFacts
from quantmill.contract.method import Method

PROJECT = "quantmill"
ENTRY_POINT_GROUP = "quantmill.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# What a plugin offers


@hookspec
def quantmill_methods() -> Iterable[Method]:  # type: ignore[empty-body]
    """Offer the compression methods this plugin knows.

    Called once in every process that lists or runs methods, at start-up. Must not import torch or touch a device:
    name the heavy parts with `lazy`. An empty answer is fine. Two plugins that offer one name stop the start-up;
    neither wins.
    """


@hookspec
def quantmill_runtimes() -> Iterable[FormatFacts]:  # type: ignore[empty-body]
    """Tell the matcher which runtimes run this plugin's formats on which hardware, each row with its source.

    Called once in every process that loads plugins, right after `quantmill_methods`; data only, as there. What a
    plugin says about a scheme, or about a format in a runtime, takes the place of what quantmill itself knows of it.
    """


# What a plugin may observe


@hookspec
def quantmill_job_event(event: Mapping[str, Any]) -> None:
    """See a job's event after it has been committed.

    Called in the scheduler, at least once for each event and in order for each job, with the event as
    `GET /v1/jobs/{id}/events` shows it. What it raises is logged and does not disturb the job or other plugins.
    """
