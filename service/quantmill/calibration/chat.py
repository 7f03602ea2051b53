"""Conversations as text, by a checkpoint's own chat template.

A template is a program that comes with the model. It runs as transformers runs it: in jinja2's sandbox, with the same
filters and functions, but that the date is always the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from quantmill.contract.errors import SourceRejected, TextRejected
from quantmill.contract.strictjson import parse_object
from quantmill.contract.tensors import ModelIndex
from quantmill.texts import Conversation

FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
LARGEST_BYTES = 10 << 20
TODAY = datetime(2024, 7, 26)  # what Llama's own template takes where it is told no date
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatTemplate:
    """A template's text, and the special tokens that it may write."""

    text: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, index: ModelIndex) -> ChatTemplate:
        """Raises TextRejected where the checkpoint has none, SourceRejected where it cannot be read."""
        config = _config(index)
        text = _file(index, FILE) if FILE in index.files else _chosen(config.get("chat_template"))
        if text is None:
            raise TextRejected(
                "The text holds conversations, but the checkpoint has no chat template. Give plain text, or a model "
                "that was trained to chat."
            )
        return cls(text, {name: token for name in SPECIAL if (token := _token(config.get(name))) is not None})

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.text, self.tokens], sort_keys=True).encode()).hexdigest()

    def render(self, conversation: Conversation) -> str:
        """Raises TextRejected where the template does not take the conversation."""
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": refuse, "strftime_now": TODAY.strftime}
        messages = [dict(message) for message in conversation.messages]
        try:
            return environment.from_string(self.text).render(
                messages=messages, add_generation_prompt=False, **self.tokens
            )
        except Exception as error:  # a template is a program: anything may come
            raise TextRejected(
                f"the chat template does not take conversation {conversation.number}: {str(error)[:300]}"
            ) from None


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _config(index: ModelIndex) -> Mapping[str, Any]:
    if CONFIG not in index.files:
        return {}
    try:
        return parse_object(_file(index, CONFIG).encode())
    except ValueError as error:
        raise SourceRejected(f"{CONFIG} cannot be read: {error}.", file=CONFIG) from error


def _file(index: ModelIndex, name: str) -> str:
    try:
        with index.files[name].open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise SourceRejected(f"{name} is larger than {LARGEST_BYTES} bytes.", file=name)
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceRejected(f"{name} cannot be read: {error}.", file=name) from error


def _chosen(stated: Any) -> str | None:
    """The template, or of several named ones the default."""
    if isinstance(stated, list):
        named = {each.get("name"): each.get("template") for each in stated if isinstance(each, Mapping)}
        stated = named.get("default")
    return stated if isinstance(stated, str) else None


def _token(stated: Any) -> str | None:
    found = stated.get("content") if isinstance(stated, Mapping) else stated
    return found if isinstance(found, str) else None
