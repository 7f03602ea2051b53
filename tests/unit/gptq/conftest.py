"""Small plans and folders of gptq, made without calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, SourceTensor, TensorInfo
from quantmill_gptq.algorithm import _packed
from quantmill_gptq.export import write
from quantmill_gptq.layout import SCALE_DTYPES
from quantmill_gptq.params import GptqParams
from quantmill_gptq.planning import plan
from quantmill_gptq.solution import nearest

HIDDEN, FFN = 64, 96


@pytest.fixture
def index() -> Callable[..., ModelIndex]:
    """A Llama's index of two blocks, or of other shapes."""

    def make(dtype: str = "BF16", tied: bool = False, **changed: tuple[int, ...]) -> ModelIndex:
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (96, HIDDEN), "model.norm.weight": (HIDDEN,)}
        for number in range(2):
            block = f"model.layers.{number}"
            shapes |= {f"{block}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
            shapes |= {f"{block}.mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
            shapes |= {f"{block}.mlp.down_proj.weight": (HIDDEN, FFN), f"{block}.input_layernorm.weight": (HIDDEN,)}
        shapes |= {} if tied else {"lm_head.weight": (96, HIDDEN)}
        shapes |= changed
        width = {"F32": 4}.get(dtype, 2)
        tensors = {
            name: TensorInfo(name, dtype, shape, width * int(np.prod(shape))) for name, shape in sorted(shapes.items())
        }
        ties = {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}
        return ModelIndex({"architectures": ["LlamaForCausalLM"]}, tensors, ties, {})

    return make


@pytest.fixture
def written(index: Callable[..., ModelIndex], tmp_path: Path) -> Callable[..., tuple[Path, dict[str, np.ndarray]]]:
    """A folder whose Linears are rounded to nearest, and what each stands for."""

    def make(dtype: str = "BF16", **asked: Any) -> tuple[Path, dict[str, np.ndarray]]:
        model, params = index(dtype), GptqParams(**asked)
        expected: dict[str, np.ndarray] = {}
        rows = plan(model, params)
        folder = tmp_path / "artifact"
        folder.mkdir()
        write(_rounded(model, rows, params, expected), rows, model, params, folder)
        return folder, expected

    return make


def _rounded(
    index: ModelIndex, rows: Plan, params: GptqParams, expected: dict[str, np.ndarray]
) -> Iterator[QuantizedTensor]:
    stored = np.dtype(SCALE_DTYPES[next(iter(index.tensors.values())).dtype])
    for row in rows.tensors:
        rng = np.random.default_rng(len(row.name))
        values = rng.standard_normal(row.shape).astype(stored)
        if row.action == "keep":
            expected[row.name] = values.astype(np.float32)
            yield kept_tensor(SourceTensor(index.tensors[row.name], values))
        else:
            order = rng.permutation(row.shape[1]) if params.reorders_groups else np.arange(row.shape[1])
            dtype: Any = "float16" if params.format != "compressed-tensors" else SCALE_DTYPES[row.source_dtype]
            solution = nearest(values.astype(np.float32), order, params, dtype)
            expected[row.name] = solution.weights()
            yield _packed(row, solution, params, 1)
