"""Artifacts of bnb that are not whole, or lie about themselves, are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.reading import DecodedRows
from quantmill_bnb.reader import read

NAME = "model.layers.0.mlp.up_proj.weight"
STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 64]}


def artifact(folder: Path, parts: Mapping[str, np.ndarray] = MappingProxyType({}), **changed: Any) -> Path:
    (folder / "config.json").write_text("{}")
    arrays = {
        NAME: np.zeros((64, 1), np.uint8),
        f"{NAME}.absmax": np.ones(2, np.float32),
        f"{NAME}.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        f"{NAME}.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(STATE | changed).encode(), np.uint8),
    }
    save_file({**arrays, **parts}, folder / "model.safetensors")
    return folder


def test_a_whole_one_is_read(tmp_path: Path) -> None:
    (tensor,) = read(artifact(tmp_path))

    assert (tensor.scheme, tensor.values.shape, float(tensor.values.min())) == ("NF4-64", (2, 64), -1.0)


def test_rows_are_those_of_the_whole_though_blocks_run_across_them(tmp_path: Path) -> None:
    packed = np.random.default_rng(0).integers(0, 256, (7 * 50 // 2, 1), dtype=np.uint8)
    parts = {NAME: packed, f"{NAME}.absmax": np.linspace(1, 2, 6, dtype=np.float32)}

    (tensor,) = read(artifact(tmp_path, parts, shape=[7, 50]))

    assert isinstance(tensor.content, DecodedRows)
    for first, last in [(0, 7), (1, 2), (3, 6), (6, 7), (4, 4)]:
        np.testing.assert_array_equal(tensor.content.decode(first, last), tensor.values[first:last])


@pytest.mark.parametrize(
    "changed",
    [
        {"blocksize": 10**12},  # one block: its absmax repeated would fill the memory
        {"blocksize": 0},
        {"nested_offset": 0.0, "nested_blocksize": 10**12},
        {"shape": [2, 10**12]},
        {"shape": [2, -64]},
        {"shape": "many"},
        {"quant_type": "fp4"},
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_decoded(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(VerificationFailed, match=re.escape(NAME)):
        list(read(artifact(tmp_path, **changed)))
