"""From calibration text to windows of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantmill.calibration.samples import Samples, read_windows
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import RequestRejected, TextRejected
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.domain.calibration import CalibrationOptions

BYTES = {chr(byte): 2 + position for position, byte in enumerate(b"etaoinshrdlu cmfwygpbvkxqjz")}  # a token each
TEMPLATE = "{% for message in messages %}<s>{{ message.role }}: {{ message.content | tojson }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are bytes, with a chat template."""
    folder = SyntheticLlama(hidden=16, ffn=16, heads=2, kv_heads=1, blocks=1, vocab=258).write(
        tmp_path_factory.mktemp("model") / "model"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": TEMPLATE}))
    return folder


@pytest.fixture
def windows_of(model: Path, tmp_path: Path) -> Callable[..., Samples]:
    def read(content: str | list[object], **options: object) -> Samples:
        name = "text.txt" if isinstance(content, str) else "text.jsonl"
        (tmp_path / name).write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)))
        with open_checkpoint(model) as source:
            asked = CalibrationOptions(str(tmp_path / name), **options)
            return read_windows(source.index, tmp_path / name, asked)

    return read


def texts(samples: Samples) -> list[str]:
    letter = {token: text for text, token in BYTES.items()}
    return ["".join(letter.get(token, "#") for token in window) for window in samples.ids]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window": 4}, ["abcd", "efgh"]),
        ({"window": 4, "truncate": "start"}, ["cdef", "ghij"]),
        ({"window": 4, "packing": "documents"}, ["abcd", "hij"]),
        ({"window": 4, "packing": "documents", "truncate": "start"}, ["defg", "hij"]),
    ],
)
def test_documents_are_packed_or_each_a_window(
    windows_of: Callable[..., Samples], options: dict[str, object], expected: list[str]
) -> None:
    assert texts(windows_of([{"text": "abcdefg"}, {"text": "hij"}], **options)) == expected


def test_the_seed_chooses_windows_in_the_order_of_the_text(windows_of: Callable[..., Samples]) -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(400))

    first, same, other = (windows_of(text, window=5, samples=6, seed=seed) for seed in (1, 1, 2))

    assert texts(first) == texts(same) != texts(other)
    assert first.digest == same.digest != other.digest
    assert len(first.ids) == 6


@pytest.mark.parametrize(
    "change", [{"window": 6}, {"samples": 3}, {"seed": 1}, {"packing": "documents"}, {"truncate": "start"}]
)
def test_everything_that_windows_follow_from_is_in_their_digest(
    windows_of: Callable[..., Samples], change: dict[str, object]
) -> None:
    usual = {"window": 5, "samples": 2}

    assert (
        windows_of("the quick brown fox", **usual | change).digest != windows_of("the quick brown fox", **usual).digest
    )


def test_conversations_go_through_the_model_s_template(windows_of: Callable[..., Samples]) -> None:
    told = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]

    samples = windows_of(told, window=64, packing="documents")

    assert texts(samples) == ["#user# #hi##" + "#assistant# #ho##"]
    assert [token for token in samples.ids[0].tolist() if token < 2] == [0, 1, 0, 1]  # <s> and </s> of the template
    assert samples.documents == ("hi\nho",)


def test_a_control_token_in_a_plain_text_is_plain_text(windows_of: Callable[..., Samples]) -> None:
    assert 0 not in windows_of("<s>abcdef", window=4).ids[0]


def test_a_template_that_does_more_than_write_is_refused(
    model: Path, windows_of: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = {"chat_template": "{{ messages.__class__.__mro__[1].__subclasses__() }}"}
    before = (model / "tokenizer_config.json").read_text()
    (model / "tokenizer_config.json").write_text(json.dumps(evil))
    try:
        with pytest.raises(TextRejected, match="template does not take"):
            windows_of([{"messages": [{"role": "user", "content": "hi"}]}], window=4)
    finally:
        (model / "tokenizer_config.json").write_text(before)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("abc", "has 3 tokens, but a window takes 8"),
        ("  \n", "is empty"),
        ([{"messages": [{"role": "user"}]}], "line 1 is not an object"),
        ([{"messages": "hello"}], "line 1 is not an object"),
        ("снег идёт над городом " * 20, "does not know this language"),
    ],
)
def test_a_text_that_cannot_be_used_says_why(
    windows_of: Callable[..., Samples], content: str | list[object], said: str
) -> None:
    with pytest.raises(TextRejected, match=said):
        windows_of(content, window=8)


def test_doubts_are_warnings(windows_of: Callable[..., Samples]) -> None:
    samples = windows_of("the quick brown fox, съел " * 5, window=8)

    assert 0.1 < samples.unknown < 0.5
    assert [warning.split(" ")[-1] for warning in samples.warnings] == ["language", "for"]


def test_text_that_is_no_utf_8_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes("größe".encode("latin-1") * 20)
    with open_checkpoint(model) as source, pytest.raises(TextRejected, match="is not UTF-8"):
        read_windows(source.index, tmp_path / "text.txt", CalibrationOptions("text.txt"))


@pytest.mark.parametrize(
    "options",
    [{"samples": 0}, {"window": 1}, {"packing": "tight"}, {"truncate": "middle"}, {"starved_experts": "kill"}],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RequestRejected):
        CalibrationOptions("text", **options)


def test_options_survive_json() -> None:
    asked = CalibrationOptions("text", samples=3, packing="documents")

    assert CalibrationOptions.of(json.loads(json.dumps(asked.asked()))) == asked
    assert asked.asked() == {"text": "text", "samples": 3, "packing": "documents"}


def test_windows_may_be_of_different_lengths_but_are_whole_numbers(windows_of: Callable[..., Samples]) -> None:
    samples = windows_of([{"text": "abc"}, {"text": "abcdefghijkl"}], window=8, packing="documents")

    assert [window.dtype for window in samples.ids] == [np.int64, np.int64]
    assert (samples.tokens, samples.window) == (11, 8)
