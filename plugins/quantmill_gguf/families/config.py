"""config.json by transformers' usual names, each value checked before it is used: anybody may have written them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantmill.contract.errors import SourceRejected

MAX_COUNT = 2**31 - 1  # GGUF stores them as u32, llama.cpp reads them into int32


class Config:
    """The values of a config.json, or of an object in it.

    `defaults` stand in for keys that are absent or null; `aliases` gives the other names of keys.
    Each method raises SourceRejected, naming the key, for a value that is absent or of the wrong kind.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._values = values
        self._defaults = defaults or {}
        self._aliases = aliases or {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is, whatever its kind."""
        found = (self._values.get(key), self._values.get(self._aliases.get(key, key)), self._defaults.get(key))
        return next((value for value in found if value is not None), default)

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_COUNT:
            raise self._rejected(key, "a positive integer", value)
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            raise self._rejected(key, "a positive number", value)
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise self._rejected(key, "true or false", value)
        return value

    def section(self, key: str) -> Mapping[str, Any]:
        """An object; empty where there is none."""
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise self._rejected(key, "an object", value)
        return value

    def positives(self, key: str, length: int) -> tuple[float, ...]:
        """A list of `length` positive numbers."""
        values = self.get(key)
        if not isinstance(values, list) or len(values) != length:
            raise self._rejected(key, f"a list of {length} numbers", values)
        return tuple(Config({key: value}).positive(key) for value in values)

    def _rejected(self, key: str, what: str, value: Any) -> SourceRejected:
        name = self._aliases.get(key, key)
        return SourceRejected(f"config.json: {name} must be {what}, not {repr(value)[:80]}", key=name)
