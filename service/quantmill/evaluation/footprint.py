"""What an artifact costs to run: the memory that it will need, by the matcher's rules, and what a runtime takes on
this machine, measured in a process of its own. What cannot be measured here is left out with the reason, never guessed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.contract.tensors import ModelIndex
from quantmill.domain.artifacts import Metric
from quantmill.evaluation import timed
from quantmill.evaluation.continuation import MEMORY_SHARE, LeftOut
from quantmill.evaluation.intervals import Bootstrap
from quantmill.hardware.memory import Load, gigabytes, memory_of
from quantmill.hardware.models import Weights, shape_of
from quantmill.hardware.probes import free_memory
from quantmill.hardware.recommend import default_context
from quantmill.hardware.runtimes import RUNTIMES

PROMPT_TOKENS = 128
CHUNKS, CHUNK_TOKENS = 5, 32  # 160 tokens are written; the interval is over the chunks
MOST_SECONDS = 30  # of writing: a slow machine writes fewer chunks, at least two
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Timed:
    """How an artifact ran in a runtime on this machine.

    chunk_seconds  for CHUNK_TOKENS tokens each, written one after the other
    peak_memory    bytes of the process, where the system tells
    """

    runtime: str
    version: str
    threads: int
    prompt_tokens: int
    load_seconds: float
    prompt_seconds: float
    chunk_seconds: tuple[float, ...]
    peak_memory: int | None

    def metrics(self) -> Iterator[Metric]:
        """load_seconds, prompt_speed, generation_speed (interval over the chunks), measured_memory"""
        where = f"in {self.runtime}"
        seconds = np.array(self.chunk_seconds)[:, None]
        tokens = np.full_like(seconds, CHUNK_TOKENS)
        low, high = Bootstrap.over(len(seconds)).of_ratio(tokens, seconds) or (None, None)
        speed, n = float(tokens.sum() / seconds.sum()), int(tokens.sum())
        yield Metric("load_seconds", self.load_seconds, f"s {where}", n=1, higher_is_better=False)
        yield Metric(
            "prompt_speed",
            self.prompt_tokens / self.prompt_seconds,
            f"token/s {where}",
            n=self.prompt_tokens,
            higher_is_better=True,
        )
        yield Metric(
            "generation_speed", speed, f"token/s {where}", n=n, higher_is_better=True, ci_low=low, ci_high=high
        )
        if self.peak_memory is not None:
            yield Metric("measured_memory", self.peak_memory, f"byte {where}", n=1, higher_is_better=False)


def predicted_memory(
    index: ModelIndex, nbytes: int, runtimes: Sequence[str], context: int | None = None, subject: str = "artifact"
) -> Metric:
    """Weights of `nbytes`, KV cache (16 bits a value) and activations for one sequence of `context` tokens.

    By the matcher's rules for the first of `runtimes` that it knows; without a GPU runtime's own share. `context` is
    by default as much as the model was made for, up to 8192.
    """
    shape = shape_of(index.config, index)
    tokens = context or default_context(shape)
    known = (RUNTIMES.get(name.lower()) for name in runtimes)
    runtime = next((each for each in known if each is not None), RUNTIMES["transformers"])
    weights = Weights(nbytes, 0, 1.0, exact=True)
    memory = memory_of(shape, weights, runtime, Load(tokens), unpacked=False)
    return Metric(
        "predicted_memory",
        memory.total - memory.overhead,
        f"byte at {tokens} tokens" + (", without KV cache" if memory.kv is None else ""),
        subject,
        higher_is_better=False,
    )


def time_artifact(
    folder: Path,
    runtimes: Sequence[str],
    prompt: Sequence[int],
    *,
    nbytes: int,
    threads: int = 1,
    memory_bytes: int | None = None,
    python: Path | None = None,
) -> Timed | LeftOut:
    """Load the artifact in the first of `runtimes` that can be timed, read a prompt, write 160 tokens.

    `nbytes` are those of its weights: it is left out when they would take more than `memory_bytes`, by default half
    of what is free. `python` is the interpreter that has the runtime, by default this one.
    """
    name = next((each for each in runtimes if each in timed.RUNTIMES), None)
    if name is None:
        return LeftOut("speed", f"nothing here times {' or '.join(runtimes) or 'it'}")
    allowed = int(MEMORY_SHARE * free_memory()) if memory_bytes is None else memory_bytes
    if nbytes > allowed:
        return LeftOut("speed", f"its weights take {gigabytes(nbytes)}, and {gigabytes(allowed)} may be taken")
    errand = {
        "runtime": name,
        "folder": str(folder),
        "prompt": [int(token) for token in prompt[:PROMPT_TOKENS]],
        "chunks": CHUNKS,
        "chunk_tokens": CHUNK_TOKENS,
        "most_seconds": MOST_SECONDS,
        "threads": threads,
    }
    ended = ""
    for careful in (False, True):
        answer, ended = _run(python or Path(sys.executable), {**errand, "careful": careful})
        if "load_seconds" in answer:
            return _timed(errand, answer)
        if answer:
            missing = answer.get("missing")
            return LeftOut("speed", f"{missing} is not installed here" if missing else f"{name}: {answer['failed']}")
    return LeftOut("speed", f"{name} {ended}")


def _timed(errand: dict[str, Any], answer: dict[str, Any]) -> Timed:
    return Timed(
        runtime=errand["runtime"],
        version=answer["version"],
        threads=errand["threads"],
        prompt_tokens=len(errand["prompt"]),
        load_seconds=answer["load_seconds"],
        prompt_seconds=answer["prompt_seconds"],
        chunk_seconds=tuple(answer["chunk_seconds"]),
        peak_memory=answer["peak_memory_bytes"],
    )


def _run(python: Path, errand: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The child's answer, or nothing and how it ended: a runtime may take its process down."""
    with tempfile.TemporaryDirectory(prefix="timed-") as scratch:
        asked, answered = Path(scratch) / "errand.json", Path(scratch) / "answer.json"
        asked.write_text(json.dumps(errand))
        command = [str(each) for each in (python, timed.__file__, asked, answered)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return {}, f"took longer than {TIMEOUT_SECONDS} seconds"
        if answered.exists():
            answer: dict[str, Any] = json.loads(answered.read_text())
            return answer, ""
        if done.returncode < 0:
            return {}, f"was ended by {signal.Signals(-done.returncode).name}"
        return {}, f"ended with {done.returncode}"
