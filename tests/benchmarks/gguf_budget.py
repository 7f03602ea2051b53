#!/usr/bin/env python3
"""Types chosen to fit a size beside llama-quantize's fixed mixes of the same size, both evaluated by llama.cpp.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/gguf_budget.py [--write] [--time]

For each mix on the shipped model, with and without an importance matrix, a budget of the mix's bytes: perplexity, KL
divergence from the F32 file in nats per token, and what was predicted. Sizes between mixes stand beside the largest
mix that is not larger. `--roles` measures instead what the table of sensitivities in quantmill_gguf/sensitivity.py is
made of: divergence by relative squared error, one role at a time. `--time` measures settling on a synthetic model of
1.1 billion parameters. It reports and does not assert; `--write` puts the table into the plugin's README.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.peak_memory import synthetic_checkpoint
from tests.conformance.llama_cpp.check import export
from tests.conformance.llama_cpp.quality import (
    CALIBRATED_WINDOWS,
    MODEL,
    TYPES,
    WINDOW,
    WINDOWS,
    evaluate,
    importance_file,
    installed,
    write,
)

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.testing import Run
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.sensitivity import SENSITIVITY

BETWEEN = (2.8, 3.2, 3.6, 4.0, 4.5, 5.0, 5.5, 6.0)  # bits per weight
ROLE_TYPES = ("Q2_K", "Q3_K", "Q4_K")


@dataclass(frozen=True)
class Made:
    """A file and what it was made for."""

    label: str
    weighted: bool
    path: Path
    nbytes: int
    predicted: float | None


def make(checkpoint: Checkpoint, label: str, params: dict[str, Any], folder: Path, *, weighted: bool) -> Made:
    planned = Run(GGUF, GGUF.params(**params), checkpoint).plan
    return Made(label, weighted, export(checkpoint, params, folder), planned.nbytes, planned.predicted_loss)


def make_all(checkpoint: Checkpoint, imatrix: Path, scratch: Path) -> Iterator[Made]:
    for weighted in (False, True):
        given = {"imatrix": str(imatrix)} if weighted else {}
        for type_ in TYPES:
            mix = make(checkpoint, type_, {"type": type_} | given, scratch / f"{type_}-{weighted}", weighted=weighted)
            values = sum(tensor.values for tensor in checkpoint.index.tensors.values())
            same = {"target_bpw": 8 * mix.nbytes / values} | given
            yield mix
            yield make(checkpoint, f"as {type_}", same, scratch / f"as-{type_}-{weighted}", weighted=weighted)
        for bpw in BETWEEN:
            between = {"target_bpw": bpw} | given
            yield make(checkpoint, f"{bpw} bpw", between, scratch / f"{bpw}-{weighted}", weighted=weighted)


def report(version: str, made: Sequence[Made], seen: dict[str, Any]) -> str:
    lines = [
        f"millstone-4m, {WINDOWS} windows of {WINDOW} tokens of `tests/data/text/evaluation.txt`, evaluated by "
        f"llama.cpp (llama-cpp-python {version}); divergence is KL from the F32 file, nats per token. The importance "
        f"matrix is `imatrix=auto`'s of {CALIBRATED_WINDOWS} windows of `tests/data/text/calibration.txt`. Each budget "
        "stands beside the mix whose bytes it was given, or the largest that is not larger. Written by "
        "`tests/benchmarks/gguf_budget.py --write`.",
        "",
        "| imatrix | budget, bytes | predicted | divergence | perplexity | mix | bytes | divergence | perplexity |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for weighted in (False, True):
        mixes = sorted((each for each in made if each.predicted is None and each.weighted == weighted), key=_nbytes)
        budgets = sorted(
            (each for each in made if each.predicted is not None and each.weighted == weighted), key=_nbytes
        )
        for budget in budgets:
            wanted = budget.label.removeprefix("as ")
            not_larger = [mix for mix in mixes if mix.label == wanted or mix.nbytes <= budget.nbytes]
            mix = next((mix for mix in mixes if mix.label == wanted), not_larger[-1] if not_larger else None)
            cells = [f"{mix.label} | {mix.nbytes:,} | {_figures(seen, mix)}"] if mix else ["- | - | - | -"]
            lines.append(
                f"| {'yes' if weighted else 'no'} | {budget.nbytes:,} | {budget.predicted:.5f} "
                f"| {_figures(seen, budget)} | {cells[0]} |"
            )
    return "\n".join(lines)


def _nbytes(made: Made) -> int:
    return made.nbytes


def _figures(seen: dict[str, Any], made: Made) -> str:
    found = seen[str(made.path)]
    return f"{found['divergence']:.5f} | {found['perplexity']:.4f}"


def roles(checkpoint: Checkpoint, python: Path, scratch: Path) -> str:
    """Divergence over relative squared error where only the matrices of one role, in all blocks, are quantized."""
    source = export(checkpoint, {"type": "F32"}, scratch / "source")
    made: dict[tuple[str, str], tuple[Path, float]] = {}
    for role in ("token_embd", *(role for role in SENSITIVITY if role != "token_embd")):
        pattern = "token_embd.weight" if role == "token_embd" else f"blk.*.{role}.weight"
        for type_ in ROLE_TYPES if _has(checkpoint, role) else ():
            params = {"type": "F32", "overrides": {pattern: type_}}
            run = Run(GGUF, GGUF.params(**params), checkpoint)
            folder = scratch / f"{role}-{type_}"
            path = export(checkpoint, params, folder)
            quantized = {row.name for row in run.plan.tensors if row.action == "quantize"}
            errors = run.relative_errors(folder)
            made[role, type_] = path, sum(errors[name] ** 2 for name in quantized)
    seen = evaluate(python, scratch, source, [path for path, _ in made.values()])
    lines = ["| role | " + " | ".join(f"{type_}" for type_ in ROLE_TYPES) + " |", "|---" * (len(ROLE_TYPES) + 1) + "|"]
    for role in dict.fromkeys(role for role, _ in made):
        found = (seen[str(made[role, type_][0])]["divergence"] / made[role, type_][1] for type_ in ROLE_TYPES)
        lines.append(f"| {role} | " + " | ".join(f"{ratio:.4f}" for ratio in found) + " |")
    return "\n".join(lines)


def _has(checkpoint: Checkpoint, role: str) -> bool:
    outputs = (row.output for row in Run(GGUF, GGUF.params(type="F32"), checkpoint).plan.tensors)
    return any(output.removesuffix(".weight").split(".")[-1] == role for output in outputs)


def timed(threads: int = 2) -> str:
    """Seconds that settling takes on the synthetic model, whose files have been read before."""
    with open_checkpoint(synthetic_checkpoint()) as checkpoint:
        run = Run(GGUF, GGUF.params(target_bpw=4.5), checkpoint)
        began, used = time.monotonic(), time.process_time()
        settled = run.settled(threads)
        seconds, cpu = time.monotonic() - began, time.process_time() - used
    return f"{settled.bits_per_weight:.3f} bits per weight settled in {seconds:.1f} s, {cpu:.1f} s of processor time"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="the README's table")
    parser.add_argument("--roles", action="store_true")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    if arguments.time:
        print(timed())
        return
    python, version = installed()
    with tempfile.TemporaryDirectory(prefix="budget-") as folder, open_checkpoint(MODEL) as checkpoint:
        scratch = Path(folder)
        if arguments.roles:
            print(roles(checkpoint, python, scratch))
            return
        made = list(make_all(checkpoint, importance_file(checkpoint, scratch), scratch))
        source = export(checkpoint, {"type": "F32"}, scratch / "source")
        text = report(version, made, dict(evaluate(python, scratch, source, [each.path for each in made])))
    print(text)
    if arguments.write:
        write(text, "budget")


if __name__ == "__main__":
    main()
