"""Where log lines go."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(*, level: int = logging.INFO, as_json: bool = False) -> None:
    """Lines on stderr: stdout belongs to results. Child processes set up their own."""
    import structlog  # with rich and asyncio the largest import of all: most commands log nothing

    renderer = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
