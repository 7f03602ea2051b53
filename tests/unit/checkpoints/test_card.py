"""Model cards: what of a README.md's front matter is repeated, and that no card stops a job."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.checkpoints import open_checkpoint
from quantmill.checkpoints.card import HEAD_LIMIT, front_matter, read_card
from quantmill.contract.synthetic import SyntheticLlama

CARD = b"""---
license: other
license_name: llama3
license_link: https://example.org/LICENSE
model_name: Small  Llama
base_model:
- example/base-7b
language: no
tags: [chat, 2024]
datasets: ~
---
# Small Llama
license: mit
"""


def test_texts_and_lists_are_read_as_they_are_written() -> None:
    card = read_card(front_matter(CARD))

    assert card.texts == {
        "license_name": "llama3",
        "license_link": "https://example.org/LICENSE",
        "model_name": "Small Llama",
    }
    assert card.lists == {
        "license": ("other",),
        "base_model": ("example/base-7b",),
        "language": ("no",),
        "tags": ("chat", "2024"),
    }
    assert card.notes == ()


@pytest.mark.parametrize(
    "head",
    [b"", b"# A model\n---\nlicense: mit\n---\n", b"---\nlicense: mit\n", b"---\n" + b"a: b\n" * HEAD_LIMIT + b"---\n"],
)
def test_a_file_without_front_matter_says_nothing(head: bytes) -> None:
    assert front_matter(head) == b""
    assert read_card(b"").notes == ()


@pytest.mark.parametrize(
    ("matter", "note"),
    [
        (b"license: {a: b}", "license is not a text but {'a': 'b'}"),
        (b"license: [[mit]]", "license is not a text but ['mit']"),
        (b"model_name: [a, b]", "model_name has 2 entries; the first 1 are repeated"),
        (b"tags: [" + b"t, " * 65 + b"]", "tags has 65 entries; the first 64 are repeated"),
        (b"model_description: " + b"x" * 1001, "model_description is 1001 characters long"),
        (b'license: "a\\u202eb"', r"license is not a text but 'a\u202eb'"),
        (b'license: "a\\0b"', r"license is not a text but 'a\x00b'"),
        (b"license: [mit", "not YAML"),
        (b"license: \xff", "not YAML"),
        (b"- mit", "has no keys"),
        (b"a: &a [*a]", "not YAML"),
        (b"[" * 20_000, "not YAML"),
    ],
)
def test_what_cannot_be_repeated_is_passed_over_and_said(matter: bytes, note: str) -> None:
    card = read_card(matter)

    assert note in " ".join(card.notes)
    assert "license" not in card.lists


def test_a_tag_that_names_code_is_a_tag_of_plain_values() -> None:
    assert read_card(b"license: !!python/object/apply:os.system [ls]").lists == {"license": ("ls",)}


def test_keys_that_are_merged_over_and_over_cost_nothing() -> None:
    levels = "\n".join(f"k{n}: &k{n}\n  <<: [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 30))
    tracemalloc.start()
    try:
        card = read_card(f"k0: &k0 {{a: b}}\n{levels}\nlicense: mit\n".encode())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert card.lists == {"license": ("mit",)}
    assert peak < 4 << 20


@settings(max_examples=200, deadline=None)
@given(matter=st.binary(max_size=200) | st.text(alphabet="-:[]{}&*!|>'\"#%@ \nab", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_passed_over(matter: bytes) -> None:
    read_card(matter)


# In a checkpoint


def test_the_front_matter_counts_for_the_digest_and_the_text_does_not(tmp_path: Path) -> None:
    folder = SyntheticLlama(blocks=1).write(tmp_path / "model")
    digests = {}
    for name, content in {
        "plain": CARD,
        "other text": CARD + b"more",
        "other license": CARD.replace(b"other", b"x"),
    }.items():
        (folder / "README.md").write_bytes(content)
        with open_checkpoint(folder) as checkpoint:
            digests[name] = checkpoint.source_digest()

    assert digests["plain"] == digests["other text"] != digests["other license"]


def outside(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def folder_of_that_name(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [outside, folder_of_that_name, pipe])
def test_a_card_that_is_no_file_of_the_folder_is_passed_over_and_said(tmp_path: Path, make: object) -> None:
    folder = SyntheticLlama(blocks=1).write(tmp_path / "model")
    make(folder / "README.md")  # type: ignore[operator]

    with open_checkpoint(folder) as checkpoint:
        card = checkpoint.index.card

    assert (card.texts, card.lists) == ({}, {})
    assert card.notes[0].startswith("README.md")
