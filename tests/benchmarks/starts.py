#!/usr/bin/env python3
"""How soon quantmill answers: `--help`, `match` on this machine, and a first `serve`, its migration included.

Processor time of a command (it waits for nothing, so a busy machine counts little), and for `serve` the clock until
/readyz answers 200. The median of some starts. It reports; it does not assert.

    python tests/benchmarks/starts.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from peak_memory import commit

from quantmill.worker.environment import cpu_model

QUANTMILL = Path(sys.executable).with_name("quantmill")
MODEL = Path(__file__).parents[1] / "data" / "millstone-4m"
STARTS = 5


def main() -> None:
    print(f"{cpu_model()}, {os.cpu_count()} processors, commit {commit()}")
    report("quantmill --help, processor seconds", lambda: processor_seconds("--help"))
    report("quantmill match --here, processor seconds", lambda: processor_seconds("match", "--here", "--model", MODEL))
    report("quantmill serve, seconds until ready", seconds_until_ready)


def report(what: str, measure: Callable[[], float]) -> None:
    print(f"{what}: {statistics.median(measure() for _ in range(STARTS)):.2f}")


def processor_seconds(*arguments: str | Path) -> float:
    before = os.times()
    subprocess.run([QUANTMILL, *arguments], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def seconds_until_ready() -> float:
    with tempfile.TemporaryDirectory() as data_dir:
        command = [QUANTMILL, "serve", "--json", "--port", "0", "--data-dir", data_dir]
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            with urllib.request.urlopen(f"{url}/readyz"):
                seconds = time.monotonic() - started
            process.terminate()
    return seconds


if __name__ == "__main__":
    main()
