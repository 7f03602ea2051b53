"""Texts of many kinds cut into tokens by llama.cpp as by the tokenizer that the file was made from.

    PYTHONPATH=. .venv/bin/python tests/conformance/llama_cpp/tokenizing.py --write

makes the table in the plugin's README.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from check import consume, export
from kernels.bench.environments import environment
from tests.small_tokenizers import SMALL_TOKENIZERS, TEXTS, write_pieces, write_tokenizer

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.gguf import GgufContainer
from quantmill.contract.synthetic import SyntheticLlama

HERE = Path(__file__).resolve().parent
README = HERE.parents[2] / "plugins" / "quantmill_gguf" / "README.md"
BEGIN, END = "<!-- tokenizers -->", "<!-- /tokenizers -->"

# What the plan warns of: which texts differ, and what they are
EXPECTED_TO_DIFFER = {
    "SentencePiece of Mistral": ([text for text in TEXTS if text.startswith(" ")], "begins with a space"),
    "Unigram without normalizing": ([text for text in TEXTS if text.startswith(" ")], "begins with a space"),
    "WordPiece": ([text for text in TEXTS if "한" in text], "Korean"),
}


@dataclass(frozen=True)
class Compared:
    name: str
    model: str
    pre: str
    tokens: int
    different: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return list(self.different) == EXPECTED_TO_DIFFER.get(self.name, ([], ""))[0]

    @property
    def shown(self) -> str:
        if not self.different:
            return ""
        return f"{len(self.different)}: {EXPECTED_TO_DIFFER[self.name][1] if self.agrees else 'UNEXPECTED'}"


PIECES = {"tokenizer.model alone, BPE": "bpe", "tokenizer.model alone, unigram": "unigram"}


def compare_all(python: Path) -> Iterator[Compared]:
    for name in (*SMALL_TOKENIZERS, *PIECES):
        with tempfile.TemporaryDirectory(prefix="tokenizers-") as scratch:
            yield compare(name, python, Path(scratch))


def compare(name: str, python: Path, scratch: Path) -> Compared:
    folder = SyntheticLlama(hidden=64, ffn=64, heads=2, blocks=1, vocab=1000).write(scratch / "model")
    if name in PIECES:
        wanted = write_pieces(PIECES[name], folder)
    else:
        tokenizer = write_tokenizer(name, folder)
        wanted = [tokenizer.encode(text).ids for text in TEXTS]
    with open_checkpoint(folder) as checkpoint:
        path = export(checkpoint, {"type": "F16"}, scratch / "artifact")
    found = consume(python, scratch, tokenize=[{"path": str(path), "texts": list(TEXTS)}])[str(path)]
    with GgufContainer(path) as file:
        model, pre = (str(file.metadata[f"tokenizer.ggml.{key}"]) for key in ("model", "pre"))
    different = tuple(text for text, have, want in zip(TEXTS, found, wanted, strict=True) if have != want)
    return Compared(name, model, pre, sum(map(len, wanted)), different)


def report(version: str, rows: list[Compared]) -> str:
    lines = [
        f"Tokenizers trained on a shipped text, in the configurations that models have; {len(TEXTS)} other texts (many "
        "scripts, digits, code, runs of spaces, emoji) cut into tokens by `tokenizers`, of a "
        "tokenizer.model alone by `sentencepiece`, and by llama.cpp "
        f"(llama-cpp-python {version}). Written by `tests/conformance/llama_cpp/tokenizing.py --write`.",
        "",
        "| tokenizer | tokenizer.ggml.model | tokenizer.ggml.pre | tokens | texts that differ |",
        "|---|---|---|---|---|",
        *(f"| {row.name} | {row.model} | {row.pre} | {row.tokens} | {row.shown} |" for row in rows),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="the README's table")
    arguments = parser.parse_args()
    requirements = HERE / "requirements.txt"
    rows = list(compare_all(environment("conformance", "llama_cpp", requirements)))
    version = next(line.split("==")[1] for line in requirements.read_text().split() if "==" in line)
    text = report(version, rows)
    print(text)
    if arguments.write:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    sys.exit(0 if all(row.agrees for row in rows) else 1)


if __name__ == "__main__":
    main()
