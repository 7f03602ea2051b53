from __future__ import annotations

from pathlib import Path

import pytest

from quantmill.files.atomic import atomic_file


def test_a_reader_sees_the_old_bytes_until_the_new_ones_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    with atomic_file(path, "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"

    assert path.read_text() == "new"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()

    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"

    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"1" * 10_000)
        second.write(b"2" * 10)

    assert path.read_bytes() == b"1" * 10_000
