"""The registered texts of an installation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantmill.services import Services
from quantmill.texts import Registration
from quantmill.texts.description import REGISTER, registrations


@dataclass(frozen=True)
class RegisteredText:
    """A registration and where its text lies."""

    path: Path
    registration: Registration


def list_texts(services: Services) -> list[RegisteredText]:
    """What the texts.json of the source roots, and of the folders directly below them, register; by name.

    Nothing is read but those files. Raises TextRejected for one that cannot be used.
    """
    found = {
        folder / each.file: RegisteredText(folder / each.file, each)
        for root in services.settings.source_roots
        for folder in _folders(root)
        for each in registrations(folder).values()
        if "/" not in each.file
    }
    return sorted(found.values(), key=lambda each: (each.registration.name, str(each.path)))


def _folders(root: Path) -> Iterator[Path]:
    if (root / REGISTER).is_file():
        yield root
    yield from sorted(path.parent for path in root.glob(f"*/{REGISTER}") if not path.parent.is_symlink())
