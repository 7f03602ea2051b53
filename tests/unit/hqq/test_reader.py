"""The reader against hqq's own layers, and artifacts that are not whole or lie about themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantmill.contract.errors import QuantmillError
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import TensorPlan
from quantmill_hqq.layout import parts_of
from quantmill_hqq.params import HqqParams
from quantmill_hqq.reader import read

MODULE = "model.layers.0.mlp.up_proj"
Arrays = dict[str, np.ndarray]
LAYERS = [
    ("1-16-1-float32", "HQQ1-16"),
    ("2-16-0-float16", "HQQ2-16-AXIS0"),
    ("3-8-1-bfloat16", "HQQ3-8"),
    ("3-32-0-float32", "HQQ3-32-AXIS0"),
    ("4-64-1-bfloat16", "HQQ4-64"),
    ("4-None-0-float32", "HQQ4-32-AXIS0"),
    ("5-16-1-float16", "HQQ5-16"),
    ("6-None-1-float32", "HQQ6-ROW"),
    ("8-32-1-bfloat16", "HQQ8-32"),
]


@pytest.fixture(scope="module")
def golden() -> dict[str, Arrays]:
    """Layers as hqq 0.2.8 stores them (tests/conformance/hqq/golden.py), by bits-group-axis-dtype."""
    with np.load(Path(__file__).parents[2] / "data" / "golden" / "hqq_layers.npz") as stored:
        layers: dict[str, Arrays] = {}
        for key in stored.files:
            layer, _, name = key.partition("/")
            values = stored[key]
            layers.setdefault(layer, {})[name] = (
                values.view(ml_dtypes.bfloat16) if values.dtype == np.uint16 else values
            )
        return layers


def folder_of(arrays: Arrays, folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    stored = {f"{MODULE}.{name}": each.copy(order="C") for name, each in arrays.items()}
    save_file(stored, folder / "model.safetensors")
    return folder


def read_one(arrays: Arrays, folder: Path) -> ReadTensor:
    (tensor,) = read(folder_of(arrays, folder))
    return tensor


@pytest.mark.parametrize(("layer", "scheme"), LAYERS)
def test_a_layer_of_hqq_reads_as_hqq_dequantizes_it(
    layer: str, scheme: str, golden: dict[str, Arrays], tmp_path: Path
) -> None:
    arrays = dict(golden[layer])
    expected = arrays.pop("dequantized")

    tensor = read_one(arrays, tmp_path)

    assert (tensor.name, tensor.scheme) == (f"{MODULE}.weight", scheme)
    assert np.array_equal(tensor.values, expected)


@pytest.mark.parametrize(("layer", "scheme"), LAYERS)
def test_our_layout_has_the_arrays_of_hqq(layer: str, scheme: str, golden: dict[str, Arrays]) -> None:
    nbits, size, axis, dtype = layer.split("-")
    group_size = -1 if size == "None" else int(size)
    params = HqqParams(nbits=int(nbits), group_size=group_size, axis=int(axis), compute_dtype=dtype)
    row = TensorPlan(f"{MODULE}.weight", (32, 48), "F32", "quantize", scheme, "", 0)

    ours = {part.part: (part.nbytes, part.shape) for part in parts_of(row, params)}

    theirs = {name: (each.nbytes, each.shape) for name, each in golden[layer].items() if name != "dequantized"}
    assert ours == theirs


def four_bit() -> Arrays:
    """(4, 16) in groups of 8, hqq's arrays; every code is 1 or 2."""
    texts = {"packing": "4bit_u8", "unpack_view_dtype": "torch.uint8", "compute_dtype": "torch.float32"}
    flags = {"view_as_float": 0, "quant_scale": 0, "quant_zero": 0, "offload_meta": 0, "round_zero": 0}
    flags |= {"encoded_state_dict": 1, "stores_quant_config": 1, "channel_wise": 1, "optimize": 1}
    return {
        "W_q": np.full((4, 8), 0x12, np.uint8),
        "scale": np.full((8, 1), 0.5, np.float32),
        "zero": np.full((8, 1), 3.0, np.float32),
        "shape": np.array([4, 16], np.int64),
        **{key: np.array(value, np.int32) for key, value in {"nbits": 4, "group_size": 8, "axis": 1}.items()},
        **{key: np.frombuffer(value.encode(), np.uint8) for key, value in texts.items()},
        **{key: np.array(value, np.uint8) for key, value in flags.items()},
    }


