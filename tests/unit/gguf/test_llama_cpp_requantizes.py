"""What is made of a GGUF file has llama.cpp's types, and is no further from that file than what llama.cpp makes of it.

The golden table was made by llama-cpp-python 0.3.36's own quantizer, with allow_requantize:
`tests/conformance/llama_cpp/requantizing.py --write`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.gguf import TYPES, decoded
from quantmill.contract.testing import Run
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan
from quantmill_gguf.plugin import GGUF

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/gguf/requantized.json").read_text())
MOST_WORSE = 1.0005


@pytest.fixture(scope="module", params=GOLDEN)
def source(
    request: pytest.FixtureRequest, millstone: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Checkpoint]]:
    run = Run(GGUF, GGUF.params(type=request.param), millstone)
    path, *_ = run.write(run.quantize(threads=2), tmp_path_factory.mktemp("source") / "gguf")
    with open_checkpoint(path) as checkpoint:
        yield request.param, checkpoint


def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(source: tuple[str, Checkpoint]) -> None:
    name, checkpoint = source
    for target, golden in GOLDEN[name].items():
        found: dict[str, list[str]] = {}
        for row in plan(checkpoint.index, GgufParams(type=target, allow_requantize=True)).tensors:
            found.setdefault(row.output.split(".")[-2], []).append(row.scheme)
        assert found == {role: types.split() for role, types in golden["types"].items()}, target


@pytest.mark.parametrize("target", ["Q2_K", "Q4_K_M", "IQ4_XS"])
def test_no_tensor_is_further_from_the_source_than_llama_cpp_s(source: tuple[str, Checkpoint], target: str) -> None:
    name, checkpoint = source
    run = Run(GGUF, GGUF.params(type=target, allow_requantize=True), checkpoint)
    errors = {}
    for tensor in run.quantize(threads=2):
        values = checkpoint.tensor(tensor.name).values.astype(np.float64)
        found = decoded(TYPES[tensor.scheme], tensor.parts["packed"]).reshape(values.shape)
        error = float(np.sqrt(np.square(found - values).sum() / np.square(values).sum()))
        if error > 0:
            errors[tensor.name] = error
    golden = GOLDEN[name][target]["errors"]
    assert errors.keys() <= golden.keys()
    assert {key: error for key, error in errors.items() if error > MOST_WORSE * golden[key]} == {}
