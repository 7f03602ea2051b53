"""Our GGUF files in llama.cpp: they load, generate, and have the perplexity that our own evaluation measures.

llama.cpp's own quantizer makes the same file types from the same F32 files; every tensor must get the type that our
policy gives it, and ours must not be further from the source. `--write-golden` keeps those types in
tests/data/golden/gguf, so that `make test` holds the policy to them without llama.cpp.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
from numpy.typing import NDArray

from quantmill.calibration.tokens import tokenize
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill.evaluation import perplexity
from quantmill_gguf.params import FileType
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.policies import MIXES, NEED_IMATRIX
from quantmill_gguf.types import TYPES as SCHEMES

DATA = Path(__file__).resolve().parents[2] / "data"
GOLDEN = DATA / "golden" / "gguf" / "llama_cpp_types.json"
TYPES: tuple[str, ...] = tuple(type_ for type_ in get_args(FileType) if type_ not in NEED_IMATRIX)
WINDOW = 512
TEXT_CHARACTERS = 70_000  # about forty windows
MOST_DIFFERENCE = 0.01  # of the perplexities
MOST_EXACT_DIFFERENCE = 0.005  # where the file has the source's values: what differs is the arithmetic of activations
EXACT = ("F32", "F16", "BF16")

# Parameters whose files are loaded
LOADED: dict[str, dict[str, Any]] = {type_: {"type": type_} for type_ in TYPES}
LOADED |= {
    "Q4_K_M, parts of 1 MB": {"type": "Q4_K_M", "split_max_size_mb": 1},
    "budget of 4.5 bits": {"target_bpw": 4.5},
}

# Parameters whose choice of types is compared
COMPARED: dict[str, dict[str, Any]] = {type_: {"type": type_} for type_ in TYPES}
COMPARED |= {
    "Q4_K_M, pure": {"type": "Q4_K_M", "pure": True},
    "Q3_K_L, output Q5_1": {"type": "Q3_K_L", "output_type": "Q5_1"},
    "Q2_K, output Q8_0, embedding Q4_1": {"type": "Q2_K", "output_type": "Q8_0", "token_embedding_type": "Q4_1"},
}
# What llama_model_quantize_params calls them
OPTIONS = {"pure": "pure", "output_type": "output_tensor_type", "token_embedding_type": "token_embedding_type"}

MOST_WORSE = 1.0005  # our rms error of a tensor over llama.cpp's

# Models for the comparison of types
SYNTHETIC = {
    "32 blocks": SyntheticLlama(ffn=256, blocks=32, dtype="F16"),
    "32 blocks, one key/value head": SyntheticLlama(ffn=256, blocks=32, kv_heads=1, dtype="F16"),
    "80 blocks, one key/value head": SyntheticLlama(ffn=256, blocks=80, kv_heads=1, dtype="F16"),
    "80 blocks, nothing shared": SyntheticLlama(ffn=256, blocks=80, kv_heads=4, dtype="F16"),
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
    their_half: float
    our_half: float

    @property
    def difference(self) -> float:
        return self.theirs / self.ours - 1

    @property
    def half_difference(self) -> float:
        """Of the perplexities over the second half of each window, as llama-perplexity counts."""
        return self.their_half / self.our_half - 1

    @property
    def agrees(self) -> bool:
        most = MOST_EXACT_DIFFERENCE if self.type in EXACT else MOST_DIFFERENCE
        near = max(abs(self.difference), abs(self.half_difference)) <= most
        return self.generated_tokens > 0 and self.same_tokens and near


@dataclass(frozen=True)
class Compared:
    """A file of ours beside llama.cpp's own of the same type."""

    model: str
    label: str
    tensors: int
    other_type: tuple[str, ...]
    same_bytes: int
    errors: dict[str, float]  # tensor -> our rms error over llama.cpp's
    theirs: dict[str, str]  # tensor -> type

    @property
    def worst(self) -> float:
        return max(self.errors.values())

    @property
    def agrees(self) -> bool:
        return not self.other_type and self.worst <= MOST_WORSE


def export(checkpoint: Checkpoint, params: dict[str, Any], folder: Path) -> Path:
    run = Run(GGUF, GGUF.params(**params), checkpoint)
    path, *_ = run.write(run.quantize(threads=2), folder)
    return path


def consume(python: Path, scratch: Path, **errand: Any) -> dict[str, Any]:
    """What consumer.py answers, in llama.cpp's environment."""
    asked, answered = scratch / "errand.json", scratch / "answer.json"
    asked.write_text(
        json.dumps(
            {
                "load": [],
                "quantize": [],
                "diverge": [],
                "outputs": [],
                "tokenize": [],
                "text": "",
                "window": WINDOW,
                **errand,
            }
        )
    )
    command = [python, Path(__file__).with_name("consumer.py"), asked, answered]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(answered.read_text())
    return answer


