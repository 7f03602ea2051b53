#!/usr/bin/env python3
"""Safetensors to the final GGUF file beside llama.cpp's quantize step alone, on the same weights in the same run.

The source is a synthetic Llama checkpoint of 1.1 billion parameters (2.2 GB of BF16). llama.cpp starts from a BF16 GGUF
file of it that is there already, in an environment of its own (llama-cpp-python's llama_model_quantize, from
tests/conformance/llama_cpp/requirements.txt). Ours starts from the safetensors files: the method alone (encode and
write), and the whole job (digests, units, verification, publishing). Each line is the best of `--rounds`, taken in
turns; CPU seconds are of the process, so other work on the machine shows in the wall seconds only. Prints Markdown; it
reports and does not assert.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from kernels.bench.environments import environment
from tests.benchmarks.peak_memory import CACHE, REPOSITORY, commit, run_job, synthetic_checkpoint

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill.store import artifacts
from quantmill.worker.environment import cpu_model
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.policies import MIXES

REQUIREMENTS = REPOSITORY / "tests/conformance/llama_cpp/requirements.txt"
LLAMA_CPP = """
import ctypes, json, resource, sys, time
from llama_cpp import llama_cpp
source, target, file_type, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = file_type, threads
began, used = time.monotonic(), time.process_time()
failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
seconds, cpu = time.monotonic() - began, time.process_time() - used
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
assert not failed
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}))
"""


@dataclass(frozen=True)
class Measured:
    """`disk_bytes` is the most that lay on disk beside source and result."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    result_bytes: int = 0
    disk_bytes: int = 0


def llama_cpp(python: Path, source: Path, scratch: Path, type_: str, threads: int) -> Measured:
    target = scratch / "theirs.gguf"
    command = [python, "-c", LLAMA_CPP, source, target, str(MIXES[type_].file_type), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return _measured(json.loads(done.stdout.splitlines()[-1]), target)


def method_alone(scratch: Path, type_: str, threads: int) -> Measured:
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "ours"
    command = [sys.executable, __file__, "--errand", str(folder), "--type", type_, "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return _measured(json.loads(done.stdout), next(folder.glob("*.gguf")))


def _measured(seen: dict[str, float], result: Path) -> Measured:
    size = result.stat().st_size
    result.unlink()
    return Measured(seen["seconds"], seen["cpu_seconds"], int(seen["peak_bytes"]), size)


def errand(folder: Path, type_: str, threads: int) -> None:
    """The method alone, in this process."""
    with open_checkpoint(synthetic_checkpoint()) as checkpoint:
        run = Run(GGUF, GGUF.params(type=type_), checkpoint)
        began, used = time.monotonic(), time.process_time()
        run.write(run.quantize(threads=threads), folder)
        seconds, cpu = time.monotonic() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}))


def whole_job(scratch: Path, type_: str, threads: int) -> Measured:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    data_dir = scratch / "job"
    with watched(data_dir) as most:
        job, services = run_job(synthetic_checkpoint(), type_, threads, data_dir)
        if job.error or job.artifact_digest is None:
            sys.exit(f"the job ended {job.state}: {job.error}")
        with services.database.read() as tx:
            size = artifacts.get_artifact(tx, job.artifact_digest).size
        services.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert job.started_at is not None
    assert job.ended_at is not None
    seconds = (job.ended_at - job.started_at).total_seconds()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    subprocess.run(["rm", "-r", str(data_dir)], check=True)
    return Measured(seconds, cpu, job.attempts[-1].peak_memory_bytes or 0, size, max(0, most() - size))


@contextmanager
def watched(folder: Path) -> Iterator[Callable[[], int]]:
    """The most bytes that were allocated below `folder` while the body ran; a file with two names counts once."""
    ended, seen = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.2):
            seen[0] = max(seen[0], allocated(folder))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: seen[0]
    finally:
        ended.set()
        watcher.join()


def allocated(folder: Path) -> int:
    files: dict[int, int] = {}
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(inner, name))  # noqa: PTH118  gone files are no error here
            except FileNotFoundError:
                continue
            files[status.st_ino] = 512 * status.st_blocks
    return sum(files.values())


def best(rounds: list[Measured]) -> Measured:
    fastest = min(rounds, key=lambda each: each.cpu_seconds)
    return Measured(
        min(each.seconds for each in rounds),
        fastest.cpu_seconds,
        max(each.peak_bytes for each in rounds),
        fastest.result_bytes,
        max(each.disk_bytes for each in rounds),
    )


def table(found: dict[str, Measured], type_: str, threads: int) -> str:
    theirs = found["llama.cpp, from BF16 GGUF"]
    lines = [
        f"{type_}, {threads} threads, commit {commit()}, {cpu_model()}",
        "",
        "| | seconds | times as fast | CPU seconds | times as fast | peak MiB | result MB | disk beside it MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        faster, leaner = theirs.seconds / each.seconds, theirs.cpu_seconds / each.cpu_seconds
        lines.append(
            f"| {name} | {each.seconds:.1f} | {faster:.2f} | {each.cpu_seconds:.1f} | {leaner:.2f} "
            f"| {each.peak_bytes / 2**20:.0f} | {each.result_bytes / 1e6:.1f} | {each.disk_bytes / 1e6:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--errand", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    type_, threads = arguments.type, arguments.threads
    if arguments.errand is not None:
        errand(arguments.errand, type_, threads)
        return
    python = environment("conformance", "llama_cpp", REQUIREMENTS)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        scratch = Path(folder)
        with open_checkpoint(synthetic_checkpoint()) as checkpoint:
            run = Run(GGUF, GGUF.params(type="BF16"), checkpoint)
            ready, *_ = run.write(run.quantize(threads), scratch / "ready")
        rounds: dict[str, list[Measured]] = {}
        for _ in range(arguments.rounds):
            for name, measure in {
                "llama.cpp, from BF16 GGUF": lambda: llama_cpp(python, ready, scratch, type_, threads),
                "ours, method alone": lambda: method_alone(scratch, type_, threads),
                "ours, whole job": lambda: whole_job(scratch, type_, threads),
            }.items():
                rounds.setdefault(name, []).append(measure())
    found = {name: best(each) for name, each in rounds.items()}
    shown = {name: asdict(each) for name, each in found.items()}
    print(json.dumps(shown) if arguments.json else table(found, type_, threads))


if __name__ == "__main__":
    main()
