"""The docs say what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from quantmill.settings import Settings


def test_generated_tables_are_current(root: Path) -> None:
    generated = runpy.run_path(str(root / "docs" / "generate.py"))["generated"]()

    stale = [str(path.relative_to(root)) for path, text in generated.items() if path.read_text() != text]

    assert stale == [], "run `python docs/generate.py`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    assert Settings.model_fields[name].description


def test_every_path_that_the_architecture_page_names_exists(root: Path) -> None:
    page = (root / "docs" / "architecture.md").read_text()
    tops = "service|plugins|kernels|migrations|tests|helm|docs"
    named = re.findall(rf"`((?:{tops})/[\w./-]*)`", page)

    assert named
    assert [path for path in named if not (root / path).exists()] == []
