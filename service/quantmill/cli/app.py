"""The commands. Each room imports its heavy parts when a command runs, so that `quantmill --help` answers at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from quantmill.cli import comparing, local, machine, matching, remote, serving, texts

app = typer.Typer(
    name="quantmill",
    help="Compresses models, proves the result, and remembers how it was made.",
    epilog="Exit codes: 0 done, 1 failed, 2 canceled, 3 usage, 4 infrastructure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PANELS: dict[str, list[Callable[..., Any]]] = {
    "On this machine": [local.quantize, local.plan, local.verify, local.evaluate, comparing.compare, texts.texts],
    "What runs where": [matching.match, matching.devices],
    "With a service": [
        remote.submit,
        remote.jobs,
        remote.job,
        remote.wait,
        remote.events,
        remote.cancel,
        remote.retry,
        remote.replay,
        remote.artifacts,
        remote.lineage,
        remote.download,
    ],
    "Run a service": [serving.serve, serving.worker, serving.scheduler, serving.migrate],
    "This installation": [machine.methods, machine.plugins, machine.doctor],
}

for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
