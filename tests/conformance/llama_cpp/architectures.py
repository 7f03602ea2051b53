"""Small random models of every architecture in llama.cpp: their logits are transformers'.

    PYTHONPATH=. .venv/bin/python tests/conformance/llama_cpp/architectures.py --write

makes the table in the plugin's README and tests/data/golden/gguf/architectures.json. The golden file holds the metadata
and a digest of the tensors of each F32 file, so that `make test` knows without llama.cpp that it still writes files
that llama.cpp computes the right logits from.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernels.bench.environments import environment
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tests.conformance.llama_cpp.check import consume, export
from tests.random_models import COUNTS, RANDOM_MODELS, RandomModel, pinned

from quantmill.checkpoints import open_checkpoint
from quantmill_gguf.plugin import GGUF

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
README = REPOSITORY / "plugins" / "quantmill_gguf" / "README.md"
GOLDEN = REPOSITORY / "tests" / "data" / "golden" / "gguf" / "architectures.json"
BEGIN, END = "<!-- architectures -->", "<!-- /architectures -->"

HIDDEN = {"F32": 64, "Q8_0": 256, "Q4_K_M": 256}  # rows of 64 values have no blocks of 256
MOST_DIFFERENCE = 1e-3  # of F32 files: of a logit, over the largest logit
TOKENS, CONTEXT = 48, 64  # more than the sliding windows and the original context of longrope


@dataclass(frozen=True)
class Compared:
    """A file in llama.cpp beside transformers' model with the values that the file holds.

    largest  the largest difference of a logit over the largest logit
    typical  rms of the differences over rms of the logits
    """

    case: str
    model: str
    type: str
    largest: float
    typical: float

    @property
    def agrees(self) -> bool:
        return self.type != "F32" or self.largest <= MOST_DIFFERENCE


def compare(case: str, model: RandomModel, type_: str, python: Path, scratch: Path) -> Compared:
    folder = scratch / "model"
    model.write(folder, HIDDEN[type_])
    with open_checkpoint(folder) as checkpoint:
        path = export(checkpoint, {"type": type_}, scratch / "artifact")
    tokens = np.random.default_rng(0).integers(2, COUNTS["vocab_size"], TOKENS).tolist()
    save_file(dict(GGUF.weights(path.parent)), folder / "model.safetensors", {"format": "pt"})
    wanted = transformers_outputs(model, folder, tokens)
    found = llama_cpp_outputs(python, scratch, path, tokens, embeds=model.model == "BertModel")
    difference = found - wanted
    return Compared(
        case,
        model.model,
        type_,
        float(np.abs(difference).max() / np.abs(wanted).max()),
        float(np.sqrt(np.mean(np.square(difference)) / np.mean(np.square(wanted)))),
    )


def transformers_outputs(model: RandomModel, folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    import torch
    import transformers

    opened: Any = getattr(transformers, model.model).from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        made = opened(torch.tensor([tokens]))
    outputs: NDArray[np.float32] = (made.logits if "logits" in made else made.last_hidden_state)[0].numpy()
    return outputs


def llama_cpp_outputs(
    python: Path, scratch: Path, path: Path, tokens: list[int], *, embeds: bool
) -> NDArray[np.float32]:
    save = scratch / "outputs.npy"
    task = {"path": str(path), "tokens": tokens, "context": CONTEXT, "save": str(save), "embeds": embeds}
    consume(python, scratch, outputs=[task])
    outputs: NDArray[np.float32] = np.load(save)
    return outputs


def compare_all(python: Path, types: list[str], cases: list[str]) -> Iterator[tuple[Compared, dict[str, Any]]]:
    """Each comparison, and what the golden file keeps of the file."""
    for case in cases:
        for type_ in types:
            with tempfile.TemporaryDirectory(prefix="architectures-") as scratch:
                compared = compare(case, RANDOM_MODELS[case], type_, python, Path(scratch))
                yield compared, pinned(Path(scratch) / "artifact" / f"model-{type_}.gguf")


def report(version: str, rows: list[Compared]) -> str:
    lines = [
        f"Loaded by llama.cpp (llama-cpp-python {version}) and compared with transformers' own model on {TOKENS} "
        "tokens; written by `tests/conformance/llama_cpp/architectures.py --write`. `largest` is the largest "
        f"difference of a logit over the largest logit, for F32 at most {MOST_DIFFERENCE:g}; `typical` is rms over "
        "rms. Quantized files are compared with transformers on the values that they hold: what differs is llama.cpp's "
        "rounding of activations to 8 bits, which sends a token of a mixture to other experts where two are nearly "
        "equal. llama.cpp's GELU is a table in float16. BertModel: its embeddings.",
        "",
        "| model | class | type | loaded | largest | typical |",
        "|---|---|---|---|---|---|",
        *(f"| {row.case} | {row.model} | {row.type} | yes | {row.largest:.1e} | {row.typical:.1e} |" for row in rows),
    ]
    return "\n".join(lines)


def write(text: str, golden: dict[str, Any]) -> None:
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="the README's table and the golden file")
    parser.add_argument("--types", nargs="+", default=list(HIDDEN), choices=list(HIDDEN))
    parser.add_argument("--cases", nargs="+", default=list(RANDOM_MODELS), choices=list(RANDOM_MODELS))
    arguments = parser.parse_args()
    python = environment("conformance", "llama_cpp", HERE / "requirements.txt")
    rows, golden = [], {}
    for compared, kept in compare_all(python, arguments.types, arguments.cases):
        rows.append(compared)
        if compared.type == "F32":
            golden[compared.case] = kept
        print(f"{compared.case:32} {compared.type:8} {compared.largest:.2e} {compared.typical:.2e}", flush=True)
    version = next(line.split("==")[1] for line in (HERE / "requirements.txt").read_text().split() if "==" in line)
    if arguments.write:
        write(report(version, rows), golden)
    sys.exit(0 if all(row.agrees for row in rows) else 1)


if __name__ == "__main__":
    main()
