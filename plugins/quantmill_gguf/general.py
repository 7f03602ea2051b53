"""What a file says of the model under `general.*`: the job's own words, else those of the model's card.

Keys and forms are those of llama.cpp's conversion (gguf-py's metadata.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from quantmill.contract.card import Card
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.params import GgufParams

Said = dict[str, str | int | list[str]]

BASE = "base_model.0."

# GGUF's key, and the keys of a card that may say it, the first one that does
TEXTS: Mapping[str, Sequence[str]] = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "organization": ("organization", "model_organization"),
    "version": ("version", "model_version"),
    "description": ("description", "model_description"),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
    "source.url": ("url", "model_url"),
    "source.repo_url": ("repo_url", "model_repo_url"),
}
LISTS: Mapping[str, Sequence[str]] = {"tags": ("tags", "pipeline_tag"), "languages": ("languages", "language")}

HUB = "https://huggingface.co/"
HUB_ID = re.compile(
    r"(?:https?://huggingface\.co/(?:datasets/)?)?([A-Za-z0-9][A-Za-z0-9_.-]{0,99})/([A-Za-z0-9][A-Za-z0-9_.-]{0,99})"
)


def general(index: ModelIndex, params: GgufParams) -> Said:
    """Values by key, without `general.`.

    A license that the job gives replaces all that the card says of licenses, and one base model all base models.
    """
    card, given = index.card, params.general
    found = dict(_card_texts(card))
    if licenses := card.lists.get("license"):
        found["license"] = ",".join(licenses)
    if "license" in given:
        found = {key: value for key, value in found.items() if not key.startswith("license")}
    found |= _references("dataset", card.lists.get("datasets", ()), f"{HUB}datasets/")
    if any(key.startswith(BASE) for key in given):
        found["base_model.count"] = 1
    else:
        found |= _references("base_model", card.lists.get("base_model", card.lists.get("base_models", ())), HUB)
    for key, names in LISTS.items():
        if values := [value for name in names for value in card.lists.get(name, ())]:
            found[key] = values
    found.update(given.items())
    return found


def _card_texts(card: Card) -> Iterator[tuple[str, str | int | list[str]]]:
    for key, names in TEXTS.items():
        text = next((card.texts[name] for name in names if name in card.texts), None)
        if text is not None:
            yield key, text


def _references(kind: str, ids: Sequence[str], hub: str) -> Said:
    """Models or data sets, numbered: by the hub's id, a URL, or a bare name."""
    found: Said = {f"{kind}.count": len(ids)} if ids else {}
    for number, id_ in enumerate(ids):
        on_hub = HUB_ID.fullmatch(id_)
        if on_hub is not None:
            organization, name = on_hub.groups()
            url = f"{hub}{organization}/{name}"
            parts = {"name": titled(name), "organization": titled(organization), "repo_url": url}
        elif "://" in id_:
            parts = {"repo_url": id_}
        else:
            parts = {"name": titled(id_)}
        found |= {f"{kind}.{number}.{key}": value for key, value in parts.items()}
    return found


def titled(id_: str) -> str:
    """`llama-3-8b-instruct` as people write it: Llama 3 8b Instruct; what has capitals or begins with a digit stays."""
    words = id_.replace("-", " ").split()
    return " ".join(word if _stays(word) else word.title() for word in words)


def _stays(word: str) -> bool:
    return not word.islower() or re.fullmatch(r"v\d+(\.\d+)*|\d.*", word) is not None
