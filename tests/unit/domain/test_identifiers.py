"""Identifiers that sort by time."""

from __future__ import annotations

import time
from uuid import RFC_4122

from quantmill.domain.identifiers import uuid7


def test_an_identifier_is_a_version_7_uuid() -> None:
    made = uuid7()

    assert made.version == 7
    assert made.variant == RFC_4122


def test_an_identifier_holds_the_millisecond_it_was_made_in() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000

    assert before <= made.int >> 80 <= after


def test_identifiers_of_later_milliseconds_sort_behind() -> None:
    made = []
    for _ in range(5):
        made.append(uuid7())
        time.sleep(0.002)

    assert made == sorted(made)
    assert [each.hex for each in made] == sorted(each.hex for each in made)


def test_identifiers_of_one_millisecond_differ() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000
