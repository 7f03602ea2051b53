"""How commands speak: results on stdout, as text or as JSON, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from pydantic import BaseModel

from quantmill.contract.errors import QuantmillError, describe


def say(text: str) -> None:
    typer.echo(text)


def note(text: str) -> None:
    """Something for the person at the terminal, not for the next program."""
    typer.echo(text, err=True)


def warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        note(f"warning: {warning}")


def show_json(value: Any, *, indent: int | None = 2) -> None:
    typer.echo(json.dumps(plain(value), indent=indent, default=str))


def plain(value: Any) -> Any:
    """Views as the JSON values that the API shows for them."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def show_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Left-aligned columns, two spaces apart, also where stdout is a pipe: nothing is cut off."""
    cells = [list(headers), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_fields(fields: Mapping[str, Any]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        say(f"{name.ljust(width)}  {_cell(value)}")


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def show_error(error: QuantmillError, as_json: bool) -> None:
    """`title: detail`, then the remedy where the error has one; with --json the problem document."""
    problem = describe(error)
    if as_json:
        note(json.dumps(problem, default=str))
        return
    note(f"{problem['title'].rstrip('.')}: {problem['detail']}")
    if remedy := problem.get("remedy"):
        note(str(remedy))


def size(count: int) -> str:
    """A number of bytes in powers of ten, as disks and model hubs count."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
