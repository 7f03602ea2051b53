"""Our choice of types is llama.cpp's for mixtures, Falcon, and models with fused or doubled parts too.

The golden table was made by llama-cpp-python 0.3.36's own quantizer: `tests/conformance/llama_cpp/mixes.py --write`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.random_models import TYPED_MODELS

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/gguf/family_types.json").read_text())


@pytest.fixture(scope="module")
def index_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelIndex]:
    found: dict[str, ModelIndex] = {}

    def of(name: str) -> ModelIndex:
        if name not in found:
            folder = TYPED_MODELS[name].write(tmp_path_factory.mktemp("typed") / "model", hidden=256, filled=False)
            with open_checkpoint(folder) as checkpoint:
                found[name] = checkpoint.index
        return found[name]

    return of


@pytest.mark.parametrize("name", GOLDEN)
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(name: str, index_of: Callable[[str], ModelIndex]) -> None:
    for type_, golden in GOLDEN[name].items():
        types: dict[str, str] = {}
        for row in plan(index_of(name), GgufParams(type=type_)).tensors:
            if row.action != "drop" and row.output.endswith(".weight"):
                types[row.output] = row.scheme.removesuffix("+1")
        found: dict[str, list[str]] = {}
        for output, scheme in types.items():
            found.setdefault(output.split(".")[-2], []).append(scheme)
        assert found == {role: each.split() for role, each in golden.items()}, type_
