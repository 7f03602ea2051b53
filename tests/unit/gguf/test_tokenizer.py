"""Which tokenizers a GGUF file can carry, and what is written of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.small_tokenizers import SMALL_TOKENIZERS, write_tokenizer

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.tokenizer import (
    BYTE,
    CONTROL,
    LLAMA3_SPLIT,
    NORMAL,
    QWEN2_SPLIT,
    TEKKEN_SPLIT,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_tokenizer,
)

Change = Callable[..., ModelIndex]
Data = dict[str, Any]
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def split(pattern: object) -> Data:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps: Data) -> Data:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def test_millstone_s_tokenizer_is_gpt_2_s_kind(millstone: Checkpoint) -> None:
    tokenizer = read_tokenizer(millstone.index, 4096)
    assert tokenizer.pre == "gpt-2"
    assert tokenizer.tokens[:3] == ("<s>", "</s>", "!")
    assert tokenizer.types[:3] == (CONTROL, CONTROL, NORMAL)
    assert tokenizer.merges[:2] == ("Ġ Ġ", "Ġ t")
    assert tokenizer.ids == {"bos": 0, "eos": 1}
    assert tokenizer.settings == {"add_bos_token": False, "add_eos_token": False}


@pytest.mark.parametrize(
    ("pre", "pre_tokenizer", "normalizer", "ignore_merges"),
    [
        ("gpt-2", GPT2, None, False),
        ("llama-bpe", sequence(split(LLAMA3_SPLIT[1]), BYTES), None, True),
        ("qwen2", sequence(split(QWEN2_SPLIT[1]), BYTES), {"type": "NFC"}, False),
        ("smollm", sequence({"type": "Digits", "individual_digits": True}, GPT2), None, False),
    ],
)
def test_a_pre_tokenizer_is_recognised_by_its_rules(
    with_tokenizer: Change, pre: str, pre_tokenizer: Data, normalizer: Data | None, ignore_merges: bool
) -> None:
    def edit(data: Data) -> None:
        data.update(pre_tokenizer=pre_tokenizer, normalizer=normalizer)
        data["model"]["ignore_merges"] = ignore_merges

    assert read_tokenizer(with_tokenizer(edit), 320).pre == pre


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {**GPT2, "add_prefix_space": True}},
        {"pre_tokenizer": BYTES},
        {"pre_tokenizer": sequence(split(r"\p{N}{1,3}"), BYTES)},
        {"pre_tokenizer": sequence(split(TEKKEN_SPLIT[1]), BYTES)},  # tekken, but merges are not ignored
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"normalizer": {"type": "Lowercase"}},
    ],
)
def test_an_unknown_pre_tokenizer_is_refused_with_what_was_tried(with_tokenizer: Change, change: Data) -> None:
    with pytest.raises(SourceRejected, match="tried: gpt-2, llama-bpe, qwen2, smollm, dbrx, falcon, tekken, gpt-4o"):
        read_tokenizer(with_tokenizer(lambda data: data.update(change)), 320)


def test_missing_tokens_are_filled_up_to_the_embedding(with_tokenizer: Change) -> None:
    tokenizer = read_tokenizer(with_tokenizer(), 323)
    assert tokenizer.tokens[319:] == (tokenizer.tokens[319], "[PAD320]", "[PAD321]", "[PAD322]")
    assert tokenizer.types[320:] == (UNUSED, UNUSED, UNUSED)


def test_an_added_token_is_user_defined_unless_it_is_special(with_tokenizer: Change) -> None:
    token = {"id": 320, "content": "<tool>", "special": False, "lstrip": True}
    tokenizer = read_tokenizer(with_tokenizer(lambda data: data["added_tokens"].append(token)), 321)
    assert (tokenizer.tokens[320], tokenizer.types[320]) == ("<tool>", USER_DEFINED)
    assert tokenizer.warnings == (
        "tokenizer: llama.cpp does not strip spaces or check words around the token '<tool>'",
    )


def template(*pieces: Data, ids: dict[str, int] | None = None) -> Data:
    named = {text: {"id": text, "ids": [id_], "tokens": [text]} for text, id_ in (ids or {"<s>": 0, "</s>": 1}).items()}
    return {"type": "TemplateProcessing", "single": list(pieces), "special_tokens": named}


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
EOS = {"SpecialToken": {"id": "</s>", "type_id": 0}}


@pytest.mark.parametrize(
    ("processor", "added"),
    [
        (None, (False, False)),
        ({"type": "ByteLevel"}, (False, False)),
        (template(TEXT), (False, False)),
        (template(BOS, TEXT), (True, False)),
        (template(BOS, TEXT, EOS), (True, True)),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(BOS, TEXT)]}, (True, False)),
    ],
)
def test_bos_and_eos_are_added_as_the_template_adds_them(
    with_tokenizer: Change, processor: Data | None, added: tuple[bool, bool]
) -> None:
    tokenizer = read_tokenizer(with_tokenizer(lambda data: data.update(post_processor=processor)), 320)
    assert tokenizer.settings == dict(zip(("add_bos_token", "add_eos_token"), added, strict=True))


def test_the_settings_decide_where_there_is_no_template(with_tokenizer: Change) -> None:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    assert read_tokenizer(with_tokenizer(settings=settings), 320).settings["add_bos_token"]


@pytest.mark.parametrize("processor", [template(EOS, TEXT), template(BOS, BOS, TEXT), {"type": "BertProcessing"}])
def test_any_other_template_is_refused(with_tokenizer: Change, processor: Data) -> None:
    with pytest.raises(SourceRejected, match=r"template|post-processor"):
        read_tokenizer(with_tokenizer(lambda data: data.update(post_processor=processor)), 320)


def test_special_ids_come_from_the_config_where_the_settings_name_none(with_tokenizer: Change) -> None:
    index = with_tokenizer(settings={})
    changed = ModelIndex({**index.config, "eos_token_id": [7, 8]}, index.tensors, index.tied, index.files)
    assert read_tokenizer(changed, 320).ids == {"bos": 0, "eos": 7}


def test_a_tokenizer_without_an_end_is_refused(with_tokenizer: Change) -> None:
    index = with_tokenizer(settings={})
    changed = ModelIndex({"bos_token_id": 0}, index.tensors, index.tied, index.files)
    with pytest.raises(SourceRejected, match="end-of-sequence"):
        read_tokenizer(changed, 320)


def test_the_default_chat_template_is_carried(with_tokenizer: Change) -> None:
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    settings = {"eos_token": "</s>", "chat_template": templates}
    tokenizer = read_tokenizer(with_tokenizer(settings=settings), 320)
    assert tokenizer.chat_template == "D"
    assert "only the one named 'default'" in tokenizer.warnings[0]


def set_model(**values: object) -> Callable[[Data], None]:
    return lambda data: data["model"].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_model(type="Unigram"), "this one is 'Unigram'"),
        (set_model(fuse_unk=True), "fuse_unk"),
        (set_model(byte_fallback=True), "is none of SentencePiece's"),
        (set_model(merges=[]), "no merges"),
        (set_model(merges=["a b c"]), "not a merge of two tokens"),
        (set_model(merges=[["a b", "c"]]), "holds a space"),
        (set_model(merges={"a": "b"}), "merges is not a list"),
        (set_model(vocab={}), "no vocabulary"),
        (set_model(vocab={"a": 320}), "has id 320, but the embedding has 320 rows"),
        (set_model(vocab={"a": -1}), "has id -1"),
        (set_model(vocab={"a": "0"}), "has id '0'"),
        (set_model(vocab={"a": 5, "b": 5}), "share the id 5"),
        (set_model(vocab={"[PAD3]": 4}), "same text"),
        (lambda data: data.update(model=[]), "carries BPE and WordPiece tokenizers"),
        (lambda data: data.update(added_tokens=[{"id": 0}]), "has no text"),
    ],
)
def test_a_vocabulary_that_cannot_be_carried_is_refused(
    with_tokenizer: Change, edit: Callable[[Data], None], message: str
) -> None:
    with pytest.raises(SourceRejected, match=message):
        read_tokenizer(with_tokenizer(edit), 320)


def test_a_file_that_is_no_json_is_refused(with_tokenizer: Change) -> None:
    index = with_tokenizer()
    index.files["tokenizer.json"].write_text("[" * 100_000)
    with pytest.raises(SourceRejected, match=r"tokenizer\.json is not JSON"):
        read_tokenizer(index, 320)


def test_a_checkpoint_without_tokenizer_is_refused(small: Checkpoint) -> None:
    index = ModelIndex(small.index.config, small.index.tensors, small.index.tied, {})
    with pytest.raises(SourceRejected, match=r"has no tokenizer\.json"):
        read_tokenizer(index, 320)


# Tokenizers trained in the configurations that models have; llama.cpp cuts the same texts as they do
# (tests/conformance/llama_cpp/tokenizing.py)


@pytest.fixture(scope="module", params=SMALL_TOKENIZERS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The folder of a checkpoint with each of them."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    SyntheticLlama(hidden=64, ffn=64, heads=2, blocks=1, vocab=1000).write(folder)
    write_tokenizer(request.param, folder)
    return request.param, folder


def test_what_is_written_of_a_tokenizer_is_what_verification_reads(trained: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = trained
    with open_checkpoint(folder) as checkpoint:
        run = Run(GGUF, GGUF.params(type="Q8_0"), checkpoint)
        run.write(run.quantize(), tmp_path / "artifact")
        verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "artifact")
        tokenizer = read_tokenizer(checkpoint.index, 1000)
    kind = {"S": "llama", "W": "bert"}.get(name[0], "gpt2")
    assert (tokenizer.model, tokenizer.pre) == (kind, name if kind == "gpt2" else "default")


def of(name: str, folder: Path, edit: Callable[[Data], None] = lambda data: None) -> ModelIndex:
    SyntheticLlama(hidden=64, ffn=64, heads=2, blocks=1, vocab=1000).write(folder)
    write_tokenizer(name, folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    edit(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.index


def test_a_sentencepiece_token_scores_by_its_first_merge(tmp_path: Path) -> None:
    index = of("SentencePiece of Llama 2", tmp_path)
    merges = json.loads(index.files["tokenizer.json"].read_text())["model"]["merges"]
    tokenizer = read_tokenizer(index, 1000)
    score = dict(zip(tokenizer.tokens, tokenizer.scores, strict=True))
    assert score["".join(merges[0])] == 0.0
    last = "".join(merges[-1])
    assert score[last] == -float(["".join(pair) for pair in merges].index(last))
    assert tokenizer.types[:4] == (UNKNOWN, CONTROL, CONTROL, BYTE)
    assert tokenizer.settings == {"add_bos_token": True, "add_eos_token": False, "add_space_prefix": True}


def test_a_space_before_every_text_is_warned_about_where_transformers_differs(tmp_path: Path) -> None:
    assert "SentencePiece" in read_tokenizer(of("SentencePiece of Mistral", tmp_path / "a"), 1000).warnings[0]
    assert read_tokenizer(of("SentencePiece of Llama 2", tmp_path / "b"), 1000).warnings == ()


def drop_a_merge(data: Data) -> None:
    """One of several ways to make a piece."""
    merges = data["model"]["merges"]
    made = ["".join(pair) for pair in merges]
    del merges[next(n for n in range(len(merges)) if made.count(made[n]) > 1)]


def move_a_merge(data: Data) -> None:
    merges = data["model"]["merges"]
    made = ["".join(pair) for pair in merges]
    merges.append(merges.pop(next(n for n in range(len(merges)) if made.count(made[n]) > 1)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop_a_merge, "which llama.cpp would join"),
        (move_a_merge, "stand apart"),
        (lambda data: data["model"]["vocab"].pop("<0x41>"), "no token <0x41> to fall back to"),
        (lambda data: data.update(pre_tokenizer={"type": "Whitespace"}), "is none of SentencePiece's"),
        (lambda data: data["model"].update(dropout=0.1), "BPE with dropout 0.1"),
    ],
)
def test_merges_that_scores_cannot_say_are_refused(tmp_path: Path, edit: Callable[[Data], None], message: str) -> None:
    with pytest.raises(SourceRejected, match=message):
        read_tokenizer(of("SentencePiece of Llama 2", tmp_path, edit), 1000)


def test_wordpiece_marks_the_beginnings_of_words(tmp_path: Path) -> None:
    index = of("WordPiece", tmp_path)
    vocab = json.loads(index.files["tokenizer.json"].read_text())["model"]["vocab"]
    tokenizer = read_tokenizer(index, 1000)
    assert tokenizer.tokens[vocab["##e"]] == "e"
    assert tokenizer.tokens[vocab["the"]] == "\u2581the"
    assert tokenizer.tokens[vocab["[CLS]"]] == "[CLS]"
    assert tokenizer.ids == {"unknown": 1, "bos": 2, "cls": 2, "seperator": 3, "padding": 0, "mask": 4}
    assert tokenizer.settings == {"normalizer.lowercase": True, "normalizer.strip_accents": True}
    assert "Korean" in tokenizer.warnings[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["normalizer"].update(handle_chinese_chars=False), "sets Chinese characters apart"),
        (lambda data: data.update(normalizer={"type": "Lowercase"}), "WordPiece with the normalizer"),
        (lambda data: data.update(pre_tokenizer={"type": "Whitespace"}), "WordPiece with the pre-tokenizer"),
        (lambda data: data["model"].update(continuing_subword_prefix="@@"), "WordPiece with the prefix '@@'"),
        (lambda data: data.update(post_processor=None), r"does not put \[CLS\] before"),
    ],
)
def test_wordpiece_that_llama_cpp_computes_otherwise_is_refused(
    tmp_path: Path, edit: Callable[[Data], None], message: str
) -> None:
    with pytest.raises(SourceRejected, match=message):
        read_tokenizer(of("WordPiece", tmp_path, edit), 1000)
