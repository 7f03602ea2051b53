#!/usr/bin/env python3
"""Peak memory and time of one Q4_K_M job on a synthetic 1.1-billion-parameter Llama checkpoint (2.2 GB of BF16).

Writes the checkpoint into a cache folder once, runs one job through the embedded service, and prints what the attempt's
row in the database says, as a line of a Markdown table with machine and commit. It reports; it does not assert.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quantmill.dispatch.embedded import Embedded
from quantmill.domain.jobs import FINAL, Job, JobRequest
from quantmill.jobs.submit import submit
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import artifacts, jobs, migrate
from quantmill.worker.environment import cpu_model

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("QUANTMILL_CACHE", REPOSITORY / ".cache"))


def synthetic_checkpoint() -> Path:
    folder = CACHE / "synthetic-llama-1.1b"
    if not (folder / "config.json").exists():
        subprocess.run([sys.executable, REPOSITORY / "tests/benchmarks/synthetic_llama.py", str(folder)], check=True)
    return folder


def run_job(source: Path, type_: str, threads: int, data_dir: Path) -> tuple[Job, Services]:
    settings = Settings(data_dir=data_dir, source_roots=(source,), threads=threads, scheduler_seconds=0.1)
    services = Services.open(settings)
    migrate.upgrade(services.database)
    with Embedded(services):
        job = submit(services, JobRequest(source=str(source), method="gguf", params={"type": type_}))
        while job.state not in FINAL:
            time.sleep(0.2)
            with services.database.read() as tx:
                job = jobs.get_job(tx, job.id)
    return job, services


def commit() -> str:
    described = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = synthetic_checkpoint()
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        job, services = run_job(source, arguments.type, arguments.threads, Path(scratch))
        if job.error or job.artifact_digest is None:
            sys.exit(f"the job ended {job.state}: {job.error}")
        with services.database.read() as tx:
            artifact = artifacts.get_artifact(tx, job.artifact_digest)
        services.close()
    assert job.started_at is not None
    assert job.ended_at is not None
    row = {
        "type": arguments.type,
        "source GB": round(sum(path.stat().st_size for path in source.glob("*.safetensors")) / 1e9, 2),
        "artifact MB": round(artifact.size / 1e6, 1),
        "threads": arguments.threads,
        "seconds": round((job.ended_at - job.started_at).total_seconds(), 1),
        "peak MiB": round((job.attempts[-1].peak_memory_bytes or 0) / 2**20),
        "commit": commit(),
        "cpu": cpu_model(),
    }
    if arguments.json:
        print(json.dumps(row))
    else:
        print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
