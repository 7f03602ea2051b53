"""What a text is: its content's name, its size, the languages seen in it, the control tokens that stand in it."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantmill.contract.errors import TextRejected
from quantmill.texts.reading import Conversation, read_documents, words_of

REGISTER = "texts.json"  # in a folder of texts: what is known of each
PIECE = 2000  # characters whose language is told at once
LEAST_SHARE = 0.01  # of the text, that a language must have to be listed
LEAST_STOP_WORDS = 0.08  # of a piece's words
LEAST_DIFFERENT = 3

# The commonest words of languages whose script does not tell them
STOP_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to in is that it was for with as his be on are by this not have",
        "de": "der die und das ist nicht ein eine zu den von mit sich auf dem für im auch des",
        "fr": "le la les et des est une dans que qui pas pour sur du au avec il ce ne plus",
        "es": "el los las y de que en es un una por con para no se su como más lo del",
        "it": "il di che è e la un una per non con sono del della si le gli da anche nel",
        "pt": "o os as e de que em é um uma por com para não se do da mais ao na",
        "nl": "de het een en van is dat niet op te met voor zijn aan er ook als bij door",
        "pl": "i w nie na się z do to że jest jak o co ale po od za przez tym",
        "sv": "och att det som en är av för på med till den har inte ett om var jag",
        "ru": "и в не на что с он как это по но из у за от то же бы для",
    }.items()
}
SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "HANGUL": "ko", "ARABIC": "ar", "HEBREW": "he",
    "DEVANAGARI": "hi", "THAI": "th", "GREEK": "el",
}  # fmt: skip

# What stands for a turn, a document's end or a role in one tokenizer, and is plain text to another
CONTROL = re.compile(
    r"<\|[a-z_0-9]{2,40}\|>|<｜[^｜<>]{2,40}｜>|</?s>|<(?:unk|pad|bos|eos|mask)>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|\[(?:CLS|SEP|PAD|MASK|UNK)\]"
)


@dataclass(frozen=True)
class Registration:
    """What somebody says of a text in its folder's texts.json; `digest` is the content that they said it of."""

    name: str
    file: str
    licence: str
    languages: tuple[str, ...] = ()
    digest: str | None = None


@dataclass(frozen=True)
class TextSet:
    """A text by its content. `digest` covers the documents and their order.

    `languages` are those seen, with their share of the characters; `control_tokens` how often strings stand in it that
    some tokenizer takes for one; `name` and `licence` are from its registration.
    """

    digest: str
    documents: int
    characters: int
    words: int
    languages: dict[str, float]
    control_tokens: dict[str, int]
    name: str | None = None
    licence: str | None = None

    @property
    def warning(self) -> str | None:
        """A sentence where control tokens stand in the text."""
        if not self.control_tokens:
            return None
        listed = ", ".join(f"{token} ({count} times)" for token, count in list(self.control_tokens.items())[:5])
        return f"the text holds {listed}: control tokens to some tokenizer, here plain text, which costs likelihood"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def describe(documents: Sequence[str], registration: Registration | None = None) -> TextSet:
    """Raises TextRejected when the text is no longer what was registered."""
    digest = hashlib.sha256()
    for document in documents:  # each with its length, so that no two lists of documents have one digest
        data = document.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    found = f"sha256:{digest.hexdigest()}"
    if registration is not None and registration.digest not in {None, found}:
        raise TextRejected(
            f"{registration.file} has changed since it was registered as {registration.name}: its digest is {found}, "
            f"not {registration.digest}.",
            text=registration.file,
        )
    return TextSet(
        digest=found,
        documents=len(documents),
        characters=sum(map(len, documents)),
        words=sum(len(document.split()) for document in documents),
        languages=_languages(documents),
        control_tokens=dict(sorted(Counter(each for text in documents for each in CONTROL.findall(text)).items())),
        name=registration.name if registration else None,
        licence=registration.licence if registration else None,
    )


def registered(path: Path) -> tuple[tuple[str, ...], TextSet]:
    """A text file's documents and their description, with what the texts.json beside it says.

    Raises TextRejected: as `read_documents` does, for a texts.json that cannot be used, and for a text that has
    changed since it was registered.
    """
    documents = read_documents(path)
    return documents, describe(documents, registrations(path.parent).get(path.name))


def describe_samples(samples: Sequence[str | Conversation], path: Path) -> TextSet:
    """What `read_samples` gave for `path`, with its registration; of a conversation's roles only the digest knows.

    Raises TextRejected for a text that has changed since it was registered.
    """
    if not any(isinstance(sample, Conversation) for sample in samples):
        return describe([words_of(sample) for sample in samples], registrations(path.parent).get(path.name))
    described = describe([words_of(sample) for sample in samples])
    whole = [sample if isinstance(sample, str) else list(sample.messages) for sample in samples]
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return replace(described, digest=f"sha256:{digest}")


def registrations(folder: Path) -> dict[str, Registration]:
    """What a folder's texts.json says, by file name; nothing where there is none."""
    path = folder / REGISTER
    try:
        rows = json.loads(path.read_bytes())["texts"]
        found = [Registration(**{**row, "languages": tuple(row.get("languages", ()))}) for row in rows]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TextRejected(
            f"{path.name} is not a list of registered texts: {str(error)[:200]}.", text=REGISTER
        ) from None
    return {each.file: each for each in found}


def _languages(documents: Sequence[str]) -> dict[str, float]:
    seen: Counter[str] = Counter()
    for piece in _pieces(documents):
        seen[_language(piece)] += len(piece)
    total = sum(seen.values())
    return {name: round(count / total, 4) for name, count in seen.most_common() if count >= LEAST_SHARE * total}


def _pieces(documents: Sequence[str]) -> Iterator[str]:
    for document in documents:
        for start in range(0, len(document), PIECE):
            piece = document[start : start + PIECE]
            if not piece.isspace():
                yield piece


def _language(piece: str) -> str:
    """A language's code, or `unknown`: code and tables have none."""
    letters = Counter(_script(letter) for letter in piece if letter.isalpha())
    by_script = {name: letters[script] for script, name in SCRIPTS.items() if letters[script]}
    if letters["HIRAGANA"] + letters["KATAKANA"]:
        by_script["ja"] = letters["HIRAGANA"] + letters["KATAKANA"] + letters["CJK"]
    if by_script and max(by_script.values()) > 0.3 * letters.total():
        return max(by_script, key=lambda name: by_script[name])
    words = re.findall(r"[^\W\d_]+", piece.lower())
    hits = {name: sum(word in common for word in words) for name, common in STOP_WORDS.items()}
    best = max(hits, key=lambda name: hits[name])
    different = len(STOP_WORDS[best].intersection(words))  # "e" alone is Italian, or a hexadecimal digit
    enough = different >= LEAST_DIFFERENT and hits[best] >= LEAST_STOP_WORDS * len(words)
    return best if enough else "unknown"


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
