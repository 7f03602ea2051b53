"""Model cards: the YAML between the dashes at the head of a README.md, from anybody's hands.

A card decides nothing about the weights. So nothing in it is an error: what is too large, of another kind or no YAML
is passed over, and said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from quantmill.contract.card import LISTS, TEXTS, Card
from quantmill.contract.strictjson import shown

CARD = "README.md"
HEAD_LIMIT = 64 << 10  # bytes of a front matter; real ones with all their evaluation results have about 20 KiB
TEXT_LIMIT = 1000  # characters
LIST_LIMIT = 64

# Texts, lists and mappings only: no dates or numbers, no `no` that is false, no keys merged in from elsewhere
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
NOTHING = ("", "null", "Null", "NULL", "~", "None")


def front_matter(head: bytes) -> bytes:
    """What stands between a first line of three dashes and the next one; empty where there is no such thing.

    `head` is how the file begins: HEAD_LIMIT bytes of it are enough.
    """
    lines = head[:HEAD_LIMIT].removeprefix(b"\xef\xbb\xbf").splitlines()
    if not lines or lines[0].rstrip() != b"---":
        return b""
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == b"---":
            return b"\n".join(lines[1:number]) + b"\n"
    return b""


def read_card(matter: bytes) -> Card:
    """The card whose front matter is `matter`. Never raises: `notes` say what was passed over."""
    if not matter:
        return Card()
    try:
        data = LOADER(matter.decode("utf-8").replace("\t", "  ")).get_single_data()
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError):
        return Card(notes=(f"{CARD}: its front matter is not YAML; nothing of it is repeated",))
    if not isinstance(data, dict):
        return Card(notes=(f"{CARD}: its front matter has no keys; nothing of it is repeated",))
    notes: list[str] = []
    texts = {key: text for key in TEXTS for text in _texts(data, key, notes, most=1)}
    lists = {key: found for key in LISTS if (found := tuple(_texts(data, key, notes, most=LIST_LIMIT)))}
    return Card(texts, lists, tuple(notes))


def _texts(data: Mapping[Any, Any], key: str, notes: list[str], most: int) -> Iterator[str]:
    """The texts of one key; a list of one is as good as the text alone."""
    value = data.get(key, [])
    values = value if isinstance(value, list) else [value]
    if len(values) > most:
        notes.append(f"{CARD}: {key} has {len(values)} entries; the first {most} are repeated")
    for each in values[:most]:
        if each is None or each in NOTHING:
            continue
        text = " ".join(each.split()) if isinstance(each, str) else ""
        if 0 < len(text) <= TEXT_LIMIT and text.isprintable():
            yield text
        else:
            kind = f"{len(text)} characters long" if len(text) > TEXT_LIMIT else f"not a text but {shown(each)}"
            notes.append(f"{CARD}: {key} is {kind}, and is not repeated")
