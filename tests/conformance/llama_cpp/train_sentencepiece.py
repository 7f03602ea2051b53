"""Small SentencePiece models as models come with them, and how sentencepiece itself cuts texts with them.

    PYTHONPATH=. .venv/bin/python tests/conformance/llama_cpp/train_sentencepiece.py

writes tests/data/golden/gguf/sentencepiece: `make test` reads the models, and holds what is read of them to what
sentencepiece says; tokenizing.py compares llama.cpp with the tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "data"
GOLDEN = DATA / "golden" / "gguf" / "sentencepiece"

LLAMA = {
    "model_type": "bpe",
    "vocab_size": 700,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}
T5 = {"model_type": "unigram", "vocab_size": 600, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
MODELS: dict[str, dict[str, Any]] = {"bpe": LLAMA, "unigram": T5}


def train(texts: list[str]) -> None:
    """Runs where sentencepiece is."""
    import sentencepiece

    shipped = (DATA / "text" / "evaluation.txt").read_text().splitlines()
    lines = [line for line in (*shipped, *("\n".join(texts).splitlines() * 20)) if line.strip()]
    golden: dict[str, Any] = {"sentencepiece": sentencepiece.__version__, "texts": texts}
    for name, settings in MODELS.items():
        path = GOLDEN / f"{name}.model"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=(file := path.open("wb")),
            character_coverage=0.99,
            num_threads=1,
            minloglevel=2,
            **settings,
        )
        file.close()
        golden[name] = described(sentencepiece.SentencePieceProcessor(model_file=str(path)), texts)
    (GOLDEN / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


def described(model: Any, texts: list[str]) -> dict[str, Any]:
    count = model.get_piece_size()
    kinds = {"unknown": model.is_unknown, "control": model.is_control, "byte": model.is_byte, "unused": model.is_unused}
    return {
        "tokens": [model.encode(text) for text in texts],
        "pieces": [model.id_to_piece(id_) for id_ in range(count)],
        "scores": [model.get_score(id_) for id_ in range(count)],
        "kinds": {name: [id_ for id_ in range(count) if is_of(id_)] for name, is_of in kinds.items()},
        "ids": {"bos": model.bos_id(), "eos": model.eos_id(), "unknown": model.unk_id(), "padding": model.pad_id()},
    }


def main() -> None:
    from kernels.bench.environments import environment
    from tests.small_tokenizers import TEXTS

    python = environment("conformance", "sentencepiece", HERE / "sentencepiece.txt")
    subprocess.run([python, __file__, json.dumps(TEXTS)], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(json.loads(sys.argv[1]))
    else:
        main()
