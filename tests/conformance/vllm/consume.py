"""Runs in vLLM's environment: vLLM's CPU build loads folders, in bfloat16, and says what they predict and write.

    python consume.py ERRAND.npz ANSWER.npz

The errand and the answer are those of ../transformers_consumer.py; the logits are logarithms of probabilities, which is
what vLLM gives out, and the first token of a window has none (zeros). Each folder has a process of its own: an engine
that failed leaves its memory behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

MEMORY_BYTES = 64 << 20  # of keys and values


def main() -> None:
    errand_path, answer_path = sys.argv[1:3]
    errand = np.load(errand_path)
    answer: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for folder in map(str, errand["folders"]):
        name = Path(folder).name
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "made.npz"
            command = [sys.executable, __file__, errand_path, str(made), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
            if made.exists():
                with np.load(made) as found:
                    answer |= {f"{name}.logits": found["logits"], f"{name}.written": found["written"]}
            else:
                errors[name] = error_in(done.stdout + done.stderr)
    np.savez(answer_path, errors=json.dumps(errors), **answer)


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }


def error_in(output: str) -> str:
    """The last line that names an exception."""
    lines = [line.strip() for line in output.splitlines() if "Error" in line.split(":")[0] and ":" in line]
    return (lines or output.strip().splitlines() or ["it ended without a word"])[-1][:300]


def load(errand_path: str, made: str, folder: str) -> None:
    from vllm import LLM, SamplingParams

    errand = np.load(errand_path)
    texts, prompts, length = errand["texts"], errand["prompts"], int(errand["length"])
    vocabulary = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
    llm = LLM(
        folder,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=256,
        max_logprobs=vocabulary,
        kv_cache_memory_bytes=MEMORY_BYTES,
    )
    every = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=vocabulary)
    scored = llm.generate([{"prompt_token_ids": each.tolist()} for each in texts], every, use_tqdm=False)
    logits = np.zeros((*texts.shape, vocabulary), np.float32)  # [w, t] predicts token t + 1
    for window, output in enumerate(scored):
        for token, found in enumerate(output.prompt_logprobs[1:]):
            for entry, logprob in found.items():
                logits[window, token, entry] = logprob.logprob
    greedy = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
    continued = llm.generate([{"prompt_token_ids": each.tolist()} for each in prompts], greedy, use_tqdm=False)
    np.savez(made, logits=logits, written=np.array([each.outputs[0].token_ids for each in continued], np.int64))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        load(*sys.argv[1:])
    else:
        main()
