#!/usr/bin/env python3
"""gptq and awq on the shipped model, calibrated on a CPU and on another device from the same windows: seconds of each
phase, perplexities, and how far apart the two are.

The first side is what a worker does with QUANTMILL_DEVICE=cpu: gptq's columns are the kernels'. The second is what one
does with --device, gptq's columns being torch's; with --device cpu too, so that the script and the solver run where
there is no GPU. It reports; it does not assert.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/cuda_calibration.py [--device cuda] [--windows 128] [--methods ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gptq import MODEL, THREADS, perplexity, windows

from quantmill.calibration.decoder import find_device, kind_of
from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import Method
from quantmill.contract.testing import MemorySession
from quantmill.worker.environment import cpu_model
from quantmill_awq.plugin import AWQ
from quantmill_gptq.columns import TorchColumns
from quantmill_gptq.plugin import GPTQ
from quantmill_gptq.solution import columns_on

METHODS: Mapping[str, Method] = {"gptq": GPTQ, "awq": AWQ}
PHASES = ("load", "embed", "advance")  # of the engine; what is left is statistics and the method's own work


def made(method: Method, ids: np.ndarray, device: str, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Weights as the method's reader has them, and the seconds that quantizing took, in all and by phase."""
    params = method.params()
    with open_checkpoint(MODEL) as checkpoint:
        plan = method.plan.load()(checkpoint.index, params)
        since = time.perf_counter()
        with calibrate(checkpoint, plan, list(ids), folder=folder, threads=THREADS, device=device) as engine:
            session = MemorySession(checkpoint, plan, THREADS, calibration=engine, device=device)
            tensors = {tensor.name: tensor for tensor in method.quantize.load()(session, params)}
            took = time.perf_counter() - since
            phases = {phase: engine.seconds[phase] for phase in PHASES}
        artifact = folder / "artifact"
        artifact.mkdir()
        method.write.load()((tensors[row.name] for row in plan.tensors), plan, checkpoint.index, params, artifact)
    rest = took - sum(phases.values())
    return dict(method.weights(artifact)), {"all": took, **phases, "statistics and solving": rest}


def compared(name: str, ids: np.ndarray, texts: np.ndarray, device: str) -> Iterator[str]:
    """A row for each side, and one for what lies between them."""
    found: dict[str, dict[str, np.ndarray]] = {}
    lost: dict[str, float] = {}
    for side, on, columns in (("first", "cpu", columns_on), ("second", device, torch_columns_on)):
        solver = patch("quantmill_gptq.solution.columns_on", columns)
        with tempfile.TemporaryDirectory(prefix="device-") as folder, solver:
            weights, seconds = made(METHODS[name], ids, on, Path(folder))
        found[side], lost[side] = weights, perplexity(weights, texts)
        times = " | ".join(f"{each:.1f}" for each in seconds.values())
        yield f"| {name} | {kind_of(find_device(on))} | {lost[side]:.3f} | {times} | |"
    moved = [rms(found["second"][key] - values) / rms(values) for key, values in found["first"].items()]
    same = np.mean([np.mean(found["second"][key] == values) for key, values in found["first"].items()])
    yield (
        f"| {name} | difference | {lost['second'] / lost['first'] - 1:+.3%} | | | | | | "
        f"{same:.2%} of the weights are equal; a tensor moved by {max(moved):.2g} of its rms at most |"
    )


def torch_columns_on(device: str) -> TorchColumns:
    return TorchColumns(torch.device(device))


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="torch's name of the second side's")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--windows", type=int, default=128, help="of calibration text, 512 tokens each")
    parser.add_argument("--evaluated", type=int, default=64, help="windows of evaluation text")
    asked = parser.parse_args()
    device = find_device(asked.device)
    torch.set_num_threads(THREADS)
    ids, texts = windows("calibration.txt", asked.windows), windows("evaluation.txt", asked.evaluated)
    print(f"{cpu_model()}, {THREADS} threads, and {kind_of(device)}; {len(ids)} windows, {len(texts)} evaluated")
    print("| method | on | perplexity | seconds | load | embed | advance | statistics and solving | |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in asked.methods:
        for row in compared(name, ids, texts, asked.device):
            print(row, flush=True)


if __name__ == "__main__":
    main()
