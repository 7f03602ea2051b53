#!/usr/bin/env python3
"""AWQ against AutoAWQ's algorithm, llm-compressor and rounding to nearest: perplexity and time on the shipped model,
from the same windows.

Ours run as a job runs them. AutoAWQ's algorithm, which is 4 bits with zero points, is `awq_peers.py`, by its formulas;
llm-compressor's is run in an environment of its own. Each side's weights, as they multiply unscaled inputs, then
predict the evaluation text in the same transformers model.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/awq.py [--windows 128] [--evaluated 64] [--only-ours]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))
import awq_peers
from gptq import HERE, MODEL, REPOSITORY, THREADS, WINDOW, perplexity, source, windows
from kernels.bench.environments import environment

from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import MemorySession
from quantmill.worker.environment import cpu_model
from quantmill_awq.algorithm import quantize
from quantmill_awq.params import AwqParams
from quantmill_awq.planning import plan
from quantmill_awq.plugin import AWQ
from quantmill_awq.rounding import Grid, rounded

Weights = Mapping[str, np.ndarray]
GROUP = 128
SCHEMES = {  # ours have to name the format that holds them
    "4 bits": {"bits": 4, "zero_point": True, "format": "gemm"},
    "4 bits symmetric": {"bits": 4, "zero_point": False, "format": "compressed-tensors"},
    "3 bits": {"bits": 3, "zero_point": True, "format": "compressed-tensors"},
    "3 bits symmetric": {"bits": 3, "zero_point": False, "format": "compressed-tensors"},
}
SETTINGS: tuple[Mapping[str, object], ...] = ({}, {"predecessors": "quantized"})


def nearest(params: AwqParams) -> Weights:
    grid = Grid(params.bits, GROUP, not params.zero_point, "F16" if params.format == "gemm" else "BF16")
    return {name: rounded(values, grid).weights() for name, values in source().items() if "_proj." in name}


def ours(params: AwqParams, ids: np.ndarray, folder: Path) -> tuple[Weights, float, float]:
    """Weights as our reader has them, norms too, and the seconds of clock and processor that `quantize` took."""
    with open_checkpoint(MODEL) as checkpoint:
        planned = plan(checkpoint.index, params)
        before, processor = time.perf_counter(), time.process_time()
        with calibrate(checkpoint, planned, list(ids), folder=folder, threads=THREADS) as calibration:
            session = MemorySession(checkpoint, planned, THREADS, calibration=calibration)
            tensors = {tensor.name: tensor for tensor in quantize(session, params)}
        took = time.perf_counter() - before, time.process_time() - processor
        artifact = folder / "artifact"
        artifact.mkdir()
        ordered = (tensors[row.name] for row in planned.tensors)
        AWQ.write.load()(ordered, planned, checkpoint.index, params, artifact)
        return dict(AWQ.weights(artifact)), *took


def autoawq(ids: np.ndarray) -> tuple[Weights, float, float]:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    before, processor = time.perf_counter(), time.process_time()
    found = awq_peers.quantize(model, torch.from_numpy(ids), GROUP)
    took = time.perf_counter() - before, time.process_time() - processor
    return {name: values.clone().numpy() for name, values in found.items()}, *took


def llm_compressor(params: AwqParams, ids: np.ndarray, folder: Path) -> tuple[Weights, float, float]:
    python = environment("peers", "llm_compressor", REPOSITORY / "kernels/bench/peers/llm_compressor/requirements.txt")
    np.save(folder / "ids.npy", ids)
    where = {"model": str(MODEL), "ids": str(folder / "ids.npy"), "weights": str(folder / "theirs.npz")}
    asked = {"bits": params.bits, "group_size": GROUP, "symmetric": not params.zero_point, "threads": THREADS}
    command = [str(python), str(HERE / "awq_llm_compressor.py"), json.dumps(where | asked)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    if not (folder / "theirs.npz").exists():
        raise SystemExit(done.stderr[-3000:])
    took = next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    with np.load(folder / "theirs.npz") as found:
        return {name: found[name] for name in found.files}, took["seconds"], took["processor_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=128, help="of calibration text, 512 tokens each")
    parser.add_argument("--evaluated", type=int, default=64, help="windows of evaluation text")
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES), choices=SCHEMES)
    parser.add_argument("--only-ours", action="store_true", help="AutoAWQ's algorithm takes minutes")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    ids, texts = windows("calibration.txt", asked.windows), windows("evaluation.txt", asked.evaluated)
    print(f"{cpu_model()}, {THREADS} threads; {len(ids)} windows of {WINDOW}, {len(texts)} evaluated", flush=True)
    print("| g128 | by | perplexity | seconds | processor seconds |\n|---|---|---|---|---|")
    print(f"| source | | {perplexity({}, texts):.3f} | | |", flush=True)
    for scheme in asked.schemes:
        params = AwqParams.model_validate(SCHEMES[scheme])

        def show(by: str, weights: Weights, *took: float, scheme: str = scheme) -> None:
            spent = " | ".join(f"{seconds:.1f}" for seconds in took) or " | "
            print(f"| {scheme} | {by} | {perplexity(weights, texts):.3f} | {spent} |", flush=True)

        show("rounded to nearest", nearest(params))
        for given in SETTINGS:
            label = " ".join(["quantmill", *(f"{key}={value}" for key, value in given.items())])
            with tempfile.TemporaryDirectory(prefix="awq-") as folder:
                show(label, *ours(AwqParams.model_validate({**SCHEMES[scheme], **given}), ids, Path(folder)))
        if asked.only_ours:
            continue
        if params.format == "gemm":
            show("AutoAWQ's algorithm", *autoawq(ids))
        with tempfile.TemporaryDirectory(prefix="awq-") as folder:
            show("llm-compressor 0.14.0.1", *llm_compressor(params, ids, Path(folder)))


if __name__ == "__main__":
    main()
