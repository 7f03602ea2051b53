#!/usr/bin/env python3
"""Peak memory and time of calibrating the synthetic 1.1-billion-parameter Llama, split by phase.

One process runs gptq (4 bits, groups of 128) as a job does: the Hessians of each stage of Linears, their codes, the
block run as it has become for the next one. It prints what memory that took above the imported libraries, beside the
plan's estimate, and the speed of the Hessians beside the same matrix product in torch alone. It reports; it does not
assert.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import commit, synthetic_checkpoint

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.calibration import CalibratedBlock, Statistic, Statistics, calibration_cost
from quantmill.contract.testing import MemorySession
from quantmill.worker.environment import cpu_model
from quantmill_gptq.params import GptqParams
from quantmill_gptq.planning import plan


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in MiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) >> 10


class TimedSession(MemorySession):
    """A session that knows how long its blocks took to gather statistics."""

    gathering = 0.0

    def blocks(self) -> Iterator[Any]:
        return (Timed(block, self) for block in super().blocks())


class Timed:
    """A block whose statistics are timed."""

    def __init__(self, block: CalibratedBlock, session: TimedSession) -> None:
        self._block = block
        self._session = session

    def statistics(self, names: Collection[str], kinds: Collection[Statistic]) -> Mapping[str, Statistics]:
        since = time.perf_counter()
        found = self._block.statistics(names, kinds)
        self._session.gathering += time.perf_counter() - since
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


def walk(source: Path, windows: int, window: int, blocks: int, threads: int) -> dict[str, Any]:
    """GPTQ with 4 bits and groups of 128 on the first `blocks` blocks, as a job does it."""
    from quantmill.calibration.engine import calibrate
    from quantmill_gptq.algorithm import quantize

    generator, params = np.random.default_rng(0), GptqParams()
    with open_checkpoint(source) as checkpoint, tempfile.TemporaryDirectory() as folder:
        planned = plan(checkpoint.index, params)
        ids = [generator.integers(2, 32000, window) for _ in range(windows)]
        before, start, solving = resident("VmRSS"), time.perf_counter(), 0.0
        carries: dict[str, Path] = {}
        with calibrate(checkpoint, planned, ids, folder=Path(folder), threads=threads, carries=carries) as engine:
            session = TimedSession(checkpoint, planned, threads, calibration=engine)
            tensors = quantize(session, params)
            for unit in [unit for unit in planned.units if unit.block is not None][:blocks]:
                since, elsewhere = time.perf_counter(), sum(engine.seconds.values())
                for _ in unit.tensors:
                    next(tensors)
                solving += time.perf_counter() - since - (sum(engine.seconds.values()) - elsewhere)
                engine.advance()
                print(f"{unit.key}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            tensors.close()
            seconds = {**engine.seconds, "statistics": session.gathering, "solve": solving - session.gathering}
        cost = calibration_cost(checkpoint.index, planned, windows=windows, window=window, threads=threads)
    return {
        "windows": windows,
        "window": window,
        "blocks": blocks,
        "threads": threads,
        "peak_mib": resident("VmHWM") - before,
        "estimate_mib": (cost.memory + planned.peak_memory_bytes) >> 20,
        "seconds": round(time.perf_counter() - start, 1),
        "processor": round(time.process_time(), 1),
        **{phase: round(value, 1) for phase, value in seconds.items()},
    }


def hessian_speed(inputs: int, tokens: int, threads: int) -> float:
    """How fast a Hessian is gathered, beside x.T @ x of all windows in torch with as many threads: 1 is as fast."""
    import torch

    from quantmill.calibration.accumulate import Gathering
    from quantmill.calibration.block import Threads

    windows = [torch.randn(512, inputs) for _ in range(tokens // 512)]
    pool = Threads(threads)

    def ours() -> None:
        gathering = Gathering(inputs, ("hessian",))
        pool.map(lambda work: work(windows), gathering.work)

    def theirs() -> None:
        total = torch.zeros(inputs, inputs)
        for x in windows:
            total += x.T @ x

    torch.set_num_threads(threads)
    pairs = [(_seconds(theirs), _seconds(ours)) for _ in range(5)]
    pool.close()
    return float(np.median([theirs / ours for theirs, ours in pairs]))


def _seconds(work: Any) -> float:
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def rows(result: dict[str, Any]) -> Iterator[str]:
    yield "| " + " | ".join(result) + " |"
    yield "|" + "---|" * len(result)
    yield "| " + " | ".join(map(str, result.values())) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=22)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(walk(synthetic_checkpoint(), asked.windows, asked.window, asked.blocks, asked.threads)))
        return
    print(f"{cpu_model()}, commit {commit()}\n")
    for inputs in (2048, 5632):
        ratio = hessian_speed(inputs, 4096, asked.threads)
        print(f"Hessian of {inputs} inputs: {ratio:.2f} times as fast as x.T @ x in torch, {asked.threads} threads")
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child"], stdout=subprocess.PIPE, check=True)
    print("\n" + "\n".join(rows(json.loads(done.stdout.splitlines()[-1]))))


if __name__ == "__main__":
    main()
