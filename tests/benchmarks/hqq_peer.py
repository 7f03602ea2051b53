#!/usr/bin/env python3
"""A whole hqq job against hqq 0.2.8 on the same processor: 4 bits, groups of 64, processor seconds and errors.

Ours is the synthetic checkpoint of 1.1 billion parameters: quantized and written to files, and as a job through the
embedded service, from opening the source to the verified and published artifact. hqq quantizes the Linears of one of
its 22 blocks, from memory to memory, with one thread; its seconds are scaled by the share of values. Errors are those
of that block's Linears, both from scales and zeros as stored (bfloat16).

    PYTHONPATH=. .venv/bin/python tests/benchmarks/hqq_peer.py
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kernels.bench.environments import environment
from numpy.typing import NDArray
from peak_memory import CACHE, commit, synthetic_checkpoint
from streaming import processor_seconds, run

import quantmill_kernels
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.testing import MemorySession, Run
from quantmill.worker.environment import cpu_model
from quantmill_hqq.plugin import HQQ

REQUIREMENTS = Path(__file__).resolve().parents[2] / "kernels" / "bench" / "peers" / "hqq" / "requirements.txt"
BLOCK = "model.layers.3."

THEIRS = """
import json, resource, sys
import numpy as np, torch
from hqq.core.quantize import Quantizer
torch.set_num_threads(1)
weights = np.load(sys.argv[1])
seconds, errors = 0.0, []
for name in weights.files:
    values = torch.from_numpy(weights[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    packed, meta = Quantizer.quantize(
        values, nbits=4, group_size=64, round_zero=True, axis=1, compute_dtype=torch.bfloat16, device="cpu"
    )
    seconds += resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    stored = {key: meta[key].to(torch.bfloat16).float() for key in ("scale", "zero")}
    left = (Quantizer.dequantize(packed, {**meta, **stored, "compute_dtype": torch.float32}) - values).abs().double()
    errors.append([values.numel(), float((left**0.7).sum()), float((left**2).sum())])
print(json.dumps({"seconds": seconds, "errors": errors}))
"""


def ours_of(checkpoint: Checkpoint, names: list[str]) -> Iterator[NDArray[np.float32]]:
    """The values that the artifact holds for these tensors."""
    job = Run(HQQ, HQQ.params(), checkpoint)
    session = MemorySession(checkpoint, job.plan, finished=set(job.plan.by_name) - set(names))
    for tensor in HQQ.quantize.load()(session, job.params):
        parts = tensor.parts
        codes = quantmill_kernels.unpack_hqq("4bit_u8", parts["W_q"], parts["scale"].shape[0])
        scale, zero = (parts[key].astype(np.float32) for key in ("scale", "zero"))
        yield quantmill_kernels.decode_hqq(codes, scale, zero, tensor.shape)


def errors_of(sums: list[list[float]]) -> tuple[float, float]:
    """Mean abs(error)^0.7 and root mean square."""
    count, mean, square = (sum(column) for column in zip(*sums, strict=True))
    return mean / count, (square / count) ** 0.5


def theirs_of(weights: dict[str, NDArray[np.float32]], scratch: Path) -> dict[str, Any]:
    np.savez(scratch / "weights.npz", **weights)
    python = environment("peers", "hqq", REQUIREMENTS)
    command = [python, "-c", THEIRS, scratch / "weights.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    source = synthetic_checkpoint()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder, open_checkpoint(source) as checkpoint:
        scratch = Path(folder)
        plan = Run(HQQ, HQQ.params(), checkpoint).plan
        quantized = [row for row in plan.tensors if row.action == "quantize"]
        names = [row.name for row in quantized if row.name.startswith(BLOCK)]
        weights = {name: checkpoint.tensor(name).values.astype(np.float32) for name in names}
        theirs = theirs_of(weights, scratch)
        sums = []
        for values, ours in zip(weights.values(), ours_of(checkpoint, names), strict=True):
            left = np.abs(ours - values).astype(np.float64)
            sums.append([values.size, float((left**0.7).sum()), float((left**2).sum())])
        began = processor_seconds()
        whole = Run(HQQ, HQQ.params(), checkpoint)
        whole.write(whole.quantize(1), scratch / "files")
        written = processor_seconds() - began
        job = run(source, "hqq", {}, 1, scratch / "data")
    share = sum(values.size for values in weights.values()) / sum(row.values for row in quantized)
    seconds = theirs["seconds"] / share
    (mean, root), (their_mean, their_root) = errors_of(sums), errors_of(theirs["errors"])
    print("| | ours | hqq 0.2.8 | ratio |\n|---|---|---|---|")
    print(f"| processor s, quantized and written | {written:.1f} | {seconds:.0f} | {seconds / written:.1f} |")
    print(
        f"| processor s, whole job | {job.spent.processor:.1f} | {seconds:.0f} | {seconds / job.spent.processor:.1f} |"
    )
    print(f"| mean abs(error)^0.7 | {mean:.6f} | {their_mean:.6f} | {mean / their_mean:.4f} |")
    print(f"| RMSE | {root:.6f} | {their_root:.6f} | {root / their_root:.4f} |")
    peak = (job.job.attempts[-1].peak_memory_bytes or 0) >> 20
    print(
        f"\nwall {job.spent.wall:.1f} s, peak {peak} MiB, commit {commit()}, {cpu_model()}, load {os.getloadavg()[0]}"
    )


if __name__ == "__main__":
    main()
