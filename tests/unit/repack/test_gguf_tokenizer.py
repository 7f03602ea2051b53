"""Tokenizers that are rebuilt from a GGUF file's metadata cut texts as those that the file was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tests.small_tokenizers import SENTENCEPIECE, SMALL_TOKENIZERS, TEXTS, write_pieces, write_tokenizer
from tests.unit.repack.nvfp4_files import as_file, beside, changed, in_nvfp4
from tokenizers import AddedToken, Tokenizer

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.pre_tokenizers import PRE_TOKENIZERS
from quantmill.contract.synthetic import SyntheticLlama
from quantmill_repack.gguf_pieces import merges
from quantmill_repack.gguf_tokenizer import tokenizer_of

ROWS = 1000
MODEL = SyntheticLlama(hidden=64, ffn=64, heads=2, kv_heads=2, blocks=1, vocab=ROWS)
BYTE_LEVEL = [each.pre for each in PRE_TOKENIZERS]
PIECES = [name for name in SMALL_TOKENIZERS if name.startswith("SentencePiece")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    return in_nvfp4(MODEL.write(folder / "plain"), folder / "nvfp4")


@pytest.fixture(scope="module")
def of_bytes(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with byte-level BPE."""
    return as_file(plain, tmp_path_factory.mktemp("bytes") / "gguf")


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


@pytest.mark.parametrize("name", PIECES)
def test_texts_are_cut_into_the_same_pieces(name: str, plain: Path, tmp_path: Path) -> None:
    source = beside(plain, tmp_path / "source")
    theirs = write_tokenizer(name, source)

    rebuilt(as_file(source, tmp_path / "gguf"), tmp_path / "rebuilt")

    ours = Tokenizer.from_file(str(tmp_path / "rebuilt" / "tokenizer.json"))
    for text in TEXTS:
        if "Mistral" in name and text.startswith(" "):
            continue  # the file has a space before every text, transformers' has none before a space
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.decode(ours.encode(text).ids) == text


def test_a_sentencepiece_model_of_its_own_is_cut_as_sentencepiece_does(plain: Path, tmp_path: Path) -> None:
    source = beside(plain, tmp_path / "source")
    wanted = write_pieces("bpe", source)

    rebuilt(as_file(source, tmp_path / "gguf"), tmp_path / "rebuilt")

    ours = Tokenizer.from_file(str(tmp_path / "rebuilt" / "tokenizer.json"))
    texts = json.loads((SENTENCEPIECE / "golden.json").read_text())["texts"]
    assert [ours.encode(text).ids for text in texts] == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scores: scores.__setitem__(slice(None), [0.0] * len(scores)), "have the same score"),
        (lambda scores: scores.pop(), "its tokens have no scores"),
        (lambda scores: scores.__setitem__(slice(300, None), [float("nan")] * (len(scores) - 300)), "the same score"),
    ],
)
def test_scores_that_do_not_say_what_merges_would_are_refused(
    change: Callable[[list[float]], None], words: str, pieces: Path, tmp_path: Path
) -> None:
    scores = [
        float(each) for each in gguf.GGUFReader(next(pieces.glob("*.gguf"))).fields["tokenizer.ggml.scores"].contents()
    ]
    change(scores)
    with pytest.raises(SourceRejected, match=f"{words}; put the model's tokenizer.json beside the file"):
        rebuilt(changed(pieces, tmp_path / "changed", {"tokenizer.ggml.scores": scores}), tmp_path / "rebuilt")


@pytest.mark.parametrize(
    ("pieces_of", "words"),
    [
        ({"a": -1.0, "b": -2.0, "ab": 0.0, "bc": -3.0}, "the letter 'c' of its piece 'bc' is no piece"),
        ({"a": -1.0, "a" * 257: 0.0}, "its piece 'a.* has 257 letters; at most 256 are read"),
    ],
)
def test_pieces_that_cannot_be_made_or_take_too_long_are_refused(pieces_of: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        merges(pieces_of)


def test_merges_are_those_of_the_best_piece_first_and_all_ways_to_make_it() -> None:
    pieces_of = {"a": -9.0, "b": -8.0, "c": -7.0, "bc": -1.0, "ab": 0.0, "abc": -2.0}
    assert merges(pieces_of) == [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]]


def test_other_kinds_are_not_rebuilt(pieces: Path, tmp_path: Path) -> None:
    file = changed(pieces, tmp_path / "changed", {"tokenizer.ggml.model": "t5"})
    with pytest.raises(SourceRejected, match=r"of the kind 't5'; known are gpt2 and llama; put the model's tokenizer"):
        rebuilt(file, tmp_path / "rebuilt")


def test_a_tokenizer_beside_the_file_is_enough(pieces: Path, plain: Path, tmp_path: Path) -> None:
    whole = beside(pieces, tmp_path / "whole")
    write_tokenizer(PIECES[0], whole)
    assert rebuilt(whole, tmp_path / "rebuilt") == {}


@pytest.fixture(scope="module")
def pieces(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with SentencePiece's BPE."""
    folder = tmp_path_factory.mktemp("pieces")
    source = beside(plain, folder / "source")
    write_tokenizer(PIECES[0], source)
    return as_file(source, folder / "gguf")


@pytest.mark.parametrize(
    ("keys", "around"),
    [
        ({}, []),
        ({"tokenizer.ggml.add_bos_token": True}, ["<s>"]),
        ({"tokenizer.ggml.add_eos_token": True}, ["</s>"]),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}, ["<s>", "</s>"]),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}, ["<s>"]),
        ({"tokenizer.ggml.pre": "tekken", "tokenizer.ggml.add_bos_token": None}, ["<s>"]),
        ({"tokenizer.ggml.add_bos_token": None}, []),
    ],
)
def test_tokens_are_put_around_a_text_as_the_file_says(
    keys: dict[str, Any], around: list[str], of_bytes: Path, tmp_path: Path
) -> None:
    rebuilt(changed(of_bytes, tmp_path / "changed", keys), tmp_path / "rebuilt")

    found = Tokenizer.from_file(str(tmp_path / "rebuilt" / "tokenizer.json"))
    assert found.encode("").tokens == around
    assert found.encode("", "").tokens == 2 * around


def test_settings_beside_the_file_are_kept_and_others_are_made(plain: Path, of_bytes: Path, tmp_path: Path) -> None:
    file = changed(of_bytes, tmp_path / "alone", {"tokenizer.chat_template": "{{ x }}"})
    whole = beside(file, tmp_path / "whole", plain / "tokenizer_config.json")

    alone, kept = rebuilt(file, tmp_path / "a"), rebuilt(whole, tmp_path / "b")

    settings = json.loads(alone["tokenizer_config.json"])
    assert (settings["chat_template"], settings["tokenizer_class"]) == ("{{ x }}", "PreTrainedTokenizerFast")
    assert kept.keys() == {"tokenizer.json"}
