"""Text files as documents."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from quantmill.contract.errors import TextRejected

LARGEST_BYTES = 1 << 30
# A byte order mark says which encoding it is; UTF-8's own is taken off
MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", codecs.BOM_UTF32_BE: "UTF-32"}


def read_documents(path: Path) -> tuple[str, ...]:
    """A plain text as one document, or a `.jsonl` file's documents: one object with a string `text` on each line.

    Raises TextRejected, naming the file and the place, for what is not UTF-8, is empty or has nothing but white space,
    holds NUL, is no file or larger than 1 GiB, or is not JSON lines of that kind.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise _rejected(path, f"has {path.stat().st_size} bytes; at most {LARGEST_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise _rejected(path, f"cannot be read: {error.strerror}") from None
    text = _decoded(path, data)
    documents = _lines(path, text) if path.suffix == ".jsonl" else (text,)
    if not any(document.strip() for document in documents):
        raise _rejected(path, "is empty; give a text of at least a few hundred words")
    return documents


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


def _lines(path: Path, text: str) -> tuple[str, ...]:
    documents = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
            document.encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _rejected(path, f'line {number} is not an object with a "text" of Unicode') from None
        documents.append(document)
    return tuple(documents)


def _rejected(path: Path, reason: str) -> TextRejected:
    return TextRejected(f"{path.name} {reason}.", text=path.name)