def packed() -> Arrays:
    """(8, 16) in groups of 8, compressed-tensors' arrays; codes 0 to 7, zero points 1."""
    return {
        "weight_packed": np.full((8, 2), 0x76543210, np.int32),
        "weight_scale": np.full((8, 2), 0.5, np.float32),
        "weight_zero_point": np.full((1, 2), 0x11111111, np.int32),
        "weight_shape": np.array([8, 16], np.int64),
    }


def test_the_first_half_of_the_groups_is_in_the_high_nibbles(tmp_path: Path) -> None:
    values = read_one(four_bit(), tmp_path).values

    assert values[:2].tolist() == [[-1.0] * 16] * 2
    assert values[2:].tolist() == [[-0.5] * 16] * 2


def test_compressed_tensors_has_the_first_code_in_the_lowest_bits(tmp_path: Path) -> None:
    tensor = read_one(packed(), tmp_path)

    assert tensor.scheme == "INT4-8-ASYM"
    assert tensor.values[7].tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0] * 2


def change(**arrays: Any) -> Callable[[Arrays], None]:
    return lambda stored: stored.update(arrays)


def drop(name: str) -> Callable[[Arrays], None]:
    return lambda stored: stored.pop(name)  # type: ignore[arg-type, return-value]


DAMAGES: dict[str, tuple[Callable[[], Arrays], Callable[[Arrays], None]]] = {
    "no scale": (four_bit, drop("scale")),
    "no zero": (four_bit, drop("zero")),
    "no shape": (four_bit, drop("shape")),
    "no flag": (four_bit, drop("view_as_float")),
    "bits that nobody packs": (four_bit, change(nbits=np.array(7, np.int32))),
    "bits of another packing": (four_bit, change(nbits=np.array(2, np.int32))),
    "bits as a byte": (four_bit, change(nbits=np.array(4, np.uint8))),
    "bits as a list": (four_bit, change(nbits=np.array([4], np.int32))),
    "no group": (four_bit, change(group_size=np.array(0, np.int32))),
    "a negative group": (four_bit, change(group_size=np.array(-8, np.int32))),
    "groups of another size": (four_bit, change(group_size=np.array(16, np.int32))),
    "a huge group": (four_bit, change(group_size=np.array(2**31 - 1, np.int32))),
    "another axis": (four_bit, change(axis=np.array(0, np.int32))),
    "an axis that is none": (four_bit, change(axis=np.array(2, np.int32))),
    "a huge shape": (four_bit, change(shape=np.array([2**40, 16], np.int64))),
    "a shape that overflows": (four_bit, change(shape=np.array([2**62, 2**62], np.int64))),
    "a negative shape": (four_bit, change(shape=np.array([-4, -16], np.int64))),
    "three dimensions": (four_bit, change(shape=np.array([4, 4, 4], np.int64))),
    "another packing": (four_bit, change(packing=np.frombuffer(b"8bit_u8", np.uint8))),
    "a packing as numbers": (four_bit, change(packing=np.zeros(7, np.int32))),
    "another view": (four_bit, change(unpack_view_dtype=np.frombuffer(b"torch.int32", np.uint8))),
    "codes cut off": (four_bit, change(W_q=np.zeros((3, 8), np.uint8))),
    "codes of another dtype": (four_bit, change(W_q=np.zeros((4, 8), np.int32))),
    "scales cut off": (four_bit, change(scale=np.ones((7, 1), np.float32))),
    "scales along the other axis": (four_bit, change(scale=np.ones((1, 8), np.float32))),
    "no zero points": (packed, drop("weight_zero_point")),
    "zero points cut off": (packed, change(weight_zero_point=np.zeros((1, 1), np.int32))),
    "zero points as bytes": (packed, change(weight_zero_point=np.zeros((1, 2), np.uint8))),
    "a shape of more columns": (packed, change(weight_shape=np.array([8, 32], np.int64))),
    "a shape of no columns": (packed, change(weight_shape=np.array([8, 0], np.int64))),
    "a shape of more rows": (packed, change(weight_shape=np.array([16, 16], np.int64))),
    "scales that do not divide": (packed, change(weight_scale=np.ones((8, 3), np.float32))),
    "no scales at all": (packed, change(weight_scale=np.ones((8, 0), np.float32))),
    "scales in one dimension": (packed, change(weight_scale=np.ones(8, np.float32))),
}


@pytest.mark.parametrize(("whole", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_arrays_that_do_not_fit_are_refused_before_anything_is_decoded(
    whole: Callable[[], Arrays], damage: Callable[[Arrays], None], tmp_path: Path
) -> None:
    arrays = whole()
    damage(arrays)

    with pytest.raises(QuantmillError, match=re.escape(MODULE)):
        list(read(folder_of(arrays, tmp_path)))
