"""Our GGUF files in llama.cpp: they load, generate, and have the perplexity that our own evaluation measures.

llama.cpp's own quantizer makes the same file types from the same F16 files; every tensor must get the type that our
policy gives it, but for the fallbacks whose formats the kernels do not have. `--write-golden` keeps those types in
tests/data/golden/gguf, so that `make test` holds the policy to them without llama.cpp.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np

from quantmill.calibration.tokens import tokenize
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill.evaluation import perplexity
from quantmill_gguf.params import FileType
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.policies import MIXES

DATA = Path(__file__).resolve().parents[2] / "data"
GOLDEN = DATA / "golden" / "gguf" / "llama_cpp_types.json"
TYPES: tuple[str, ...] = get_args(FileType)
QUANTIZED = tuple(type_ for type_ in TYPES if type_ != "F16")
WINDOW = 512
TEXT_CHARACTERS = 70_000  # about forty windows
MOST_DIFFERENCE = 0.01  # of the perplexities

# Types that llama.cpp falls back to and the kernels do not have, and what we take instead
OTHER_FALLBACKS = {"Q5_0": "Q8_0", "Q5_1": "Q8_0"}

# Models for the comparison of types. F16, so that both quantizers start from the same values.
SYNTHETIC = {
    "32 blocks": SyntheticLlama(ffn=256, blocks=32, dtype="F16"),
    "80 blocks, one key/value head": SyntheticLlama(ffn=256, blocks=80, kv_heads=1, dtype="F16"),
    "rows of 320 and 288": SyntheticLlama(hidden=320, ffn=288, blocks=4, dtype="F16"),
}


@dataclass(frozen=True)
class Loaded:
    """One artifact as both sides see it."""

    type: str
    bits_per_weight: float
    megabytes: float
    generated_tokens: int
    same_tokens: bool
    theirs: float
    ours: float

    @property
    def difference(self) -> float:
        return self.theirs / self.ours - 1

    @property
    def agrees(self) -> bool:
        return self.generated_tokens > 0 and self.same_tokens and abs(self.difference) <= MOST_DIFFERENCE


@dataclass(frozen=True)
class Compared:
    """A file of ours beside llama.cpp's own of the same type."""

    model: str
    type: str
    tensors: int
    other_type: tuple[str, ...]
    same_bytes: int
    theirs: dict[str, str]  # tensor -> type

    @property
    def agrees(self) -> bool:
        return not self.other_type


def export(checkpoint: Checkpoint, type_: str, folder: Path) -> Path:
    run = Run(GGUF, GGUF.params(type=type_), checkpoint)
    (path,) = run.write(run.quantize(), folder / type_)
    return path


def consume(python: Path, scratch: Path, **errand: Any) -> dict[str, Any]:
    """What consumer.py answers, in llama.cpp's environment."""
    asked, answered = scratch / "errand.json", scratch / "answer.json"
    asked.write_text(json.dumps({"load": [], "quantize": [], "text": "", "window": WINDOW, **errand}))
    command = [python, Path(__file__).with_name("consumer.py"), asked, answered]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(answered.read_text())
    return answer


def load_all(python: Path, scratch: Path) -> Iterator[Loaded]:
    text = (DATA / "text" / "evaluation.txt").read_text()[:TEXT_CHARACTERS]
    with open_checkpoint(DATA / "millstone-4m") as checkpoint:
        files = {type_: export(checkpoint, type_, scratch / "millstone-4m") for type_ in TYPES}
        seen = consume(python, scratch, load=[str(path) for path in files.values()], text=text)
        tokens = hashlib.sha256(json.dumps(tokenize(checkpoint.index, text).ids).encode()).hexdigest()
        for type_, path in files.items():
            theirs = seen[str(path)]
            ours = perplexity(checkpoint, functools.partial(GGUF.weights, path.parent), text, window=WINDOW, threads=2)
            assert ours.windows == theirs["windows"]
            yield Loaded(
                type_,
                GGUF.plan.load()(checkpoint.index, GGUF.params(type=type_)).bits_per_weight,
                path.stat().st_size / 1e6,
                theirs["generated_tokens"],
                theirs["tokens_sha256"] == tokens,
                theirs["perplexity"],
                ours.perplexity,
            )


@contextmanager
def models(scratch: Path) -> Iterator[dict[str, Checkpoint]]:
    folders = {name: model.write(scratch / name / "checkpoint") for name, model in SYNTHETIC.items()}
    opened = {name: open_checkpoint(folder) for name, folder in folders.items()}
    opened["millstone-4m"] = open_checkpoint(DATA / "millstone-4m")
    try:
        yield opened
    finally:
        for checkpoint in opened.values():
            checkpoint.close()


