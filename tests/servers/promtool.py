"""Prometheus' checker of rules, where it is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

INSTALLED = Path(__file__).parents[2] / ".cache" / "prometheus" / "usr" / "bin" / "promtool"


def promtool() -> str | None:
    """The one on the PATH, else what tests/servers/promtool.sh put into the cache."""
    return shutil.which("promtool") or (str(INSTALLED) if INSTALLED.exists() else None)
