#!/usr/bin/env python3
"""Data-free jobs against a plain copy: seconds by phase, processor time, memory and disk.

Source: the synthetic 1.1-billion-parameter checkpoint (2.2 GB of BF16), written into a cache folder once and read
before anything is timed. `copy` reads all of the source and writes as many bytes as the job's result has, with one
fsync; the faster of two counts. It reports; it does not assert.

    python tests/benchmarks/streaming.py                       # FP8_DYNAMIC and NF4
    python tests/benchmarks/streaming.py gguf:type=Q4_K_M --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from peak_memory import CACHE, commit, synthetic_checkpoint

from quantmill.dispatch.embedded import Embedded
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.jobs import FINAL, Event, Job, JobRequest
from quantmill.jobs.submit import submit
from quantmill.plugins import load_plugins
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import artifacts, events, jobs, migrate
from quantmill.worker import pipeline
from quantmill.worker.environment import cpu_model
from quantmill.worker.messages import Message, Progressed, Start

CASES = ("fp8:scheme=FP8_DYNAMIC", "bnb:quant_type=nf4")
CHUNK = 4 << 20
POLL_SECONDS = 0.25  # looking more often takes processor time that would count as the job's
PHASES = ("fetch", "plan", "quantize", "export", "verify", "publish")


@dataclass(frozen=True)
class Spent:
    """Wall and processor seconds."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Ran:
    """A job that has succeeded. `disk` is the most that its data folder held at any time, in bytes."""

    job: Job
    events: list[Event]
    result: int
    spent: Spent
    disk: int


def processor_seconds() -> float:
    """Of this process and the runners that it has seen end."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def files_of(source: Path) -> list[Path]:
    return sorted(path for path in source.iterdir() if path.is_file())


def copied(source: Path, nbytes: int, folder: Path) -> Spent:
    """Read all of the source and write `nbytes` of it."""
    target = folder / "copy"
    wall, processor = time.perf_counter(), processor_seconds()
    buffer = bytearray(CHUNK)
    with target.open("wb") as output:
        for path in files_of(source):
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    kept = min(count, nbytes)
                    output.write(memoryview(buffer)[:kept])
                    nbytes -= kept
        output.flush()
        os.fsync(output.fileno())
    spent = Spent(time.perf_counter() - wall, processor_seconds() - processor)
    target.unlink()
    return spent


def run(source: Path, method: str, params: Mapping[str, Any], threads: int, data_dir: Path) -> Ran:
    """One job through the embedded service in a fresh data folder."""
    settings = Settings(data_dir=data_dir, source_roots=(source,), threads=threads, scheduler_seconds=0.5)
    services = Services.open(settings)
    migrate.upgrade(services.database)
    processor = processor_seconds()
    with disk_watched(data_dir) as most, Embedded(services):
        job = submit(services, JobRequest(source=str(source), method=method, params=dict(params)))
        while job.state not in FINAL:
            time.sleep(POLL_SECONDS)
            with services.database.read() as tx:
                job = jobs.get_job(tx, job.id)
    processor = processor_seconds() - processor
    if job.error or job.artifact_digest is None or job.started_at is None or job.ended_at is None:
        sys.exit(f"the job ended {job.state}: {job.error}")
    with services.database.read() as tx:
        history = events.list_events(tx, job.id, after=0, limit=100_000)
        result = artifacts.get_artifact(tx, job.artifact_digest).size
    services.close()
    return Ran(job, history, result, Spent((job.ended_at - job.started_at).total_seconds(), processor), most[0])


@contextmanager
def disk_watched(folder: Path) -> Iterator[list[int]]:
    """The most bytes that the files below `folder` take together, looked at four times a second."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            most[0] = max(most[0], disk_of(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def disk_of(folder: Path) -> int:
    """Allocated bytes, a file with several names counted once."""
    found = {}
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                status = Path(inner, name).stat()
            except FileNotFoundError:
                continue
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def seconds_by_phase(ran: Ran) -> dict[str, float]:
    """From the events: what passes between the first word of a phase and that of the next."""
    begins = []
    for event in ran.events:
        phase = event.payload.get("phase")
        if phase and (not begins or begins[-1][0] != phase):
            begins.append((phase, event.at))
    assert ran.job.ended_at is not None
    begins.append(("end", ran.job.ended_at))
    return {phase: (later - at).total_seconds() for (phase, at), (_, later) in pairwise(begins)}


