"""Tokenizers that are rebuilt from a GGUF file's metadata cut texts as those that the file was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.small_tokenizers import SMALL_TOKENIZERS, TEXTS, write_tokenizer
from tests.unit.repack.nvfp4_files import as_file, beside, changed, in_nvfp4
from tokenizers import AddedToken, Tokenizer

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.pre_tokenizers import PRE_TOKENIZERS
from quantmill.contract.synthetic import SyntheticLlama
from quantmill_repack.gguf_tokenizer import tokenizer_of

ROWS = 1000
MODEL = SyntheticLlama(hidden=64, ffn=64, heads=2, kv_heads=2, blocks=1, vocab=ROWS)
BYTE_LEVEL = [each.pre for each in PRE_TOKENIZERS]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    return in_nvfp4(MODEL.write(folder / "plain"), folder / "nvfp4")


def rebuilt(file: Path, folder: Path) -> dict[str, bytes]:
    """The files that are made of the metadata, written to `folder`."""
    with open_checkpoint(file) as checkpoint:
        assert checkpoint.index.gguf is not None
        made = dict(tokenizer_of(checkpoint.index, checkpoint.index.gguf, ROWS))
    folder.mkdir(exist_ok=True)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return made


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_texts_are_cut_the_same(name: str, plain: Path, tmp_path: Path) -> None:
    source = beside(plain, tmp_path / "source")
    theirs = write_tokenizer(name, source)
    theirs.add_tokens([AddedToken("<tool>", normalized=False)])
    theirs.save(str(source / "tokenizer.json"))

    rebuilt(as_file(source, tmp_path / "gguf"), tmp_path / "rebuilt")

    ours = Tokenizer.from_file(str(tmp_path / "rebuilt" / "tokenizer.json"))
    for text in (*TEXTS, "a<s>b</s> <tool>c"):
        assert ours.encode(text).ids == theirs.encode(text).ids
    assert ours.get_added_tokens_decoder().keys() == theirs.get_added_tokens_decoder().keys()


@pytest.mark.parametrize("name", [name for name in SMALL_TOKENIZERS if name.startswith("SentencePiece")][:1])
def test_pieces_with_scores_are_not_rebuilt(name: str, plain: Path, tmp_path: Path) -> None:
    source = beside(plain, tmp_path / "source")
    write_tokenizer(name, source)
    file = as_file(source, tmp_path / "gguf")

    with pytest.raises(SourceRejected, match=r"of the kind 'llama'; .* put the model's tokenizer.json beside the file"):
        rebuilt(file, tmp_path / "rebuilt")
    whole = beside(file, tmp_path / "whole", source / "tokenizer.json")

    assert rebuilt(whole, tmp_path / "rebuilt") == {}


@pytest.mark.parametrize(
    ("keys", "around"),
    [
        ({}, []),
        ({"tokenizer.ggml.add_bos_token": True}, ["<s>"]),
        ({"tokenizer.ggml.add_eos_token": True}, ["</s>"]),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}, ["<s>", "</s>"]),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}, ["<s>"]),
        ({"tokenizer.ggml.add_bos_token": None}, []),
    ],
)
def test_tokens_are_put_around_a_text_as_the_file_says(
    keys: dict[str, Any], around: list[str], plain: Path, tmp_path: Path
) -> None:
    rebuilt(changed(as_file(plain, tmp_path / "gguf"), tmp_path / "changed", keys), tmp_path / "rebuilt")

    found = Tokenizer.from_file(str(tmp_path / "rebuilt" / "tokenizer.json"))
    assert found.encode("").tokens == around
    assert found.encode("", "").tokens == 2 * around


def test_settings_beside_the_file_are_kept_and_others_are_made(plain: Path, tmp_path: Path) -> None:
    file = changed(as_file(plain, tmp_path / "gguf"), tmp_path / "alone", {"tokenizer.chat_template": "{{ x }}"})
    whole = beside(file, tmp_path / "whole", plain / "tokenizer_config.json")

    alone, kept = rebuilt(file, tmp_path / "a"), rebuilt(whole, tmp_path / "b")

    settings = json.loads(alone["tokenizer_config.json"])
    assert (settings["chat_template"], settings["tokenizer_class"]) == ("{{ x }}", "PreTrainedTokenizerFast")
    assert kept.keys() == {"tokenizer.json"}
