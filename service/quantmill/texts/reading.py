"""Text files as documents."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quantmill.contract.errors import TextRejected

LARGEST_BYTES = 1 << 30
# A byte order mark says which encoding it is; UTF-8's own is taken off
MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", codecs.BOM_UTF32_BE: "UTF-32"}


T = TypeVar("T")


@dataclass(frozen=True)
class Conversation:
    """Messages with a string `role` and a string `content` each, perhaps with more that a template knows.

    `number` is the line that they stand on.
    """

    number: int
    messages: tuple[Mapping[str, Any], ...]


def words_of(sample: str | Conversation) -> str:
    """What is said, without who says it."""
    if isinstance(sample, str):
        return sample
    return "\n".join(message["content"] for message in sample.messages)


def read_samples(path: Path) -> tuple[str | Conversation, ...]:
    """As `read_documents`, but the lines of a `.jsonl` file may hold `messages` instead of a `text`.

    Raises TextRejected as that does.
    """
    text = _text(path)
    samples = _lines(path, text, _sample) if path.suffix == ".jsonl" else (text,)
    if not any(words_of(sample).strip() for sample in samples):
        raise _rejected(path, "is empty; give a text of at least a few hundred words")
    return samples


def read_documents(path: Path) -> tuple[str, ...]:
    """A plain text as one document, or a `.jsonl` file's documents: one object with a string `text` on each line.

    Raises TextRejected, naming the file and the place, for what is not UTF-8, is empty or has nothing but white space,
    holds NUL, is no file or larger than 1 GiB, or is not JSON lines of that kind.
    """
    text = _text(path)
    documents = _lines(path, text, _document) if path.suffix == ".jsonl" else (text,)
    if not any(document.strip() for document in documents):
        raise _rejected(path, "is empty; give a text of at least a few hundred words")
    return documents


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise _rejected(path, f"has {path.stat().st_size} bytes; at most {LARGEST_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise _rejected(path, f"cannot be read: {error.strerror}") from None
    return _decoded(path, data)


def _decoded(path: Path, data: bytes) -> str:
    mark = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    if mark is not None:
        raise _rejected(path, f"is {mark}; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start]
        raise _rejected(
            path, f"is not UTF-8: byte {error.start} (line {line}) is 0x{found:02x}; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise _rejected(path, f"holds NUL at character {text.index(chr(0))}; it is no text")
    return text


def _lines(path: Path, text: str, take: Callable[[int, Any], T]) -> tuple[T, ...]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(take(number, json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _rejected(path, f"line {number} is not {WANTED[take.__name__]}") from None
    return tuple(found)


WANTED = {
    "_document": 'an object with a "text" of Unicode',
    "_sample": 'an object with a "text" of Unicode, or with "messages" of a "role" and a "content" each',
}


def _document(number: int, line: Any) -> str:
    text = line["text"]
    text.encode()
    return str(text)


def _sample(number: int, line: Any) -> str | Conversation:
    if "messages" not in line:
        return _document(number, line)
    messages = tuple(
        {**message, "role": message["role"], "content": message["content"]} for message in line["messages"]
    )
    for message in messages:
        message["role"].encode(), message["content"].encode()
    return Conversation(number, messages)


def _rejected(path: Path, reason: str) -> TextRejected:
    return TextRejected(f"{path.name} {reason}.", text=path.name)
