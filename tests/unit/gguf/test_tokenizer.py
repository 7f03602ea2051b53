"""Which tokenizers a GGUF file can carry, and what is written of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantmill.checkpoints import Checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.tokenizer import CONTROL, LLAMA3_SPLIT, NORMAL, QWEN2_SPLIT, UNUSED, USER_DEFINED, read_tokenizer

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
    assert (tokenizer.add_bos, tokenizer.add_eos) == (False, False)


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
        {"pre_tokenizer": sequence(split(LLAMA3_SPLIT[1]), BYTES)},  # llama-bpe, but merges are not ignored
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"normalizer": {"type": "Lowercase"}},
    ],
)
def test_an_unknown_pre_tokenizer_is_refused_with_what_was_tried(with_tokenizer: Change, change: Data) -> None:
    with pytest.raises(SourceRejected, match="tried: gpt-2, llama-bpe, qwen2, smollm"):
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
    assert (tokenizer.add_bos, tokenizer.add_eos) == added


def test_the_settings_decide_where_there_is_no_template(with_tokenizer: Change) -> None:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    assert read_tokenizer(with_tokenizer(settings=settings), 320).add_bos


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
        (set_model(byte_fallback=True), "byte_fallback"),
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
        (lambda data: data.update(model=[]), "byte-level BPE tokenizers only"),
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