def compare_all(python: Path, scratch: Path) -> Iterator[Compared]:
    with models(scratch) as opened:
        for model, checkpoint in opened.items():
            folder = scratch / model / "compared"
            source = export(checkpoint, "F16", folder)
            theirs = {type_: folder / f"llama.cpp-{type_}.gguf" for type_ in QUANTIZED}
            tasks = [(path, MIXES[type_].file_type) for type_, path in theirs.items()]
            consume(
                python,
                scratch,
                quantize=[{"source": str(source), "target": str(path), "file_type": number} for path, number in tasks],
            )
            for type_, path in theirs.items():
                ours = export(checkpoint, type_, folder)
                yield compare(model, type_, ours, path)
                ours.unlink()
                path.unlink()


def compare(model: str, type_: str, ours: Path, theirs: Path) -> Compared:
    mine = {tensor.name: tensor for tensor in gguf.GGUFReader(ours).tensors}
    other = {tensor.name: tensor for tensor in gguf.GGUFReader(theirs).tensors}
    assert mine.keys() == other.keys()
    types = {name: tensor.tensor_type.name for name, tensor in other.items()}
    return Compared(
        model,
        type_,
        len(mine),
        tuple(
            f"{name}: ours {mine[name].tensor_type.name}, llama.cpp's {found}"
            for name, found in types.items()
            if OTHER_FALLBACKS.get(found, found) != mine[name].tensor_type.name
        ),
        sum(np.array_equal(mine[name].data, other[name].data) for name in mine),
        types,
    )


def write_golden(compared: list[Compared]) -> None:
    """One line for each model, type and kind of tensor: the types in the order of the blocks."""
    golden: dict[str, Any] = {}
    for found in compared:
        entry = golden.setdefault(found.model, {"dimensions": None, "types": {}})
        if found.model in SYNTHETIC:
            entry["dimensions"] = asdict(SYNTHETIC[found.model])
        roles: dict[str, list[str]] = {}
        for name, type_ in sorted(found.theirs.items(), key=lambda item: _block(item[0])):
            roles.setdefault(name.split(".")[-2], []).append(type_)
        entry["types"][found.type] = {role: " ".join(types) for role, types in sorted(roles.items())}
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def _block(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else 0


def report(version: str, loaded: list[Loaded], compared: list[Compared]) -> str:
    fallbacks = ", ".join(f"{theirs} there, {ours} here" for theirs, ours in OTHER_FALLBACKS.items())
    lines = [
        f"## llama.cpp (llama-cpp-python {version})",
        "",
        f"Each file is loaded, generates 32 tokens greedily, and predicts {TEXT_CHARACTERS:,} characters of "
        f"`tests/data/text/evaluation.txt` in windows of {WINDOW} tokens. Our own evaluation runs transformers' model "
        f"on the weights that the plugin's reader gives. Perplexities may differ by {MOST_DIFFERENCE:.0%}.",
        "",
        "| type | bits/weight | MB | generates | same tokens | llama.cpp perplexity | our perplexity | difference |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.type} | {row.bits_per_weight:.3f} | {row.megabytes:.2f} | {_yes(row.generated_tokens > 0)} "
            f"| {_yes(row.same_tokens)} | {row.theirs:.4f} | {row.ours:.4f} | {row.difference:+.3%} |"
            for row in loaded
        ),
        "",
        "The same types made by llama.cpp's own quantizer from our F16 file. Fallbacks whose formats the kernels do "
        f"not have count as the same type: {fallbacks}.",
        "",
        "| model | type | tensors | other type | equal bytes |",
        "|---|---|---|---|---|",
        *(
            f"| {row.model} | {row.type} | {row.tensors} | {len(row.other_type)} | {row.same_bytes} |"
            for row in compared
        ),
        "",
    ]
    return "\n".join([*lines, *(f"- {row.model}, {row.type}: {line}" for row in compared for line in row.other_type)])


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of llama.cpp's environment")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--write-golden", action="store_true")
    arguments = parser.parse_args()
    installed = [arguments.python, "-c", "from importlib.metadata import version; print(version('llama-cpp-python'))"]
    version = subprocess.run(installed, capture_output=True, text=True, check=True).stdout.strip()
    loaded = list(load_all(arguments.python, arguments.scratch))
    compared = list(compare_all(arguments.python, arguments.scratch))
    if arguments.write_golden:
        write_golden(compared)
    print(report(version, loaded, compared))
    sys.exit(0 if all(row.agrees for row in (*loaded, *compared)) else 1)


if __name__ == "__main__":
    main()
