"""A file whose age tells a probe whether the process still works; neither broker nor database is asked."""

from __future__ import annotations

from quantmill.settings import Settings


def touch_heartbeat(settings: Settings) -> None:
    """Make the file that the settings name, if any, as young as it can be."""
    if settings.heartbeat_file is not None:
        settings.heartbeat_file.touch()
