"""What a run ran on: versions and hardware, never the process environment."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import quantmill_kernels

DISTRIBUTIONS = ("quantmill", "numpy", "ml_dtypes", "safetensors", "gguf", "torch", "transformers", "tokenizers")


def capture_environment() -> dict[str, Any]:
    """Plain JSON values; `versions` leaves out what is not installed."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "isa": quantmill_kernels.isa(),
        "versions": {name: found for name in DISTRIBUTIONS if (found := _version(name)) is not None},
    }


def cpu_model() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int:
    """The largest resident set of this process since it was started.

    From VmHWM, not getrusage: ru_maxrss of a fresh child counts what its parent held when it was forked.
    """
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