def alone_by_phase(
    source: Path, method: str, params: Mapping[str, Any], threads: int, folder: Path
) -> dict[str, Spent]:
    """What each phase of the runner takes without a service: it runs in this process for that."""
    marks: list[tuple[str, float, float]] = []

    def mark(phase: str) -> None:
        marks.append((phase, time.perf_counter(), time.process_time()))

    def note(message: Message) -> None:
        if isinstance(message, Progressed) and (not marks or marks[-1][0] != message.phase):
            mark(message.phase)

    folder.mkdir()
    task = Start(
        source=source,
        method=method,
        params=dict(params),
        seed=0,
        threads=threads,
        device="cpu",
        plan={},
        source_digest=None,
        evaluation_text=None,
        evaluation=EvaluationOptions(),
        calibration=None,
        statistics_cache=folder / "statistics",
        statistics_cache_bytes=0,
        evaluation_cache=folder / "evaluation",
        evaluation_cache_bytes=0,
        memory_bytes=None,
        unit_store=folder / "units",
        export_folder=folder / "artifact",
        finished=(),
    )
    pipeline.run(task, load_plugins(), note, threading.Event())
    mark("end")
    return {
        phase: Spent(*(b - a for a, b in zip(at, later, strict=True))) for (phase, *at), (_, *later) in pairwise(marks)
    }


def measured(source: Path, case: str, threads: int, scratch: Path) -> dict[str, Any]:
    method, _, settings = case.partition(":")
    params = dict(setting.split("=") for setting in settings.split(",") if setting)
    copied(source, 0, scratch)  # so that the source is in memory
    ran = run(source, method, params, threads, scratch / "data")
    result = ran.result
    copy = min((copied(source, result, scratch) for _ in range(2)), key=lambda spent: spent.wall)
    phases = seconds_by_phase(ran)
    alone = alone_by_phase(source, method, params, threads, scratch / "runner")
    return {
        "job": case,
        "source GB": round(sum(path.stat().st_size for path in files_of(source)) / 1e9, 2),
        "result GB": round(result / 1e9, 2),
        "copy s": round(copy.wall, 2),
        "job s": round(ran.spent.wall, 2),
        "x copy": round(ran.spent.wall / copy.wall, 1),
        "quantize x copy": round(phases.get("quantize", 0.0) / copy.wall, 1),
        "copy cpu s": round(copy.processor, 2),
        "job cpu s": round(ran.spent.processor, 2),
        **{f"{phase} s": round(phases.get(phase, 0.0), 2) for phase in PHASES},
        **{f"{phase} alone s": round(spent.wall, 2) for phase, spent in alone.items()},
        **{f"{phase} alone cpu s": round(spent.processor, 2) for phase, spent in alone.items()},
        "peak MiB": round((ran.job.attempts[-1].peak_memory_bytes or 0) / 2**20),
        "disk beyond result %": round(100 * (ran.disk / result - 1), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, help="method:key=value,key=value")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = synthetic_checkpoint()
    rows = []
    for case in arguments.cases:
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            rows.append(measured(source, case, arguments.threads, Path(scratch)))
    machine = {"threads": arguments.threads, "commit": commit(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    if arguments.json:
        print(json.dumps({"rows": rows, **machine}))
        return
    for name in rows[0]:
        print("| " + " | ".join([name, *(str(row[name]) for row in rows)]) + " |")
        if name == "job":
            print("|---" * (len(rows) + 1) + "|")
    print(f"\n{machine}")


if __name__ == "__main__":
    main()
