"""Texts: read with care, named by their content, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantmill.contract.errors import TextRejected
from quantmill.texts import batches_digest, describe, overlap, read_documents, registered
from quantmill.texts.description import registrations

TEXTS = Path(__file__).parents[2] / "data" / "text"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "text.txt"


# Reading


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"caf\xe9", r"is not UTF-8: byte 3 \(line 1\) is 0xe9"),
        (b"a\nb\n\x80", r"byte 4 \(line 3\) is 0x80"),
        ("text".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"ab\0c", "holds NUL at character 2"),
    ],
    ids=["empty", "white space", "Latin-1", "a later line", "UTF-16", "NUL"],
)
def test_what_is_no_text_is_refused_with_its_place(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)

    with pytest.raises(TextRejected, match=reason):
        read_documents(file)


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(TextRejected, match="cannot be read: No such file"):
        read_documents(file)


def test_utf_8_s_own_mark_is_no_part_of_the_text(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfabc")

    assert read_documents(file) == ("abc",)


def test_json_lines_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two\\nlines", "source": "x"}\n')

    assert read_documents(path) == ("one", "two\nlines")


@pytest.mark.parametrize("line", ["{", "[]", '{"txt": "a"}', '{"text": 1}', '{"text": "\\ud800"}'])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n")

    with pytest.raises(TextRejected, match="line 2 is not an object"):
        read_documents(path)


# Describing


def test_the_digest_covers_documents_and_their_order() -> None:
    digests = {
        describe(documents).digest
        for documents in (["a b", "c"], ["c", "a b"], ["a bc"], ["a b", "c", ""], ["a ", "bc"])
    }

    assert len(digests) == 5
    assert describe(["a b", "c"]).digest == describe(("a b", "c")).digest


def test_a_text_has_counts_and_the_languages_seen() -> None:
    german = "Der Mann ist nicht in dem Haus, und die Frau ist auch nicht zu sehen. " * 40
    japanese = "これは日本語の文章です。" * 60
    table = "0x1f 0x2e 77 12 9\n" * 60

    found = describe([german, japanese, table])

    assert (found.documents, found.words) == (3, 40 * 15 + 1 + 60 * 5)
    assert set(found.languages) == {"de", "ja", "unknown"}
    assert sum(found.languages.values()) == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a <|im_start|>user b<|im_end|> <|im_start|>", {"<|im_end|>": 1, "<|im_start|>": 2}),
        ("<s>[INST] hello [/INST]</s>", {"<s>": 1, "[INST]": 1, "[/INST]": 1, "</s>": 1}),
        ("<start_of_turn>model", {"<start_of_turn>": 1}),
        ("a < b and c > d, [1] <b>bold</b> x|y", {}),
    ],
)
def test_control_tokens_of_any_tokenizer_are_counted_and_said(text: str, tokens: dict[str, int]) -> None:
    found = describe([text])

    assert found.control_tokens == tokens
    assert (found.warning is not None) == bool(tokens)


# Registration


def test_the_shipped_texts_are_registered_and_disjoint() -> None:
    read = {name: registered(TEXTS / f"{name}.txt") for name in ("calibration", "evaluation")}

    assert [found.name for _, found in read.values()] == ["calibration-en", "evaluation-en"]
    assert {found.licence for _, found in read.values()} == {"public domain or CC0-1.0"}
    assert {next(iter(found.languages)) for _, found in read.values()} == {"en"}
    shared = overlap(read["evaluation"][0], read["calibration"][0])
    assert 0 < shared.share < 0.001  # formulas of address
    assert shared.warning is None


def test_a_text_that_changed_since_it_was_registered_is_refused(file: Path) -> None:
    file.write_text("as it was")
    row = {"name": "mine", "file": "text.txt", "licence": "MIT", "digest": describe(["as it was"]).digest}
    (file.parent / "texts.json").write_text(json.dumps({"texts": [row]}))
    assert registered(file)[1].licence == "MIT"

    file.write_text("as it is")

    with pytest.raises(TextRejected, match="has changed since it was registered as mine"):
        registered(file)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"texts": [1]}', '{"texts": [{"name": "a"}]}'])
def test_a_register_that_cannot_be_used_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "texts.json").write_text(content)

    with pytest.raises(TextRejected, match=r"texts\.json is not a list of registered texts"):
        registrations(tmp_path)


# Overlap and batches


def test_what_stands_in_both_texts_is_said_with_an_example() -> None:
    copied = "Four score and seven years ago our fathers brought forth, on this continent, a new nation"
    evaluation = [f"{copied}. " + " ".join(f"word{n}" for n in range(40))]

    shared = overlap(evaluation, ["Something else entirely.", f"He said: {copied.upper()}!"])

    assert (shared.runs, shared.shared) == (56 - 12, 16 - 12)
    assert shared.warning is not None
    assert "9.1 % of the evaluation text" in shared.warning
    assert "four score and seven years ago" in shared.warning


def test_texts_of_few_words_share_nothing() -> None:
    assert overlap(["to be"], ["to be"]).share == 0.0


def test_batches_are_named_by_all_that_they_follow_from() -> None:
    usual = {"text": "sha256:1", "tokenizer": "sha256:2", "sequence": 512, "stride": 512, "packing": "x", "seed": 0}
    others = [
        {"text": "sha256:3"}, {"tokenizer": "sha256:3"}, {"sequence": 256}, {"stride": 256}, {"packing": "y"},
        {"seed": 1}, {"template": "sha256:3"},
    ]  # fmt: skip

    digests = {batches_digest(**{**usual, **other}) for other in [{}, *others]}

    assert len(digests) == 1 + len(others)
    assert batches_digest(**usual) in digests
