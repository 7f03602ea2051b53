"""Repacked folders in the programs that load them: each is made of a folder that another method of ours has written."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conformance.loading import Setting, arguments, compare, explained, report, versions

from quantmill.contract.method import Method
from quantmill_repack.plugin import REPACK

HERE = Path(__file__).resolve().parent
COMPRESSED = {"format": "compressed-tensors"}


def made_of(method: Method, params: Mapping[str, Any], to: str, *, of: Setting | None = None, **said: Any) -> Setting:
    """What `method` has written, of the model or of what `of` has, in the layout `to`; `said` are the consumer's words
    of it."""
    return Setting(REPACK, {"to": to}, of=Setting(method, params, of=of), **said)


def show(
    described: str | None, title: str, packages: Sequence[str], consumer: str, settings: Sequence[Setting], **load: Any
) -> None:
    """Load them by the script `consumer` beside this file, print the section; exit with 1 where one disagrees."""
    asked = arguments(described)
    rows = list(compare(asked.python, asked.scratch, HERE / consumer, settings, **load))
    found = versions(asked.python, packages)
    print(f"## {title}, repacked folders ({found})\n\n{explained()}\n\n{report(rows)}")
    sys.exit(0 if all(row.agrees for row in rows) else 1)
