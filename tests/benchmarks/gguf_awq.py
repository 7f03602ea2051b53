#!/usr/bin/env python3
"""GGUF files with AWQ's scales and without, with an importance matrix and without: perplexity and divergence from the
source on the shipped model, of the weights as our reader has them.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/gguf_awq.py [--windows 64] [--evaluated 32] [--types Q4_0 ...]
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
from gptq import MODEL, THREADS, windows

from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import MemorySession
from quantmill.worker.environment import cpu_model
from quantmill_gguf.algorithm import quantize
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan
from quantmill_gguf.plugin import GGUF

TYPES = ("Q4_0", "Q4_K_M", "IQ4_XS", "Q3_K_M")


def made(params: GgufParams, ids: np.ndarray, folder: Path) -> tuple[Mapping[str, np.ndarray], float]:
    """Weights and norms as our reader has them, and processor seconds without those of calibration."""
    with open_checkpoint(MODEL) as checkpoint:
        planned = plan(checkpoint.index, params)
        if planned.calibration is None:
            session, began = MemorySession(checkpoint, planned, THREADS), time.process_time()
            tensors = list(quantize(session, params))
            took = time.process_time() - began
        else:
            with calibrate(checkpoint, planned, list(ids), folder=folder, threads=THREADS) as calibration:
                calibration.know()
                session = MemorySession(checkpoint, planned, THREADS, calibration=calibration)
                began = time.process_time()
                tensors = list(quantize(session, params))
                took = time.process_time() - began
        artifact = folder / "artifact"
        artifact.mkdir()
        GGUF.write.load()(iter(tensors), planned, checkpoint.index, params, artifact)
        return dict(GGUF.weights(artifact)), took


@torch.inference_mode()
def predicted(weights: Mapping[str, np.ndarray], texts: np.ndarray) -> torch.Tensor:
    """Log probabilities (windows, window - 1, vocabulary)."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    parameters = dict(model.named_parameters())
    for name, values in weights.items():
        parameters[name].data = torch.from_numpy(np.array(values))
    return torch.cat([model(batch).logits[:, :-1].log_softmax(-1) for batch in torch.from_numpy(texts).split(4)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=64, help="of calibration text, 512 tokens each")
    parser.add_argument("--evaluated", type=int, default=32, help="windows of evaluation text")
    parser.add_argument("--types", nargs="*", default=TYPES)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    ids, texts = windows("calibration.txt", asked.windows), windows("evaluation.txt", asked.evaluated)
    expected, following = predicted({}, texts), torch.from_numpy(texts)[:, 1:, None]
    perplexity = float(torch.exp(-expected.gather(-1, following).mean()))
    print(f"{cpu_model()}; {len(ids)} windows, {len(texts)} evaluated; source {perplexity:.3f}", flush=True)
    print("| type | imatrix | awq | perplexity | divergence | processor seconds |\n|---|---|---|---|---|---|")
    for type_ in asked.types:
        for imatrix in ("none", "auto"):
            for awq in (False, True):
                params = GgufParams(type=type_, imatrix=imatrix, awq=awq)
                with tempfile.TemporaryDirectory(prefix="gguf-") as folder:
                    weights, seconds = made(params, ids, Path(folder))
                found = predicted(weights, texts)
                perplexity = float(torch.exp(-found.gather(-1, following).mean()))
                divergence = float((expected.exp() * (expected - found)).sum(-1).mean())
                said = f"{perplexity:.3f} | {divergence:.5f} | {seconds:.2f}"
                print(f"| {type_} | {imatrix} | {'yes' if awq else 'no'} | {said} |", flush=True)


if __name__ == "__main__":
    main()
