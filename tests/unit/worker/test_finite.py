"""A source tensor is looked through for NaN and infinities before a method sees it."""

import ml_dtypes
import numpy as np
import pytest

from quantmill.contract.errors import NonFiniteTensor
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
