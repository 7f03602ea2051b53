"""What methods keep for an attempt that takes another's place."""

import numpy as np
import pytest

from quantmill.contract.errors import PluginBroken
from quantmill.worker.kept import KeptState

ARRAYS = {"counts": np.arange(6).reshape(2, 3), "average": np.array([], np.float64), "done": np.array(7)}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def test_what_was_kept_last_is_there_for_another_attempt(folder):
    KeptState(folder).put("ranges-1", {"counts": np.zeros(2)})
    KeptState(folder).put("ranges-1", ARRAYS)

    found = KeptState(folder).get("ranges-1")

    assert {key: (array.dtype, array.tolist()) for key, array in found.items()} == {
        key: (array.dtype, array.tolist()) for key, array in ARRAYS.items()
    }
    assert [path.name for path in folder.iterdir()] == ["ranges-1.safetensors"]


def test_nothing_is_kept_under_another_name(folder):
    KeptState(folder).put("ranges-1", ARRAYS)

    assert KeptState(folder).get("ranges-2") is None


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"!", lambda data: b""])
def test_a_damaged_file_counts_as_none(folder, damage):
    KeptState(folder).put("ranges-1", ARRAYS)
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))

    assert KeptState(folder).get("ranges-1") is None


@pytest.mark.parametrize("name", ["", "../units", "Ranges", "a" * 101])
def test_names_that_are_no_file_names_are_refused(folder, name):
    with pytest.raises(PluginBroken, match="letters, digits and hyphens"):
        KeptState(folder).put(name, ARRAYS)
