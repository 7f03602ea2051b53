#!/usr/bin/env python3
"""AWQ against AutoAWQ's algorithm and rounding to nearest: perplexity and time on the shipped model, same windows.

Ours run as a job runs them. AutoAWQ's algorithm is `awq_peers.py`, by its formulas. Each side's weights, as they
multiply unscaled inputs, then predict the evaluation text in the same transformers model.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/awq.py [--windows 128] [--evaluated 64] [--only-ours]
"""

from __future__ import annotations

import argparse
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
from gptq import MODEL, THREADS, WINDOW, perplexity, source, windows

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
SETTINGS: tuple[Mapping[str, object], ...] = ({}, {"predecessors": "source"}, {"duo_scaling": "both"}, {"clip": False})


def nearest() -> Weights:
    grid = Grid(4, GROUP, False, "F16")
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


def theirs(ids: np.ndarray) -> tuple[Weights, float, float]:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    before, processor = time.perf_counter(), time.process_time()
    found = awq_peers.quantize(model, torch.from_numpy(ids), GROUP)
    took = time.perf_counter() - before, time.process_time() - processor
    return {name: values.clone().numpy() for name, values in found.items()}, *took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=128, help="of calibration text, 512 tokens each")
    parser.add_argument("--evaluated", type=int, default=64, help="windows of evaluation text")
    parser.add_argument("--only-ours", action="store_true", help="AutoAWQ's algorithm takes minutes")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    ids, texts = windows("calibration.txt", asked.windows), windows("evaluation.txt", asked.evaluated)
    print(f"{cpu_model()}, {THREADS} threads; {len(ids)} windows of {WINDOW}, {len(texts)} evaluated", flush=True)
    print("| 4 bits g128 | perplexity | seconds | processor seconds |\n|---|---|---|---|")
    print(f"| source | {perplexity({}, texts):.3f} | | |", flush=True)
    print(f"| rounded to nearest | {perplexity(nearest(), texts):.3f} | | |", flush=True)
    for given in SETTINGS:
        label = " ".join(["quantmill", *(f"{key}={value}" for key, value in given.items())])
        with tempfile.TemporaryDirectory(prefix="awq-") as folder:
            weights, seconds, processor = ours(AwqParams.model_validate(given), ids, Path(folder))
        print(f"| {label} | {perplexity(weights, texts):.3f} | {seconds:.1f} | {processor:.1f} |", flush=True)
    if not asked.only_ours:
        weights, seconds, processor = theirs(ids)
        print(
            f"| AutoAWQ's algorithm | {perplexity(weights, texts):.3f} | {seconds:.1f} | {processor:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
