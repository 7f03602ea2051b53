"""Which tokenizers a GGUF file can carry, and what is written of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.small_tokenizers import SENTENCEPIECE, SMALL_TOKENIZERS, write_pieces, write_tokenizer

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.pre_tokenizers import LLAMA3_SPLIT, QWEN2_SPLIT, TEKKEN_SPLIT
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.sentencepiece import read_pieces
from quantmill_gguf.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_tokenizer

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
        (set_model(type="WordLevel"), "not 'WordLevel'"),
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
        (lambda data: data.update(model=[]), "carries BPE, Unigram and WordPiece tokenizers"),
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
    kind = {"S": "llama", "U": "t5", "W": "bert"}.get(name[0], "gpt2")
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


# SentencePiece's unigram models

UNIGRAM = "Unigram of T5"


def test_a_unigram_model_has_its_scores_and_its_normalization(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(of(UNIGRAM, tmp_path), 1000)
    golden = json.loads((SENTENCEPIECE / "golden.json").read_text())["unigram"]
    assert (tokenizer.model, tokenizer.pre) == ("t5", "default")
    assert list(tokenizer.scores[:600]) == golden["scores"]
    assert tokenizer.types[:4] == (CONTROL, CONTROL, UNKNOWN, NORMAL)
    assert tokenizer.ids == {"bos": 0, "eos": 1, "unknown": 2}  # bos is config.json's
    assert tokenizer.settings == {
        "add_bos_token": False,
        "add_eos_token": True,
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
    }
    assert len(tokenizer.charsmap) == 240_007


WIDE = [["\u2581of\u2581the", -3.0]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_model(byte_fallback=True), "falls back to bytes; llama.cpp has one unknown token"),
        (set_model(unk_id=None), "without an unknown token"),
        (set_model(vocab=[["a", 0.0], ["a", -1.0]]), "the piece 'a' is there twice"),
        (set_model(vocab={"a": 0}), "no list of pieces with scores"),
        (set_model(vocab=[["a", "b"]]), "no list of pieces with scores"),
        (lambda data: data["model"].update(vocab=data["model"]["vocab"] + WIDE), "pieces of several words"),
        (lambda data: data.update(normalizer={"type": "Lowercase"}), "is none that llama.cpp computes with a unigram"),
        (lambda data: data.update(pre_tokenizer=None), "is none that llama.cpp computes with a unigram"),
        (lambda data: data["normalizer"].update(precompiled_charsmap="AA"), "precompiled_charsmap is"),
        (lambda data: data["normalizer"].update(precompiled_charsmap="/////w=="), "normalization is damaged"),
    ],
)
def test_a_unigram_model_that_llama_cpp_computes_otherwise_is_refused(
    tmp_path: Path, edit: Callable[[Data], None], message: str
) -> None:
    with pytest.raises(SourceRejected, match=message):
        read_tokenizer(of(UNIGRAM, tmp_path, edit), 1000)


# SentencePiece's own file


Alone = Callable[..., Checkpoint]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    """A checkpoint whose tokenizer is a tokenizer.model alone, and its tokenizer_config.json changed."""
    with ExitStack() as opened:

        def make(name: str, content: bytes | None = None, rows: int = 1000, **settings: Any) -> Checkpoint:
            folder = SyntheticLlama(hidden=64, ffn=64, heads=2, blocks=1, vocab=rows).write(tmp_path / "model")
            write_pieces(name, folder)
            if content is not None:
                (folder / "tokenizer.model").write_bytes(content)
            path = folder / "tokenizer_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
            return opened.enter_context(open_checkpoint(folder))

        yield make


@pytest.mark.parametrize(("name", "kind", "count"), [("bpe", "llama", 700), ("unigram", "t5", 600)])
def test_a_tokenizer_model_alone_is_read_as_sentencepiece_reads_it(
    alone: Alone, name: str, kind: str, count: int
) -> None:
    golden = json.loads((SENTENCEPIECE / "golden.json").read_text())[name]
    tokenizer = read_tokenizer(alone(name).index, 1000)
    numbers = {"unknown": UNKNOWN, "control": CONTROL, "byte": BYTE, "unused": UNUSED}
    types = {id_: numbers[each] for each, ids in golden["kinds"].items() for id_ in ids}
    ids = {role: id_ for role, id_ in golden["ids"].items() if id_ >= 0}

    assert tokenizer.model == kind
    assert tokenizer.tokens == (*golden["pieces"], *(f"[PAD{id_}]" for id_ in range(count, 1000)))
    assert list(tokenizer.scores[:count]) == golden["scores"]
    assert tokenizer.types == tuple(types.get(id_, NORMAL if id_ < count else UNUSED) for id_ in range(1000))
    assert tokenizer.ids == {"bos": 0, **ids}  # where the model has none it is config.json's


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_what_is_written_of_a_tokenizer_model_is_what_verification_reads(
    alone: Alone, tmp_path: Path, name: str
) -> None:
    first = {"bpe": "<unk>", "unigram": "<pad>"}[name]
    added = {"0": {"content": first, "special": True}, "900": {"content": "<tool>"}}
    source = alone(name, added_tokens_decoder=added, chat_template="{{ messages }}", add_eos_token=True)
    run = Run(GGUF, GGUF.params(type="Q8_0"), source)
    run.write(run.quantize(), tmp_path / "artifact")
    verify(source, run.plan, GGUF, run.params, tmp_path / "artifact")
    tokenizer = read_tokenizer(source.index, 1000)
    assert (tokenizer.tokens[900], tokenizer.types[900], tokenizer.scores[900]) == ("<tool>", USER_DEFINED, -1000.0)
    assert tokenizer.settings["add_eos_token"]


BPE_MODEL = (SENTENCEPIECE / "bpe.model").read_bytes()
PIECE = b"\x0a\x08\x0a\x01a\x15\x00\x00\x00\x00"  # "a", of score 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no pieces"),
        (b"\x0a\xff\xff\xff\xff\x0f", "it is cut short"),
        (BPE_MODEL[:1000], "it is cut short"),
        (b"\x0b", "a field of the wire type 3"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x08\x01", "a number where bytes belong"),
        (b"\x0a\x04\x0a\x02\xff\xff", "is no SentencePiece model"),
        (b"\x0a\x05\x0a\x01a\x18\x09", "has the type 9"),
        (PIECE * 2, "two pieces have the same text"),
        (PIECE + b"\x12\x02\x18\x03", "of another kind than BPE and unigram"),
        (PIECE + b"\x12\x02\x18\x02\x1a\x02\x20\x00", "has no token <0x00> to fall back to"),
        (BPE_MODEL + b"\x1a\x02\x20\x01", "joins runs of spaces"),
        (BPE_MODEL + b"\x1a\x03\x12\x01a", "normalizes texts"),
        (BPE_MODEL + b"\x1a\x02\x28\x00", "leaves spaces as they are"),
        (BPE_MODEL + b"\x12\x03\xc0\x01\x01", "puts spaces behind words"),
        (BPE_MODEL + b"\x12\x02\x18\x01", "falls back to bytes; llama.cpp has one unknown token"),
    ],
)
def test_a_tokenizer_model_that_llama_cpp_cannot_have_is_refused(alone: Alone, content: bytes, message: str) -> None:
    with pytest.raises(SourceRejected, match=message):
        read_tokenizer(alone("bpe", content).index, 1000)


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({"tokenizer_class": "MyTokenizer"}, 1000, "'MyTokenizer' adds tokens around a text is not known"),
        ({"added_tokens_decoder": {"5": {"content": "x"}}}, 1000, "share the id 5"),
        ({"added_tokens_decoder": {"x": {}}}, 1000, "not an object of tokens by id"),
        ({"added_tokens_decoder": {"2000": {"content": "x"}}}, 1000, "has id 2000, but the embedding has 1000 rows"),
        ({}, 320, r"tokenizer\.model: token .* has id 320, but the embedding has 320 rows"),
    ],
)
def test_settings_that_do_not_fit_a_tokenizer_model_are_refused(
    alone: Alone, settings: Data, rows: int, message: str
) -> None:
    with pytest.raises(SourceRejected, match=message):
        read_tokenizer(alone("bpe", rows=rows, **settings).index, rows)


@given(at=st.integers(0, len(BPE_MODEL) - 1), byte=st.integers(0, 255))
@example(at=0, byte=255)
def test_a_tokenizer_model_with_any_byte_changed_is_read_or_refused(at: int, byte: int) -> None:
    changed = bytearray(BPE_MODEL)
    changed[at] = byte
    with suppress(SourceRejected):
        read_pieces(bytes(changed), "tokenizer.model")
