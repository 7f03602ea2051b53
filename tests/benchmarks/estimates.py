#!/usr/bin/env python3
"""What jobs were thought to take beside what they took: every method on three sizes of model, one after the other.

Random Llamas of about 4, 60 and 240 million weights are quantized by each method in one data folder, so that each job's
estimate is corrected by those before it. It prints a row per job and the median errors at the end; it does not assert.

    python tests/benchmarks/estimates.py
    python tests/benchmarks/estimates.py --rounds 7 --methods gguf,fp8   # 21 jobs of each
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from quantmill.contract.synthetic import SyntheticLlama
from quantmill.dispatch.embedded import Embedded
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.jobs import FINAL, Job, JobRequest, State
from quantmill.jobs.plan import make_plan
from quantmill.jobs.submit import submit
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import estimates, jobs, migrate

SIZES = {
    "4M": SyntheticLlama(hidden=256, ffn=768, heads=4, kv_heads=2, blocks=4, vocab=2048),
    "60M": SyntheticLlama(hidden=768, ffn=2048, heads=12, kv_heads=4, blocks=8, vocab=8192),
    "240M": SyntheticLlama(hidden=1024, ffn=4096, heads=16, kv_heads=8, blocks=14, vocab=16384),
}
PARAMS = {"gguf": {"type": "Q4_K_M"}, "fp8": {"scheme": "FP8_DYNAMIC"}}
TEXT = Path(__file__).parents[1] / "data" / "text" / "calibration.txt"
SAMPLES = 16


def request_for(services: Services, method: str, model: Path) -> JobRequest:
    request = JobRequest(str(model), method, PARAMS.get(method, {}))
    if make_plan(services, request.source, method, request.params).plan.calibration is None:
        return request
    return replace(request, calibration=CalibrationOptions(str(TEXT), SAMPLES))


def run(services: Services, request: JobRequest) -> Job:
    job = submit(services, request)
    while job.state not in FINAL:
        time.sleep(0.02)
        with services.database.read() as tx:
            job = jobs.get_job(tx, job.id)
    if job.state is not State.SUCCEEDED:
        sys.exit(f"{request.method}: {job.error}")
    return job


def row(size: str, job: Job) -> str:
    attempt, estimate = job.attempts[-1], job.estimate
    assert estimate is not None
    assert attempt.ended_at is not None
    assert attempt.peak_memory_bytes is not None
    seconds = (attempt.ended_at - attempt.started_at).total_seconds()
    expected, memory = estimate.seconds, (estimate.memory_bytes.expected / 2**20, attempt.peak_memory_bytes / 2**20)
    interval = f"{expected.expected:.1f} ({expected.least:.1f}-{expected.most:.1f})"
    cells = (job.request.method, size, estimate.runs, interval, f"{seconds:.1f}", *(f"{each:.0f}" for each in memory))
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="by default all that are installed and take a plain checkpoint")
    parser.add_argument("--rounds", type=int, default=2, help="how often each size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {size: model.write(Path(folder) / size) for size, model in SIZES.items()}
        settings = Settings(
            data_dir=Path(folder) / "data", source_roots=(Path(folder), TEXT.parent), scheduler_seconds=0.05
        )
        services = Services.open(settings)
        migrate.upgrade(services.database)
        chosen = arguments.methods.split(",") if arguments.methods else sorted({*services.plugins.methods} - {"repack"})
        print("| method | weights | runs before | expected s | took | expected MiB | took |")
        print("|---|---|---|---|---|---|---|")
        with Embedded(services):
            for method in chosen:
                for _ in range(arguments.rounds):
                    for size, model in models.items():
                        print(row(size, run(services, request_for(services, method, model))), flush=True)
        with services.database.read() as tx:
            for each in estimates.accuracies(tx):
                print(f"{each.method}: median error of time {each.seconds:.0%}, of memory {each.memory_bytes:.0%}")
        services.close()


if __name__ == "__main__":
    main()
