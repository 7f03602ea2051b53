"""Model folders: what is written is what others read, whole, in shards, byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from quantmill.contract import model_folder
from quantmill.contract.errors import PluginBroken, SourceRejected
from quantmill.contract.model_folder import (
    ModelFolder,
    StoredPart,
    kept_part,
    kept_row,
    kept_tensor,
    write_model_folder,
)
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, SourceTensor, TensorInfo, TensorPlan

CODES = np.arange(7, dtype=np.uint8)  # odd, so that what follows would not be aligned in the plan's order
SCALE = np.array([[1.5], [2.5]], np.float32)
BIAS = np.array([1, 2, 3], ml_dtypes.bfloat16)

QUANTIZED = TensorPlan("b.weight", (2, 7), "BF16", "quantize", "INT4", "b.weight", CODES.nbytes + SCALE.nbytes)
KEPT = kept_row(TensorInfo("a.bias", "BF16", (3,), 6), "not a matrix")
PLAN = Plan((KEPT, QUANTIZED), (), 0)
CONFIG = {"architectures": ["X"], "quantization_config": {"quant_method": "x"}}


def layout(row: TensorPlan) -> Sequence[StoredPart]:
    if row.action == "keep":
        return (kept_part(row),)
    return (StoredPart("codes", "b.weight", "U8", (7,)), StoredPart("scale", "b.weight_scale", "F32", (2, 1)))


def tensors() -> Iterator[QuantizedTensor]:
    yield kept_tensor(SourceTensor(TensorInfo("a.bias", "BF16", (3,), 6), BIAS))
    yield QuantizedTensor("b.weight", "INT4", (2, 7), {"codes": CODES, "scale": SCALE})


@pytest.fixture
def index(tmp_path: Path) -> ModelIndex:
    (tmp_path / "tokenizer.json").write_text("{}")
    return ModelIndex(CONFIG, {}, {}, {"tokenizer.json": tmp_path / "tokenizer.json"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "artifact").mkdir()
    return tmp_path / "artifact"


def written(folder: Path, index: ModelIndex) -> list[str]:
    return [path.name for path in write_model_folder(tensors(), PLAN, layout, index, CONFIG, folder)]


def test_the_reference_reads_what_is_written(folder: Path, index: ModelIndex) -> None:
    assert written(folder, index) == ["model.safetensors", "config.json", "tokenizer.json"]

    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("b.weight").tolist() == CODES.tolist()
        assert file.get_tensor("b.weight_scale").tolist() == [[1.5], [2.5]]
        assert file.get_tensor("a.bias").tolist() == [1.0, 2.0, 3.0]
    assert json.loads((folder / "config.json").read_text()) == CONFIG


def test_what_is_written_is_read_back(folder: Path, index: ModelIndex) -> None:
    written(folder, index)

    with ModelFolder(folder) as artifact:
        assert artifact.config == CONFIG
        assert sorted(artifact.tensors) == ["a.bias", "b.weight", "b.weight_scale"]
        assert artifact.values("b.weight").tolist() == CODES.tolist()
        assert artifact.files() == ("model.safetensors", "config.json")


def test_each_array_is_aligned_to_its_dtype(folder: Path, index: ModelIndex) -> None:
    written(folder, index)

    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    assert header["b.weight_scale"]["data_offsets"][0] % 4 == 0
    assert header["a.bias"]["data_offsets"][0] % 2 == 0


def test_a_model_above_the_limit_is_sharded(folder: Path, index: ModelIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "SHARD_BYTES", 10)

    names = written(folder, index)

    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert names == [first, second, "model.safetensors.index.json", "config.json", "tokenizer.json"]
    assert json.loads((folder / "model.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 21},
        "weight_map": {"a.bias": first, "b.weight": second, "b.weight_scale": second},
    }
    with ModelFolder(folder) as artifact:
        assert artifact.values("b.weight_scale").tolist() == [[1.5], [2.5]]
        assert artifact.files() == (first, second, "model.safetensors.index.json", "config.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the plan has ('a.bias', 'BF16', ['values']) next, got None"),
        (list(tensors())[::-1], "the plan has ('a.bias', 'BF16', ['values']) next, got ('b.weight', 'INT4'"),
        (
            [next(tensors()), QuantizedTensor("b.weight", "INT4", (2, 7), {"codes": CODES[:3], "scale": SCALE})],
            "b.weight takes 3 bytes, 7 were planned",
        ),
    ],
)
def test_tensors_that_were_not_planned_are_refused(
    folder: Path, index: ModelIndex, given: list[QuantizedTensor], message: str
) -> None:
    with pytest.raises(PluginBroken, match=re.escape(message)):
        write_model_folder(given, PLAN, layout, index, CONFIG, folder)


def test_a_layout_that_takes_other_bytes_than_planned_is_refused(folder: Path, index: ModelIndex) -> None:
    with pytest.raises(PluginBroken, match=re.escape("a.bias: its parts take 0 bytes, the plan says 6")):
        write_model_folder(tensors(), PLAN, lambda _: (), index, CONFIG, folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a.bias": "../model.safetensors"}, "names '../model.safetensors', which is no file of the folder"),
        ({"a.bias": "other.safetensors"}, "names 'other.safetensors', which is no file of the folder"),
        ({"a.bias": 1}, 'has no "weight_map"'),
        ({"a.bias": "x.safetensors"}, "the files disagree: 'b.weight' in x.safetensors"),
    ],
)
def test_an_index_that_does_not_fit_the_files_is_refused(
    folder: Path, index: ModelIndex, weight_map: dict[str, object], message: str
) -> None:
    written(folder, index)
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(SourceRejected, match=re.escape(message)):
        ModelFolder(folder)
