"""A source tensor is looked through for NaN and infinities before a method sees it."""

import ml_dtypes
import numpy as np
import pytest

from quantmill.contract.errors import NonFiniteTensor
from quantmill.contract.gguf import TYPES, BlockTensor
from quantmill.contract.tensors import SourceTensor, TensorInfo
from quantmill.worker import session
from quantmill.worker.session import require_finite


def source(values):
    return SourceTensor(TensorInfo("w", "any", values.shape, values.nbytes), values)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_value_is_named_with_its_position(dtype, bad, monkeypatch):
    monkeypatch.setattr(session, "CHUNK_VALUES", 16)
    values = np.zeros((8, 8), dtype)
    values[5, 3] = values[7, 7] = bad

    with pytest.raises(NonFiniteTensor, match=r"'w'.*\[5, 3\]") as caught:
        require_finite(source(values))

    assert caught.value.fields == {"tensor": "w", "position": [5, 3]}


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8, np.bool_])
def test_finite_and_integer_tensors_pass(dtype):
    require_finite(source(np.ones((8, 8), dtype)))


@pytest.mark.parametrize("chunk", [32, 1 << 20])
def test_a_bad_scale_of_a_block_is_found_where_it_makes_a_bad_value(chunk, monkeypatch):
    monkeypatch.setattr(session, "CHUNK_VALUES", chunk)
    packed = np.zeros((3, 68), np.uint8)  # Q8_0: a float16 scale and 32 codes, two blocks a row
    packed[1, 34:36] = np.array([np.inf], np.float16).view(np.uint8)
    packed[1, 40] = 1

    with pytest.raises(NonFiniteTensor, match="repair or re-export") as caught:
        require_finite(BlockTensor(TensorInfo("w", "F32", (3, 64), 768), TYPES["Q8_0"], packed))

    assert caught.value.fields == {"tensor": "w", "position": [1, 32]}
    require_finite(BlockTensor(TensorInfo("w", "F32", (2, 64), 512), TYPES["Q8_0"], packed[[0, 2]]))
