"""Quantizing: the order of rows and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import quantmill_kernels
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import SourceTensor
from quantmill.contract.testing import MemorySession
from quantmill_gguf.algorithm import interleave_halves, quantize
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan


def test_the_halves_of_each_head_are_interleaved() -> None:
    rows = np.arange(8, dtype=np.uint8).reshape(8, 1)
    interleave_halves(rows, heads=2)
    assert rows[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_reordering_commutes_with_encoding(millstone: Checkpoint) -> None:
    values = np.array(millstone.tensor("model.layers.0.self_attn.k_proj.weight").values, np.float32)
    moved = values.reshape(2, 2, 32, 256).swapaxes(1, 2).reshape(128, 256)  # llama.cpp's own formula
    params = GgufParams(type="Q6_K")
    session = MemorySession(millstone, plan(millstone.index, params))
    made = {tensor.name: tensor for tensor in quantize(session, params)}
    packed = made["model.layers.0.self_attn.k_proj.weight"].parts["packed"]
    assert np.array_equal(packed, quantmill_kernels.encode("Q6_K", moved))


def test_a_value_beyond_f16_is_refused_by_tensor_and_place(tmp_path: Path) -> None:
    with open_checkpoint(SyntheticLlama(blocks=1).write(tmp_path)) as checkpoint:
        params = GgufParams(type="F16")

        class Loud(MemorySession):
            def tensor(self, name: str) -> SourceTensor:
                source = super().tensor(name)
                values = np.array(source.values)
                values[3, 5] = 70000
                return SourceTensor(source.info, values)

        with pytest.raises(RangeExceeded, match=r"model\.embed_tokens\.weight: row 3, column 5 is 70144.*F16"):
            next(quantize(Loud(checkpoint, plan(checkpoint.index, params)), params))
