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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantmill.contract.synthetic import SyntheticLlama
from quantmill.dispatch.embedded import Embedded
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.jobs import FINAL, Job, JobRequest, State
from quantmill.files.artifacts import materialize
from quantmill.jobs import artifacts
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
PARAMS = {"gguf": {"type": "Q4_K_M"}, "fp8": {"scheme": "FP8_DYNAMIC"}, "repack": {"to": "awq"}}
PACKED = {"nbits": 4, "group_size": 128, "format": "compressed-tensors"}  # of hqq, for repack
TEXT = Path(__file__).parents[1] / "data" / "text" / "calibration.txt"
SAMPLES = 16


def onnx_model(services: Services, model: Path) -> Path:
    """As many weights as the model's Linears have, as products one after the other."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape, folder = SIZES[model.name], model.with_name(f"{model.name}-onnx")
    rng, nodes, weights, value = np.random.default_rng(0), [], [], "x"
    for block in range(2 * shape.blocks):
        for name, (rows, cols) in {"up": (shape.hidden, shape.ffn), "down": (shape.ffn, shape.hidden)}.items():
            weight, made = f"{name}.{block}", f"after.{name}.{block}"
            array = rng.standard_normal((rows, cols), np.float32) * np.float32(rows**-0.5)
            weights.append(numpy_helper.from_array(array, weight))
            nodes.append(helper.make_node("MatMul", [value, weight], [made], name=f"product.{weight}"))
            value = made
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", shape.hidden]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model.onnx"
    )
    return folder


def packed_model(services: Services, model: Path) -> Path:
    """The model in 4 bits, which repack takes."""
    folder = model.with_name(f"{model.name}-packed")
    digest = run(services, JobRequest(str(model), "hqq", PACKED)).artifact_digest
    assert digest is not None
    materialize(artifacts.get(services, digest)[0], services.blobs, folder)
    return folder


SOURCES: dict[str, Callable[[Services, Path], Path]] = {"onnx": onnx_model, "repack": packed_model}


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
    parser.add_argument("--methods", help="by default all that are installed")
    parser.add_argument("--rounds", type=int, default=2, help="how often each size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {size: model.write(Path(folder) / size) for size, model in SIZES.items()}
        settings = Settings(
            data_dir=Path(folder) / "data", source_roots=(Path(folder), TEXT.parent), scheduler_seconds=0.05
        )
        services = Services.open(settings)
        migrate.upgrade(services.database)
        chosen = arguments.methods.split(",") if arguments.methods else sorted(services.plugins.methods)
        print("| method | weights | runs before | expected s | took | expected MiB | took |")
        print("|---|---|---|---|---|---|---|")
        with Embedded(services):
            for method in chosen:
                made = SOURCES.get(method, lambda services, model: model)
                sources = {size: made(services, model) for size, model in models.items()}
                for _ in range(arguments.rounds):
                    for size, model in sources.items():
                        print(row(size, run(services, request_for(services, method, model))), flush=True)
        with services.database.read() as tx:
            for each in estimates.accuracies(tx):
                print(f"{each.method}: median error of time {each.seconds:.0%}, of memory {each.memory_bytes:.0%}")
        services.close()


if __name__ == "__main__":
    main()
