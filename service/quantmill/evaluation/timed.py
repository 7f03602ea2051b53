"""Loads an artifact in the program that users load it with, and times it. A process of its own, and a file of its own:

    python timed.py ERRAND.json ANSWER.json

It imports nothing of quantmill, so that any Python that has the runtime can run it. The errand: `runtime`, `folder`,
`prompt` (token ids), `chunks` and `chunk_tokens` (what is written after it, fewer chunks when `most_seconds` have
passed), `threads`, `careful`. The answer: seconds
to load, to read the prompt, and for each chunk; the runtime's version; this process' peak memory.

It ends with NOT_INSTALLED where the runtime is missing, and the name of what is missing in `missing`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

NOT_INSTALLED = 3

Errand = dict[str, Any]
Ids = list[int]
Step = Callable[[Ids], Ids]  # reads tokens, gives the most likely next one


def load_llama_cpp(errand: Errand) -> tuple[Step, str]:
    """llama.cpp through llama-cpp-python. `careful`: weights stay as they are in the file, for processors that
    announce AMX to processes that may not use it."""
    import llama_cpp

    if errand["careful"]:
        default = llama_cpp.llama_cpp.llama_model_default_params

        def careful() -> Any:
            params = default()
            params.use_extra_bufts = False
            return params

        llama_cpp.llama_cpp.llama_model_default_params = careful
    (file,) = Path(errand["folder"]).glob("*.gguf")
    tokens = len(errand["prompt"]) + errand["chunks"] * errand["chunk_tokens"]
    model: Any = llama_cpp.Llama(
        str(file), n_ctx=tokens + 1, n_threads=errand["threads"], n_threads_batch=errand["threads"], verbose=False
    )

    def step(ids: Ids) -> Ids:
        model.eval(ids)
        return [model.sample(temp=0.0)]

    return step, f"llama-cpp-python {version('llama-cpp-python')}"


def load_transformers(errand: Errand) -> tuple[Step, str]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(errand["threads"])
    torch.set_grad_enabled(False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        errand["folder"], dtype="auto", trust_remote_code=False, local_files_only=True
    )
    model.eval()
    kept = None

    def step(ids: Ids) -> Ids:
        nonlocal kept
        made = model(torch.tensor([ids]), past_key_values=kept, use_cache=True, logits_to_keep=1)
        kept = made.past_key_values
        return [int(made.logits[0, -1].argmax())]

    return step, f"transformers {version('transformers')}"


RUNTIMES: dict[str, Callable[[Errand], tuple[Step, str]]] = {
    "llama.cpp": load_llama_cpp,
    "transformers": load_transformers,
}


def timed(errand: Errand) -> dict[str, Any]:
    start = time.perf_counter()
    step, version_ = RUNTIMES[errand["runtime"]](errand)
    loaded = time.perf_counter()
    ids = step(errand["prompt"])
    read = time.perf_counter()
    chunks = []
    for _ in range(errand["chunks"]):
        began = time.perf_counter()
        for _ in range(errand["chunk_tokens"]):
            ids = step(ids)
        chunks.append(time.perf_counter() - began)
        if len(chunks) > 1 and time.perf_counter() - loaded > errand["most_seconds"]:
            break
    return {
        "version": version_,
        "load_seconds": loaded - start,
        "prompt_seconds": read - loaded,
        "chunk_seconds": chunks,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def peak_memory_bytes() -> int | None:
    """The largest resident set of this process: from VmHWM, because ru_maxrss counts what its parent held."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def main() -> int:
    asked, answered = sys.argv[1:]
    try:
        answer = timed(json.loads(Path(asked).read_text()))
    except ImportError as error:
        Path(answered).write_text(json.dumps({"missing": error.name or str(error)}))
        return NOT_INSTALLED
    except Exception as error:
        Path(answered).write_text(json.dumps({"failed": f"{type(error).__name__}: {error}"[:500]}))
        return 1
    Path(answered).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
