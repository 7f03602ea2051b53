"""Finished units on disk."""

import numpy as np
from safetensors.numpy import load_file

from quantmill.contract.tensors import QuantizedTensor
from quantmill.worker.units import read_unit, write_unit

PACKED = np.arange(36, dtype=np.uint8).reshape(2, 18)
SCALES = np.array([0.5, 0.25], np.float16)


def unit():
    return [
        QuantizedTensor("q", "Q4_0", (2, 32), {"packed": PACKED}),
        QuantizedTensor("k", "nf4", (2, 32), {"packed": PACKED[:, :16], "scales": SCALES}),
    ]


def test_a_unit_is_read_back_as_it_was_written(tmp_path):
    write_unit(unit(), tmp_path / "unit.safetensors")

    q, k = read_unit(tmp_path / "unit.safetensors")

    assert (q.name, q.scheme, q.shape) == ("q", "Q4_0", (2, 32))
    assert (k.name, k.scheme, k.shape) == ("k", "nf4", (2, 32))
    np.testing.assert_array_equal(q.parts["packed"], PACKED)
    np.testing.assert_array_equal(k.parts["packed"], PACKED[:, :16])
    np.testing.assert_array_equal(k.parts["scales"], SCALES)


def test_the_same_unit_gives_the_same_bytes(tmp_path):
    write_unit(unit(), tmp_path / "a")
    write_unit(unit(), tmp_path / "b")

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_unit_file_is_plain_safetensors(tmp_path):
    write_unit(unit(), tmp_path / "unit.safetensors")

    assert sorted(load_file(tmp_path / "unit.safetensors")) == ["0/packed", "1/packed", "1/scales"]


def test_a_unit_whose_tensors_are_all_dropped_is_empty(tmp_path):
    write_unit([], tmp_path / "unit.safetensors")

    assert list(read_unit(tmp_path / "unit.safetensors")) == []
