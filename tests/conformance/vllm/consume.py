"""Runs in vLLM's environment: vLLM's CPU build loads folders, in bfloat16, and says what they predict and write.

    python consume.py ERRAND.npz ANSWER.npz

The errand and the answer are those of ../transformers_consumer.py; the logits are logarithms of probabilities, which is
what vLLM gives out, and what follows the last token of a window has none (zeros). The folders are loaded one after the
other in a second process; when that dies, the folder it was at is noted and another process goes on.
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
    errand, answer_path = Path(sys.argv[1]), sys.argv[2]
    folders = [str(each) for each in np.load(errand)["folders"]]
    answer: dict[str, Any] = {}
    errors: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        while remaining := [each for each in folders if not made_from(scratch, each).exists()]:
            command = [sys.executable, __file__, errand, scratch, *remaining]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
            dead = next((each for each in remaining if not made_from(scratch, each).exists()), None)
            if dead:
                last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
                np.savez(made_from(scratch, dead), error=f"its process ended with {done.returncode}: {last[:300]}")
        for folder in folders:
            name = Path(folder).name
            with np.load(made_from(scratch, folder)) as made:
                if "error" in made:
                    errors[name] = str(made["error"])
                else:
                    answer |= {f"{name}.logits": made["logits"], f"{name}.written": made["written"]}
    np.savez(answer_path, errors=json.dumps(errors), **answer)


def made_from(scratch: str, folder: str) -> Path:
    return Path(scratch) / f"{Path(folder).name}.npz"


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }


def load_all(errand_path: str, scratch: str, folders: list[str]) -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    errand = np.load(errand_path)
    for folder in folders:
        try:
            made = outputs(folder, errand["texts"], errand["prompts"], int(errand["length"]))
        except Exception as error:  # any: it is what the report says of this folder
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["without a word"]
            made = {"error": f"{type(error).__name__}: {' '.join(lines)[:300]}"}
        np.savez(made_from(scratch, folder), **made)
        cleanup_dist_env_and_memory()


def outputs(folder: str, texts: Any, prompts: Any, length: int) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    vocabulary = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
    llm = LLM(
        folder,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=256,
        max_logprobs=vocabulary,
        kv_cache_memory_bytes=MEMORY_BYTES,
    )
    every = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=vocabulary, detokenize=False, flat_logprobs=True
    )
    scored = llm.generate([{"prompt_token_ids": each.tolist()} for each in texts], every, use_tqdm=False)
    logits = np.zeros((*texts.shape, vocabulary), np.float32)  # [w, t] predicts token t + 1
    for window, output in enumerate(scored):
        flat = output.prompt_logprobs
        for token in range(1, texts.shape[1]):
            at = slice(flat.start_indices[token], flat.end_indices[token])
            logits[window, token - 1, flat.token_ids[at]] = flat.logprobs[at]
    greedy = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, detokenize=False)
    continued = llm.generate([{"prompt_token_ids": each.tolist()} for each in prompts], greedy, use_tqdm=False)
    return {"logits": logits, "written": np.array([each.outputs[0].token_ids for each in continued], np.int64)}


if __name__ == "__main__":
    if len(sys.argv) > 3:
        load_all(sys.argv[1], sys.argv[2], sys.argv[3:])
    else:
        main()
