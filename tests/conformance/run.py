#!/usr/bin/env python3
"""Hands our artifacts to the programs that users load them with, and writes what came of it to docs/conformance.md.

Each folder beside this file is a consumer: `requirements.txt` says what its environment holds (their pins conflict, so
each has one of its own, kept in $QUANTMILL_CACHE/conformance or .cache/conformance), and `check.py`, run by our own
Python, prints a section of the report and exits with 1 when something disagrees. `requirements.txt` may be a link to
another consumer's, whose environment is then used. A consumer that cannot be installed
is reported with the reason. With names, only those are run; the other sections stay as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from kernels.bench.environments import NotInstalled, environment

import quantmill_kernels
from quantmill.worker.environment import cpu_model

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
REPORT = REPOSITORY / "docs" / "conformance.md"
MARK = "<!-- {} -->"
HEADING = """# Conformance

Artifacts of `tests/data/millstone-4m` and of small synthetic models, loaded by the programs that users load them with.
Written by `make conformance`; `PYTHONPATH=. .venv/bin/python tests/conformance/run.py NAME` runs one program's part.
"""


@dataclass(frozen=True)
class Section:
    """One consumer's part of the report: what it printed, or why it was not run, under the circumstances."""

    consumer: str
    text: str
    agreed: bool = True

    def __str__(self) -> str:
        return f"{MARK.format(self.consumer)}\n{self.text.strip()}\n"


def run(consumer: Path, before: Section | None) -> Section:
    """What came of it; what stood there `before` where its check broke off without a word."""
    try:
        requirements = (consumer / "requirements.txt").resolve()
        python = environment("conformance", requirements.parent.name, requirements)
    except NotInstalled as error:
        return Section(consumer.name, f"## {consumer.name}\n\nNot run: its environment could not be made ({error}).")
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        command = [sys.executable, consumer / "check.py", "--python", python, "--scratch", scratch]
        checked = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not checked.stdout.strip():
        return Section(consumer.name, before.text if before else f"## {consumer.name}\n\nIts check broke off.", False)
    title, _, rest = checked.stdout.partition("\n")
    return Section(consumer.name, f"{title}\n\n{circumstances()}\n{rest}", checked.returncode == 0)


def circumstances() -> str:
    described = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return (
        f"Commit {described.stdout.strip() or 'unknown'}, quantmill {version('quantmill')}, kernels on "
        f"{quantmill_kernels.isa()}; {cpu_model()}, {len(os.sched_getaffinity(0))} CPUs; {platform.system()}, "
        f"Python {platform.python_version()}."
    )


def read_report() -> dict[str, Section]:
    """The sections that earlier runs left, by their consumers."""
    parts = re.split(MARK.format("(.*)"), REPORT.read_text())[1:] if REPORT.exists() else []
    return {name: Section(name, text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def main() -> None:
    consumers = sorted(path.parent for path in HERE.glob("*/requirements.txt"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"consumers, by default all: {', '.join(c.name for c in consumers)}")
    wanted = parser.parse_args().names
    sections = read_report()
    for consumer in consumers:
        if not wanted or consumer.name in wanted:
            sections[consumer.name] = run(consumer, sections.get(consumer.name))
            print(sections[consumer.name])
            kept = [sections[each.name] for each in consumers if each.name in sections]
            REPORT.write_text("\n".join([HEADING, *map(str, kept)]))
    sys.exit(0 if all(section.agreed for section in sections.values()) else 1)


if __name__ == "__main__":
    main()
