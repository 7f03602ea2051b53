"""GGUF files made from GGUF files, by us and by llama.cpp's own quantizer.

    PYTHONPATH=. .venv/bin/python tests/conformance/llama_cpp/requantizing.py --write

makes the table in the plugin's README and tests/data/golden/gguf/requantized.json, which `make test` holds our types
and errors to. Each source is a file of millstone-4m in one type; every tensor of ours must have the type that llama.cpp
gives it, be no further from the source, and every key must be what llama.cpp copies. Both files are evaluated by
llama.cpp: KL divergence from the source, nats per token.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tests.conformance.llama_cpp.check import DATA, MOST_WORSE, Compared, compare, consume, export, task
from tests.conformance.llama_cpp.mixes import by_role
from tests.conformance.llama_cpp.quality import MODEL, WINDOW, installed, write

from quantmill.checkpoints import open_checkpoint

GOLDEN = DATA / "golden" / "gguf" / "requantized.json"
SOURCES = ("F16", "Q8_0", "Q4_K_M")
TARGETS = ("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_0", "Q8_0")
WINDOWS = 4
MOST_DIVERGENCE = 1.05  # ours over llama.cpp's: four windows tell their ratio to some percent

# Keys that are each side's own
OURS = ("quantmill.source.format", "quantmill.source.digest")


@dataclass(frozen=True)
class Pair:
    """Both files of one type made from one source."""

    source: str
    target: str
    compared: Compared
    keys: tuple[str, ...]  # that differ
    errors: Mapping[str, float]  # llama.cpp's, relative rms by tensor
    ours: float  # divergence from the source
    theirs: float

    @property
    def agrees(self) -> bool:
        near = self.ours <= MOST_DIVERGENCE * self.theirs
        return self.compared.agrees and not self.keys and near


def pairs(python: Path, scratch: Path) -> Iterator[Pair]:
    for source_type in SOURCES:
        folder = scratch / source_type
        with open_checkpoint(MODEL) as checkpoint:
            source = export(checkpoint, {"type": source_type}, folder / "source")
        made = {}
        with open_checkpoint(source) as opened:
            for target in TARGETS:
                theirs = folder / f"llama.cpp {target}.gguf"
                asked = task(source, theirs, type=target)
                asked["options"] = {"allow_requantize": True}
                consume(python, scratch, quantize=[asked])
                made[target] = export(opened, {"type": target, "allow_requantize": True}, folder / target), theirs
        seen = evaluate(python, scratch, source, [path for both in made.values() for path in both])
        for target, (ours, theirs) in made.items():
            yield Pair(
                source_type,
                target,
                compare("millstone-4m", f"{target} from {source_type}", source, ours, theirs),
                different_keys(ours, theirs),
                relative_errors(source, theirs),
                *(seen[str(path)]["divergence"] for path in (ours, theirs)),
            )


def evaluate(python: Path, scratch: Path, source: Path, files: Sequence[Path]) -> Mapping[str, Any]:
    text = (DATA / "text" / "evaluation.txt").read_text()
    errand = {"source": str(source), "files": [str(path) for path in files], "text": text}
    return consume(python, scratch, diverge=[{**errand, "window": WINDOW, "windows": WINDOWS}])


def different_keys(ours: Path, theirs: Path) -> tuple[str, ...]:
    """Keys that one of the files lacks, or that have another value or type there."""
    mine, other = (
        {name: (field.types, field.contents()) for name, field in gguf.GGUFReader(path).fields.items()}
        for path in (ours, theirs)
    )
    known = {name for name in {*mine, *other} if name not in OURS and not name.startswith("GGUF.")}
    return tuple(sorted(name for name in known if mine.get(name) != other.get(name)))


def relative_errors(source: Path, made: Path) -> dict[str, float]:
    wanted = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    errors = {}
    for tensor in gguf.GGUFReader(made).tensors:
        values, found = (
            gguf.quants.dequantize(each.data, each.tensor_type).astype(np.float64)
            for each in (wanted[tensor.name], tensor)
        )
        errors[tensor.name] = float(np.sqrt(np.square(found - values).sum() / np.square(values).sum()))
    return errors


def golden(found: Sequence[Pair]) -> dict[str, Any]:
    rows: dict[str, Any] = {source: {} for source in SOURCES}
    for pair in found:
        errors = {name: float(f"{error:.6g}") for name, error in pair.errors.items() if error}
        rows[pair.source][pair.target] = {"types": by_role(dict(pair.compared.theirs)), "errors": errors}
    return rows


def report(version: str, found: Sequence[Pair]) -> str:
    return "\n".join(
        [
            "millstone-4m as a file of each type, requantized by us and by llama.cpp's own quantizer (llama-cpp-python "
            f"{version}, allow_requantize). The error is our rms error of a tensor from the source over llama.cpp's, "
            f"which must not be above {MOST_WORSE}; divergence is KL from the source's file in nats per token, "
            f"{WINDOWS} windows of {WINDOW} tokens of `tests/data/text/evaluation.txt`, both evaluated by llama.cpp. "
            "Written by `tests/conformance/llama_cpp/requantizing.py --write`.",
            "",
            "| from | to | other type | other key | equal bytes | mean error | worst | divergence | llama.cpp's |",
            "|---|---|---|---|---|---|---|---|---|",
            *(
                f"| {pair.source} | {pair.target} | {len(pair.compared.other_type)} | {len(pair.keys)} "
                f"| {pair.compared.same_bytes} of {pair.compared.tensors} "
                f"| {np.mean([*pair.compared.errors.values()]):.4f} | {pair.compared.worst:.4f} "
                f"| {pair.ours:.5f} | {pair.theirs:.5f} |"
                for pair in found
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="the README's table and the golden file")
    arguments = parser.parse_args()
    python, version = installed()
    with tempfile.TemporaryDirectory(prefix="requantizing-") as scratch:
        found = list(pairs(python, Path(scratch)))
    text = report(version, found)
    print(text)
    for pair in found:
        print(pair.source, pair.target, *pair.compared.other_type[:5], *pair.keys[:5])
    if arguments.write:
        write(text, "requantized")
        GOLDEN.write_text(json.dumps(golden(found), indent=1) + "\n")
    sys.exit(0 if all(pair.agrees for pair in found) else 1)


if __name__ == "__main__":
    main()
