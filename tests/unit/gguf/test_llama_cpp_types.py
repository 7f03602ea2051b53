"""Our choice of types is llama.cpp's.

The golden table was made by llama-cpp-python 0.3.36's own quantizer:
`python tests/conformance/llama_cpp/check.py --write-golden ...`, which `make conformance` compares again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantmill.checkpoints import Checkpoint
from quantmill.contract.synthetic import SyntheticLlama, tokenizer
from quantmill.contract.tensors import ModelIndex, TensorInfo
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/gguf/llama_cpp_types.json").read_text())


def cases() -> Iterator[tuple[str, str]]:
    for model, entry in GOLDEN["models"].items():
        for label in entry["types"]:
            yield model, label


@pytest.fixture
def index(request: pytest.FixtureRequest, millstone: Checkpoint, tmp_path: Path) -> ModelIndex:
    dimensions: dict[str, Any] | None = GOLDEN["models"][request.param]["dimensions"]
    if dimensions is None:
        return millstone.index
    model = SyntheticLlama(**dimensions)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer(model.vocab)))
    tensors = {name: TensorInfo(name, "F16", shape, 0) for name, shape in model.tensors().items()}
    return ModelIndex(model.config(), tensors, {}, {"tokenizer.json": tmp_path / "tokenizer.json"})


@pytest.mark.parametrize(("index", "label", "model"), [(m, t, m) for m, t in cases()], indirect=["index"])
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(index: ModelIndex, label: str, model: str) -> None:
    found: dict[str, list[str]] = {}
    for row in plan(index, GgufParams.model_validate(GOLDEN["params"][label])).tensors:
        found.setdefault(row.output.split(".")[-2], []).append(row.scheme)
    golden = GOLDEN["models"][model]["types"][label]
    assert found == {role: types.split() for role, types in golden.items()}
