"""`quantmill texts`: what texts are, whether they overlap, and their registration."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from quantmill.cli import options
from quantmill.cli.output import note, say, show_json, show_table
from quantmill.contract.errors import RequestRejected

Paths = Annotated[list[Path], typer.Argument(metavar="FILE...", help="UTF-8 texts, or .jsonl files of documents.")]
ForModel = Annotated[Path | None, typer.Option("--model", metavar="MODEL", help="Count its tokenizer's tokens.")]
Name = Annotated[str | None, typer.Option("--register", metavar="NAME", help="Name FILE in the texts.json beside it.")]
Licence = Annotated[str | None, typer.Option(help="Under which FILE may be used, with --register.")]


def texts(
    files: Paths, model: ForModel = None, register: Name = None, licence: Licence = None, as_json: options.Json = False
) -> None:
    """Show documents, words, languages and digests of texts, and what stands in more than one of them."""
    from quantmill.texts import overlap, registered

    if register is not None:
        _register(files, register, licence)
    read = {str(path): registered(path) for path in files}
    rows: list[dict[str, Any]] = [
        {"file": name, **found.to_json(), "tokens": _tokens(model, documents)}
        for name, (documents, found) in read.items()
    ]
    shared: list[dict[str, Any]] = [
        {"texts": [one, other], "share": overlap(read[one][0], read[other][0]).share}
        for one, other in combinations(read, 2)
    ]
    if as_json:
        show_json({"texts": rows, "overlaps": shared})
        return
    columns = ("file", "name", "licence", "documents", "words", "tokens", "languages", "digest")
    show_table(columns, [tuple(_shown(row[column]) for column in columns) for row in rows])
    for each in shared:
        one, other = each["texts"]
        say(f"{100 * each['share']:.2f} % of {one} stands in {other}")
    for name, (_, found) in read.items():
        if found.warning:
            note(f"warning: {name}: {found.warning}")


def _tokens(model: Path | None, documents: tuple[str, ...]) -> int | None:
    if model is None:
        return None
    from quantmill.calibration import tokenize
    from quantmill.checkpoints import open_checkpoint

    with open_checkpoint(model) as checkpoint:
        return sum(len(tokenize(checkpoint.index, document).ids) for document in documents)


def _register(files: list[Path], name: str, licence: str | None) -> None:
    """Write what FILE is into the texts.json beside it, instead of what stood there of it."""
    from quantmill.files.atomic import atomic_file
    from quantmill.texts import describe, read_documents
    from quantmill.texts.description import REGISTER, registrations

    if len(files) != 1 or not licence:
        raise RequestRejected("--register names one FILE, and wants its --licence")
    (path,) = files
    found = describe(read_documents(path))
    kept = [vars(each) for file, each in registrations(path.parent).items() if file != path.name]
    row = {"name": name, "file": path.name, "licence": licence, "languages": list(found.languages)}
    with atomic_file(path.parent / REGISTER, "w") as file:
        file.write(json.dumps({"texts": [*kept, {**row, "digest": found.digest}]}, indent=1) + "\n")


def _shown(value: Any) -> Any:
    return ", ".join(f"{name} {share:.0%}" for name, share in value.items()) if isinstance(value, dict) else value