def load_all(python: Path, scratch: Path) -> Iterator[Loaded]:
    text = (DATA / "text" / "evaluation.txt").read_text()[:TEXT_CHARACTERS]
    with open_checkpoint(DATA / "millstone-4m") as checkpoint:
        files = {label: export(checkpoint, params, scratch / "loaded" / label) for label, params in LOADED.items()}
        seen = consume(python, scratch, load=[str(path) for path in files.values()], text=text)
        tokens = hashlib.sha256(json.dumps(tokenize(checkpoint.index, text).ids).encode()).hexdigest()
        for label, path in files.items():
            theirs = seen[str(path)]
            weights = functools.partial(GGUF.weights, path.parent)
            ours = perplexity(checkpoint, weights, text, window=WINDOW, threads=2)
            assert ours.windows == theirs["windows"]
            assert ours.second_half is not None
            yield Loaded(
                label,
                Run(GGUF, GGUF.params(**LOADED[label]), checkpoint).plan.bits_per_weight,
                sum(part.stat().st_size for part in path.parent.glob("*.gguf")) / 1e6,
                theirs["generated_tokens"],
                theirs["tokens_sha256"] == tokens,
                theirs["perplexity"],
                ours.perplexity,
                theirs["llama_perplexity"],
                ours.second_half,
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
            source = export(checkpoint, {"type": "F32"}, folder / "source")
            for label, params in COMPARED.items():
                theirs = folder / f"llama.cpp {label}.gguf"
                consume(python, scratch, quantize=[task(source, theirs, **params)])
                ours = export(checkpoint, params, folder / label)
                yield compare(model, label, source, ours, theirs)
                ours.unlink()
                theirs.unlink()


def task(source: Path, target: Path, type: str, **params: Any) -> dict[str, Any]:  # noqa: A002
    options = {OPTIONS[name]: SCHEMES[value].id if value in SCHEMES else value for name, value in params.items()}
    return {
        "source": str(source),
        "target": str(target),
        "file_type": MIXES[type].file_type,
        "options": options,
    }


def compare(model: str, label: str, source: Path, ours: Path, theirs: Path) -> Compared:
    wanted, mine, other = (
        {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (source, ours, theirs)
    )
    assert mine.keys() == other.keys()
    types = {name: tensor.tensor_type.name for name, tensor in other.items()}
    return Compared(
        model,
        label,
        len(mine),
        tuple(
            f"{name}: ours {mine[name].tensor_type.name}, llama.cpp's {found}"
            for name, found in types.items()
            if found != mine[name].tensor_type.name
        ),
        sum(np.array_equal(mine[name].data, other[name].data) for name in mine),
        {name: _error_ratio(mine[name], other[name], wanted[name]) for name in mine},
        types,
    )


def _error_ratio(mine: gguf.ReaderTensor, other: gguf.ReaderTensor, wanted: gguf.ReaderTensor) -> float:
    """Our rms error over llama.cpp's; 1 where the bytes are equal."""
    if np.array_equal(mine.data, other.data):
        return 1.0
    source = _decoded(wanted)
    ours, theirs = (float(np.square(_decoded(tensor) - source).sum(dtype=np.float64)) for tensor in (mine, other))
    return math.sqrt(ours / theirs) if theirs else math.inf


def _decoded(tensor: gguf.ReaderTensor) -> NDArray[np.float32]:
    """By the gguf package, which has no part in either file."""
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1)


def write_golden(compared: list[Compared]) -> None:
    """One line for each model, type and kind of tensor: the types in the order of the blocks."""
    models: dict[str, Any] = {}
    for found in compared:
        entry = models.setdefault(found.model, {"dimensions": None, "types": {}})
        if found.model in SYNTHETIC:
            entry["dimensions"] = asdict(SYNTHETIC[found.model])
        roles: dict[str, list[str]] = {}
        for name, type_ in sorted(found.theirs.items(), key=lambda item: _block(item[0])):
            roles.setdefault(name.split(".")[-2], []).append(type_)
        entry["types"][found.label] = {role: " ".join(types) for role, types in sorted(roles.items())}
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps({"params": COMPARED, "models": models}, indent=1) + "\n")


def _block(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else 0


def report(version: str, loaded: list[Loaded], compared: list[Compared]) -> str:
    lines = [
        f"## llama.cpp (llama-cpp-python {version})",
        "",
        f"Each file is loaded, generates 32 tokens greedily, and predicts {TEXT_CHARACTERS:,} characters of "
        f"`tests/data/text/evaluation.txt` in windows of {WINDOW} tokens. Our own evaluation runs transformers' model "
        f"on the weights that the plugin's reader gives. Perplexities may differ by {MOST_DIFFERENCE:.0%}, and by "
        f"{MOST_EXACT_DIFFERENCE:.1%} for {', '.join(EXACT)}. The second pair counts the second half of each window, "
        "as llama-perplexity does.",
        "",
        "| type | bits/weight | MB | generates | same tokens | llama.cpp perplexity | ours | difference "
        "| llama-perplexity | ours | difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.type} | {row.bits_per_weight:.3f} | {row.megabytes:.2f} | {_yes(row.generated_tokens > 0)} "
            f"| {_yes(row.same_tokens)} | {row.theirs:.4f} | {row.ours:.4f} | {row.difference:+.3%} "
            f"| {row.their_half:.4f} | {row.our_half:.4f} | {row.half_difference:+.3%} |"
            for row in loaded
        ),
        "",
        "The same types made by llama.cpp's own quantizer from our F32 file. The error is our rms error of a tensor "
        "over llama.cpp's, 1 where the bytes are equal: over all tensors the mean, and the worst, which must not be "
        f"above {MOST_WORSE}.",
        "",
        "| model | type | tensors | other type | equal bytes | mean error | worst error |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row.model} | {row.label} | {row.tensors} | {len(row.other_type)} | {row.same_bytes} "
            f"| {np.mean([*row.errors.values()]):.4f} | {row.worst:.4f} |"
            for row in compared
        ),
        "",
    ]
    return "\n".join([*lines, *(f"- {row.model}, {row.label}: {line}" for row in compared for line in row.other_type)])


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
