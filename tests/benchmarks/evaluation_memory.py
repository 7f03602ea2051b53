#!/usr/bin/env python3
"""Peak memory and time of evaluating a Q4_K_M artifact of the synthetic 1.1-billion-parameter Llama beside its source.

The artifact is made once, into the cache folder. The evaluation runs in a process of its own and tells what memory it
needed above that of the imported libraries, as a line of a Markdown table. It reports; it does not assert.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from peak_memory import CACHE, commit, synthetic_checkpoint

from quantmill.calibration import tokens
from quantmill.checkpoints import open_checkpoint
from quantmill.evaluation import evaluate, metrics_of
from quantmill.plugins import load_plugins
from quantmill.worker.environment import cpu_model

QUANTMILL = Path(sys.executable).with_name("quantmill")
TEXT = Path(__file__).resolve().parents[1] / "data" / "text" / "evaluation.txt"


def artifact_of(source: Path) -> Path:
    folder = CACHE / "synthetic-llama-1.1b-Q4_K_M"
    if not folder.exists():
        arguments = ["--method", "gguf", "--set", "type=Q4_K_M", "--output", folder, "--data-dir", CACHE / "data"]
        subprocess.run([QUANTMILL, "quantize", source, *arguments], check=True)
    return folder


def resident(field: str) -> int:
    """VmRSS, VmHWM or RssAnon of this process, in MiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) >> 10


def measure(source: Path, artifact: Path, windows: int, threads: int) -> dict[str, Any]:
    from quantmill.calibration import decoder, forward  # noqa: F401  what every evaluation imports
    from quantmill.evaluation import predictions  # noqa: F401

    weights = functools.partial(load_plugins().method("gguf").weights, artifact)
    with open_checkpoint(source) as checkpoint:
        text = TEXT.read_text()
        per_token = len(text) / len(tokens.tokenize(checkpoint.index, text).ids)
        text = text[: int(per_token * tokens.DEFAULT_WINDOW * (windows + 0.5))]
        before = resident("VmRSS")
        found = evaluate(checkpoint, weights, text, threads=threads)
    ratio = {metric.name: metric.value for metric in metrics_of(found)}
    return {
        "windows": len(found.windows.ids),
        "tokens": int(found.windows.scored.sum()),
        "source float32 MiB": round(checkpoint.index.nbytes * 2 / 2**20),
        "libraries MiB": before,
        "peak MiB": resident("VmHWM"),
        "seconds": round(found.seconds, 1),
        "KLD": round(ratio["kld_mean"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    source = synthetic_checkpoint()
    artifact = artifact_of(source)
    if arguments.inside:
        print(json.dumps(measure(source, artifact, arguments.windows, arguments.threads)))
        return
    command = [sys.executable, __file__, "--inside", "--windows", str(arguments.windows)]
    done = subprocess.run([*command, "--threads", str(arguments.threads)], check=True, capture_output=True, text=True)
    row = {
        **json.loads(done.stdout.splitlines()[-1]),
        "threads": arguments.threads,
        "commit": commit(),
        "cpu": cpu_model(),
    }
    print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
    print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
