#!/usr/bin/env python3
"""GPTQ against llm-compressor, GPTQModel and rounding to nearest: perplexity and time on the shipped model, from the
same windows.

Ours run as a job runs them: blocks from calibration, `quantize`, codes packed. llm-compressor runs its oneshot with a
GPTQModifier in an environment of its own (kernels/bench/peers/llm_compressor), GPTQModel its quantize in that of its
conformance check, on the same token ids; bits, group size and symmetry are given, all else is each one's default. Each
side's weights, as a reader computes them, then predict the evaluation text in the same transformers model.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/gptq.py [--windows 128] [--evaluated 64] [--bits 4 3] [--by NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from kernels.bench.environments import environment
from transformers import AutoModelForCausalLM

from quantmill.calibration.engine import calibrate
from quantmill.calibration.tokens import tokenize
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import MemorySession
from quantmill.worker.environment import cpu_model
from quantmill_gptq.algorithm import quantize
from quantmill_gptq.params import GptqParams
from quantmill_gptq.planning import plan
from quantmill_gptq.plugin import GPTQ
from quantmill_gptq.solution import nearest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
DATA = REPOSITORY / "tests" / "data"
MODEL = DATA / "millstone-4m"
WINDOW = 512
THREADS = 2

Weights = Mapping[str, np.ndarray]


def windows(text: str, count: int) -> np.ndarray:
    """Token ids int64 (windows, WINDOW) of the beginning of a text."""
    with open_checkpoint(MODEL) as checkpoint:
        ids = tokenize(checkpoint.index, (DATA / "text" / text).read_text()).ids
    count = min(count, len(ids) // WINDOW)
    return np.asarray(ids[: count * WINDOW], np.int64).reshape(count, WINDOW)


def perplexity(weights: Weights, texts: np.ndarray) -> float:
    """Of each token behind those before it in its window, with these weights in the place of the model's."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    parameters = dict(model.named_parameters())
    for name, values in weights.items():
        parameters[name].data = torch.from_numpy(values)
    lost = 0.0
    with torch.inference_mode():
        for batch in torch.from_numpy(texts).split(4):
            log = model(batch).logits[:, :-1].log_softmax(-1)
            lost -= float(log.gather(-1, batch[:, 1:, None]).sum())
    return float(np.exp(lost / (texts.shape[0] * (texts.shape[1] - 1))))


def source() -> Weights:
    with open_checkpoint(MODEL) as checkpoint:
        return {name: checkpoint.tensor(name).values.astype(np.float32) for name in checkpoint.index.tensors}


def rounded(weights: Weights, params: GptqParams) -> Weights:
    """By the range of each group, without calibration."""
    return {
        name: nearest(values, np.arange(values.shape[1]), params, "float16").weights()
        for name, values in weights.items()
        if "_proj." in name
    }


def ours(params: GptqParams, ids: np.ndarray, folder: Path) -> tuple[Weights, float, float]:
    """Weights as our reader has them, and the seconds of clock and processor that `quantize` took."""
    with open_checkpoint(MODEL) as checkpoint:
        planned = plan(checkpoint.index, params)
        before, processor = time.perf_counter(), time.process_time()
        with calibrate(checkpoint, planned, list(ids), folder=folder, threads=THREADS) as calibration:
            session = MemorySession(checkpoint, planned, THREADS, calibration=calibration)
            tensors = list(quantize(session, params))
        took = time.perf_counter() - before, time.process_time() - processor
        artifact = folder / "artifact"
        artifact.mkdir()
        GPTQ.write.load()(iter(tensors), planned, checkpoint.index, params, artifact)
    return {name: values for name, values in GPTQ.weights(artifact) if "_proj." in name}, *took


def llm_compressor(params: GptqParams, ids: np.ndarray, folder: Path) -> tuple[Weights, float, float]:
    """Weights that it computes, and the seconds that its oneshot took; starting and loading are not counted."""
    python = environment("peers", "llm_compressor", REPOSITORY / "kernels/bench/peers/llm_compressor/requirements.txt")
    seconds = run_peer(python, "llm_compressor.py", params, ids, folder, weights=folder / "theirs.npz")
    with np.load(folder / "theirs.npz") as found:
        return {name: found[name] for name in found.files}, *seconds


def gptqmodel(params: GptqParams, ids: np.ndarray, folder: Path) -> tuple[Weights, float, float]:
    """Weights as our reader has them in the folder that it saves, and the seconds that its quantize took."""
    requirements = REPOSITORY / "tests/conformance/gptqmodel/requirements.txt"
    python = environment("conformance", "gptqmodel", requirements)
    seconds = run_peer(python, "gptq_model.py", params, ids, folder, saved=folder / "theirs")
    return {name: values for name, values in GPTQ.weights(folder / "theirs") if "_proj." in name}, *seconds


def run_peer(
    python: Path, script: str, params: GptqParams, ids: np.ndarray, folder: Path, **where: Path
) -> tuple[float, float]:
    """Seconds of clock and processor."""
    np.save(folder / "ids.npy", ids)
    errand = {"model": str(MODEL), "ids": str(folder / "ids.npy"), **{name: str(path) for name, path in where.items()}}
    errand |= {"bits": params.bits, "group_size": params.group_size, "threads": THREADS}
    command = [str(python), str(HERE / "gptq_peers" / script), json.dumps(errand)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": str(THREADS)}
    environ = {**os.environ, **offline}
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    took = json.loads(done.stdout.splitlines()[-1])
    return took["seconds"], took["processor_seconds"]


SIDES = {"quantmill": ours, "llm-compressor 0.14.0.1": llm_compressor, "GPTQModel 7.7.0": gptqmodel}


def rows(bits: int, by: Sequence[str], ids: np.ndarray, texts: np.ndarray) -> Iterator[str]:
    params = GptqParams(bits=bits)
    yield f"| {bits} bits g128 | rounded to nearest | {perplexity(rounded(source(), params), texts):.3f} | | |"
    for name in by:
        with tempfile.TemporaryDirectory(prefix="gptq-") as folder:
            weights, seconds, processor = SIDES[name](params, ids, Path(folder))
        yield f"| {bits} bits g128 | {name} | {perplexity(weights, texts):.3f} | {seconds:.1f} | {processor:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=128, help="of calibration text, 512 tokens each")
    parser.add_argument("--evaluated", type=int, default=64, help="windows of evaluation text")
    parser.add_argument("--bits", type=int, nargs="*", default=[4, 3])
    parser.add_argument("--by", nargs="*", default=list(SIDES), choices=SIDES)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    ids, texts = windows("calibration.txt", asked.windows), windows("evaluation.txt", asked.evaluated)
    print(f"{cpu_model()}, {THREADS} threads; {len(ids)} windows of {WINDOW}, {len(texts)} evaluated", flush=True)
    print("| setting | by | perplexity | seconds | processor seconds |\n|---|---|---|---|---|")
    print(f"| source | | {perplexity({}, texts):.3f} | | |", flush=True)
    for bits in asked.bits:
        for row in rows(bits, asked.by, ids, texts):
            print(row, flush=True)
    print(f"Peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
