#!/usr/bin/env python3
"""Hands our artifacts to the programs that users load them with, and writes what came of it to docs/conformance.md.

Each folder beside this file is a consumer: `requirements.txt` says what its environment holds (their pins conflict, so
each has one of its own, kept in $QUANTMILL_CACHE/conformance or .cache/conformance), and `check.py`, run by our own
Python, prints a section of the report and exits with 1 when something disagrees. A consumer that cannot be installed
is reported with the reason.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from kernels.bench.environments import NotInstalled, environment

import quantmill_kernels
from quantmill.worker.environment import cpu_model

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
REPORT = REPOSITORY / "docs" / "conformance.md"


def section(consumer: Path) -> tuple[str, bool]:
    """The consumer's part of the report, and whether everything agreed."""
    try:
        python = environment("conformance", consumer.name, consumer / "requirements.txt")
    except NotInstalled as error:
        return f"## {consumer.name}\n\nNot run: its environment could not be made ({error}).\n", True
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        command = [sys.executable, consumer / "check.py", "--python", python, "--scratch", scratch]
        checked = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return checked.stdout, checked.returncode == 0


def heading() -> str:
    described = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return (
        "# Conformance\n\n"
        "Artifacts of `tests/data/millstone-4m`, loaded by the programs that users load them with. Written by "
        "`make conformance`.\n\n"
        f"- commit {described.stdout.strip() or 'unknown'}; quantmill {version('quantmill')}, "
        f"kernels on {quantmill_kernels.isa()}\n"
        f"- {cpu_model()}, {len(os.sched_getaffinity(0))} CPUs; {platform.system()}, "
        f"Python {platform.python_version()}\n"
    )


def main() -> None:
    consumers = sorted(path.parent for path in HERE.glob("*/requirements.txt"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"consumers, by default all: {', '.join(c.name for c in consumers)}")
    wanted = parser.parse_args().names
    parts = [section(consumer) for consumer in consumers if not wanted or consumer.name in wanted]
    report = "\n".join([heading(), *(text for text, _ in parts)])
    print(report)
    REPORT.write_text(report)
    sys.exit(0 if all(agreed for _, agreed in parts) else 1)


if __name__ == "__main__":
    main()
