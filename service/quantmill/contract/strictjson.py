"""JSON objects that every reader understands the same way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn


def parse_object(data: bytes, *, parse_int: Callable[[str], int] = int, non_finite: bool = False) -> dict[str, Any]:
    """The JSON object that `data` holds.

    Readers disagree about repeated keys, text that is not UTF-8 and half surrogates: one may check a value and
    another use a different one. All three are refused. `non_finite` lets NaN and Infinity pass, which some
    config.json files hold. Raises ValueError with the reason.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=parse_int,
            parse_constant=float if non_finite else _refuse_constant,
        )
    except UnicodeError as error:
        raise ValueError("it is not valid UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  callers expect one kind
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is there twice")
    for key, value in pairs:
        _check_text(key)
        if isinstance(value, str):
            _check_text(value)
    return found


def _check_text(text: str) -> None:
    if not text.isascii():
        text.encode()  # fails on a half surrogate, which JSON can escape but which is not text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def shown(text: object) -> str:
    """`text` as a message can quote it: escaped, and not longer than a line."""
    quoted = repr(text)
    return quoted if len(quoted) <= 120 else f"{quoted[:100]}...{quoted[-10:]}"
