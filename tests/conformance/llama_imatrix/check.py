"""The importance that `imatrix=auto` computes, beside what llama.cpp's own graph feeds to the same matrices.

Each model is written as F32 GGUF and run by llama.cpp on the windows that calibration uses; mean squares are gathered
as llama-imatrix gathers them. No value may be further off than MOST of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.conformance.loading import arguments, versions
from tests.random_models import RANDOM_MODELS

from quantmill.calibration.engine import calibrate
from quantmill.calibration.samples import read_windows
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill.domain.calibration import CalibrationOptions
from quantmill_gguf.plugin import GGUF

CONSUMER = Path(__file__).with_name("consume.py")
DATA = Path(__file__).resolve().parents[2] / "data"
TEXT = DATA / "text" / "calibration.txt"
MOST = 0.01
# Of random models a value far below the others of its matrix is only the arithmetic's own error
LEAST = 1e-6  # of a matrix's mean
SHIPPED = "millstone-4m"
FAMILIES = ("llama", "qwen2", "gemma2", "phi3", "stablelm", "gptneox", "mixtral, 4 experts", "qwen2moe")
WINDOWS = {SHIPPED: CalibrationOptions(str(TEXT), samples=16, window=256)}
OF_RANDOM = CalibrationOptions(str(TEXT), samples=8, window=48)
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class Compared:
    """A model's matrices; `tokens` that both counted for each, `worst` the largest relative difference of a value."""

    model: str
    matrices: int
    values: int
    missing: tuple[str, ...]
    same_tokens: bool
    worst: float
    mean: float

    @property
    def agrees(self) -> bool:
        return not self.missing and self.same_tokens and self.worst <= MOST


def compare_all(python: Path, scratch: Path) -> Iterator[Compared]:
    errand: dict[str, Any] = {"files": []}
    ours: dict[str, dict[tuple[str, int], tuple[int, NDArray[np.float32]]]] = {}
    for position, model in enumerate((SHIPPED, *FAMILIES)):
        folder = scratch / str(position)
        folder.mkdir()
        source = DATA / SHIPPED if model == SHIPPED else RANDOM_MODELS[model].write(folder / "model")
        with open_checkpoint(source) as checkpoint:
            ids = read_windows(checkpoint.index, TEXT, WINDOWS.get(model, OF_RANDOM)).ids
            run = Run(GGUF, GGUF.params(type="F32"), checkpoint)
            file = next(path for path in run.write(run.quantize(), folder / "gguf") if path.suffix == ".gguf")
            plan = GGUF.plan.load()(checkpoint.index, GGUF.params(type="Q4_0", imatrix="auto"))
            with calibrate(checkpoint, plan, list(ids), folder=folder) as engine:
                known = {name: engine.statistics(name) for name in plan.calibration.weights}
        errand["files"].append(str(file))
        errand[f"{position}.windows"] = np.stack(ids)
        ours[model] = {
            (plan.by_name[name].output, _expert(name)): (found.tokens, np.array(found.second_moment))
            for name, found in known.items()
        }
    theirs = consume(python, scratch, errand)
    for position, (model, found) in enumerate(ours.items()):
        yield compared(model, found, {key: theirs[key] for key in theirs if key.startswith(f"{position}.")}, position)


def _expert(name: str) -> int:
    found = _EXPERT.search(name)
    return int(found[1]) if found else 0


def compared(
    model: str, ours: dict[tuple[str, int], tuple[int, NDArray[np.float32]]], theirs: dict[str, Any], position: int
) -> Compared:
    differences, missing, same = [], [], True
    for (tensor, expert), (tokens, means) in ours.items():
        sums, counts = (theirs.get(f"{position}.{tensor}.{kind}") for kind in ("sums", "counts"))
        if sums is None or counts is None:
            missing.append(tensor)
            continue
        same &= bool(counts[expert] == tokens)
        wanted = sums[expert] / max(counts[expert], 1)
        counted = wanted > LEAST * wanted.mean()
        differences.append(np.abs(means[counted] / wanted[counted] - 1))
    every = np.concatenate(differences) if differences else np.ones(1)
    return Compared(model, len(ours), len(every), tuple(missing), same, float(every.max()), float(every.mean()))


def consume(python: Path, scratch: Path, errand: dict[str, Any]) -> dict[str, Any]:
    asked, answer = scratch / "errand.npz", scratch / "answer.npz"
    np.savez(asked, **errand)
    done = subprocess.run([python, CONSUMER, asked, answer], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{CONSUMER} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    with np.load(answer) as found:
        return dict(found)


def report(rows: list[Compared]) -> str:
    lines = [
        "Mean squared inputs of the matrices of all blocks, on the same windows: those that `imatrix=auto` computes "
        "from the source, and those that llama.cpp's graph has in an F32 file, gathered through its evaluation "
        f"callback as llama-imatrix does. No value may be further off than {MOST:.0%}; values below {LEAST:g} of their "
        "matrix's mean are not counted.",
        "",
        "| model | matrices | values | same token counts | mean difference | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        tokens = "yes" if row.same_tokens else "NO"
        far = "" if row.worst <= MOST else " TOO FAR"
        lines.append(
            f"| {row.model} | {row.matrices} | {row.values} | {tokens} | {row.mean:.1e} | {row.worst:.1e}{far} |"
        )
    return "\n".join([*lines, "", *(f"- {row.model}: no {name}" for row in rows for name in row.missing)])


def main() -> None:
    asked = arguments(__doc__)
    rows = list(compare_all(asked.python, asked.scratch))
    print(f"## Importance matrices ({versions(asked.python, ['llama-cpp-python'])})\n\n{report(rows)}\n")
    sys.exit(0 if all(row.agrees for row in rows) else 1)


if __name__ == "__main__":
    main()
