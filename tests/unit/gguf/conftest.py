"""Checkpoints to plan and to quantize: a small one written once, and indexes made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex, TensorInfo

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def millstone() -> Iterator[Checkpoint]:
    with open_checkpoint(DATA / "millstone-4m") as checkpoint:
        yield checkpoint


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """An untied checkpoint of one block."""
    folder = SyntheticLlama(blocks=1).write(tmp_path_factory.mktemp("gguf") / "small")
    with open_checkpoint(folder) as checkpoint:
        yield checkpoint


@pytest.fixture
def with_config(small: Checkpoint) -> Callable[..., ModelIndex]:
    """The small checkpoint's index with other values in config.json; None removes a key."""

    def change(**values: Any) -> ModelIndex:
        config = {**small.index.config, **values}
        return replace(small.index, config={key: value for key, value in config.items() if value is not None})

    return change


@pytest.fixture
def with_tensors(small: Checkpoint) -> Callable[..., ModelIndex]:
    """The small checkpoint's index with tensors added, replaced, or removed where None."""

    def change(tensors: dict[str, TensorInfo | None]) -> ModelIndex:
        changed = {**small.index.tensors, **tensors}
        return replace(small.index, tensors={name: info for name, info in changed.items() if info is not None})

    return change


@pytest.fixture
def with_tokenizer(small: Checkpoint, tmp_path: Path) -> Callable[..., ModelIndex]:
    """The small checkpoint's index with a changed tokenizer.json and tokenizer_config.json."""

    def change(
        edit: Callable[[dict[str, Any]], None] = lambda data: None, settings: dict[str, Any] | None = None
    ) -> ModelIndex:
        data = json.loads(small.index.files["tokenizer.json"].read_text())
        edit(data)
        files = {"tokenizer.json": tmp_path / "tokenizer.json", "tokenizer_config.json": tmp_path / "settings.json"}
        files["tokenizer.json"].write_text(json.dumps(data))
        files["tokenizer_config.json"].write_text(
            json.dumps(settings if settings is not None else {"bos_token": "<s>", "eos_token": "</s>"})
        )
        return replace(small.index, files=files)

    return change
