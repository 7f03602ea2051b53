"""Commands, run in this process or as one of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from quantmill.cli import run


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        return json.loads(self.err)


@pytest.fixture
def quantmill(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> Iterator[Callable[..., Ran]]:
    """Run a command; its data folder is the test's unless it says otherwise."""
    monkeypatch.setenv("QUANTMILL_DATA_DIR", str(tmp_path / "data"))

    def invoke(*arguments: object) -> Ran:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    yield invoke
    structlog.reset_defaults()  # commands log to a stderr that is gone after the test


@pytest.fixture
def remote(quantmill: Callable[..., Ran], service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command against the running service."""
    monkeypatch.setenv("QUANTMILL_SERVER", service.url)
    return quantmill
