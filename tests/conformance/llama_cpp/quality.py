"""How well our GGUF files predict beside llama.cpp's own of the same type and size, with and without importance.

    PYTHONPATH=. .venv/bin/python tests/conformance/llama_cpp/quality.py --write

makes the table in the plugin's README. Both files of a type are made from the same F32 file's weights and the same
importance matrix, and both are evaluated by llama.cpp on the same windows: perplexity, and KL divergence from the F32
file in nats per token. Ours must not be worse by more than MOST_WORSE.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernels.bench.environments import environment
from tests.conformance.llama_cpp.check import DATA, consume, export, task

from quantmill.calibration.engine import calibrate
from quantmill.calibration.samples import read_windows
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.domain.calibration import CalibrationOptions
from quantmill_gguf.families import describe
from quantmill_gguf.imatrix import Entry, ImportanceMatrix, read_imatrix, write_imatrix
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
README = REPOSITORY / "plugins" / "quantmill_gguf" / "README.md"
MODEL = DATA / "millstone-4m"

TYPES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
WINDOW, WINDOWS = 512, 8
CALIBRATED_WINDOWS = 64
MOST_WORSE = 1.02  # of divergences; eight windows tell their ratio to about 1 %, on 32 none is above 1.001


@dataclass(frozen=True)
class Quality:
    """A file as llama.cpp sees it. `nbytes` counts its tensors."""

    label: str
    weighted: bool
    nbytes: int
    perplexity: float
    divergence: float


def importance_file(checkpoint: Checkpoint, scratch: Path) -> Path:
    """The importance matrix that `imatrix=auto` computes of the calibration text, as a file of llama-imatrix."""
    text = CalibrationOptions(str(DATA / "text" / "calibration.txt"), samples=CALIBRATED_WINDOWS)
    ids = read_windows(checkpoint.index, Path(text.text), text).ids
    planned = plan(checkpoint.index, GgufParams(type="Q4_K_M", imatrix="auto"))
    assert planned.calibration is not None
    outputs = {tensor.name: tensor.output for tensor in describe(checkpoint.index).tensors()}
    entries = {}
    (scratch / "calibration").mkdir()
    with calibrate(checkpoint, planned, ids, folder=scratch / "calibration", threads=2, carries={}) as engine:
        engine.know()
        for name in planned.calibration.weights:
            found = engine.statistics(name)
            assert found.second_moment is not None
            sums = found.second_moment * np.float32(found.tokens)
            entries[outputs[name]] = Entry(sums, np.array([found.tokens], np.float32))
    return write_imatrix(scratch / "imatrix.gguf", ImportanceMatrix(entries, chunks=len(ids), chunk_size=WINDOW))


def importance_arrays(imatrix: Path) -> Path:
    """The same for llama_model_quantize: mean squares by tensor."""
    path = imatrix.with_suffix(".npz")
    found = read_imatrix(imatrix).entries
    np.savez(path, **{name: entry.sums / entry.counts for name, entry in found.items()})
    return path


def evaluate(python: Path, scratch: Path, source: Path, files: Sequence[Path]) -> Mapping[str, Any]:
    """Perplexity and divergence of each file, and the source's own perplexity, by path."""
    text = (DATA / "text" / "evaluation.txt").read_text()
    errand = {"source": str(source), "files": [str(path) for path in files], "text": text}
    return consume(python, scratch, diverge=[{**errand, "window": WINDOW, "windows": WINDOWS}])


def compare_all(python: Path, scratch: Path) -> Iterator[tuple[Quality, Quality]]:
    """Ours and llama.cpp's of each type, first without importance, then with."""
    with open_checkpoint(MODEL) as checkpoint:
        source = export(checkpoint, {"type": "F32"}, scratch / "source")
        imatrix = importance_file(checkpoint, scratch)
        arrays = importance_arrays(imatrix)
        pairs: dict[tuple[str, bool], tuple[Path, Path, int]] = {}
        for weighted in (False, True):
            for type_ in TYPES:
                params = {"type": type_, "imatrix": str(imatrix) if weighted else "none"}
                ours = export(checkpoint, params, scratch / f"{type_}-{weighted}")
                theirs = scratch / f"llama.cpp-{type_}-{weighted}.gguf"
                asked = task(source, theirs, type=type_) | {"imatrix": str(arrays) if weighted else None}
                consume(python, scratch, quantize=[asked])
                nbytes = plan(checkpoint.index, GgufParams.model_validate(params)).nbytes
                pairs[type_, weighted] = ours, theirs, nbytes
    seen = evaluate(python, scratch, source, [path for ours, theirs, _ in pairs.values() for path in (ours, theirs)])
    for (type_, weighted), (*paths, nbytes) in pairs.items():
        mine, other = (
            Quality(type_, weighted, nbytes, seen[str(path)]["perplexity"], seen[str(path)]["divergence"])
            for path in paths
        )
        yield mine, other


def agrees(mine: Quality, other: Quality) -> bool:
    return mine.divergence <= MOST_WORSE * other.divergence


def report(version: str, rows: Sequence[tuple[Quality, Quality]]) -> str:
    return "\n".join(
        [
            f"millstone-4m, {WINDOWS} windows of {WINDOW} tokens of `tests/data/text/evaluation.txt`, both files of a "
            f"type evaluated by llama.cpp (llama-cpp-python {version}). Divergence is KL from the F32 file in nats per "
            f"token. The importance matrix is `imatrix=auto`'s of {CALIBRATED_WINDOWS} windows of "
            "`tests/data/text/calibration.txt`. Written by `tests/conformance/llama_cpp/quality.py --write`.",
            "",
            "| type | imatrix | bytes of tensors | perplexity | llama.cpp's | divergence | llama.cpp's | ratio |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {mine.label} | {'yes' if mine.weighted else 'no'} | {mine.nbytes:,} | {mine.perplexity:.4f} "
                f"| {other.perplexity:.4f} | {mine.divergence:.5f} | {other.divergence:.5f} "
                f"| {mine.divergence / other.divergence:.3f} |"
                for mine, other in rows
            ),
        ]
    )


def write(text: str, mark: str) -> None:
    """Put `text` between the marks of that name in the plugin's README."""
    before, _, rest = README.read_text().partition(f"<!-- {mark} -->")
    _, _, after = rest.partition(f"<!-- /{mark} -->")
    README.write_text(f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}")


def installed() -> tuple[Path, str]:
    """The Python of llama.cpp's environment, and the version of llama-cpp-python there."""
    requirements = HERE / "requirements.txt"
    version = next(line.split("==")[1] for line in requirements.read_text().split() if "==" in line)
    return environment("conformance", "llama_cpp", requirements), version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="the README's table")
    arguments = parser.parse_args()
    python, version = installed()
    with tempfile.TemporaryDirectory(prefix="quality-") as scratch:
        rows = list(compare_all(python, Path(scratch)))
    text = report(version, rows)
    print(text)
    if arguments.write:
        write(text, "quality")
    sys.exit(0 if all(agrees(mine, other) for mine, other in rows) else 1)


if __name__ == "__main__":
    main()
