"""What a model's card says of it, as far as files that are made of the model repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Keys of a card's front matter that are read, by the names that hubs and converters know
TEXTS = (
    "name",
    "model_name",
    "author",
    "model_author",
    "model_creator",
    "organization",
    "model_organization",
    "version",
    "model_version",
    "description",
    "model_description",
    "license_name",
    "license_link",
    "url",
    "model_url",
    "repo_url",
    "model_repo_url",
)
LISTS = ("license", "base_model", "base_models", "datasets", "language", "languages", "tags", "pipeline_tag")


@dataclass(frozen=True)
class Card:
    """The front matter of a checkpoint's README.md; empty where there is none.

    texts  one line each, without control characters, by key
    lists  by key, in the card's order; a single text is a list of one
    notes  what of the card was passed over, and why
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
