"""Model folders that are taken apart, damaged in one way and put together again, and what verification says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import Checkpoint
from quantmill.contract import model_folder
from quantmill.contract.errors import VerificationFailed
from quantmill.contract.method import Method
from quantmill.contract.tensors import QuantizedTensor
from quantmill.contract.testing import Run
from quantmill.verification import verify

ITEM_TYPES = {
    "U8": "u1",
    "I8": "i1",
    "I32": "<i4",
    "I64": "<i8",
    "F8_E4M3": "u1",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "F32": "<f4",
}


@dataclass
class Array:
    """A stored array; `values` may be changed in place. F8_E4M3 are bytes."""

    dtype: str
    shape: list[int]
    values: np.ndarray


@dataclass
class Folder:
    """config.json and the arrays of model.safetensors, in the order of the file. `checkpoint` is what they are of."""

    path: Path
    checkpoint: Checkpoint
    config: dict[str, Any] = field(init=False)
    arrays: dict[str, Array] = field(init=False)
    metadata: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.config = json.loads((self.path / "config.json").read_text())
        raw = (self.path / "model.safetensors").read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        self.metadata = header.pop("__metadata__")
        self.arrays = {name: self._array(entry, raw[8 + size :]) for name, entry in header.items()}

    def _array(self, entry: dict[str, Any], data: bytes) -> Array:
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[begin:end], ITEM_TYPES[entry["dtype"]]).reshape(entry["shape"])
        return Array(entry["dtype"], entry["shape"], values.copy())

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name].values

    def __setitem__(self, name: str, values: np.ndarray) -> None:
        """Other values of the same dtype, or an array of bytes that is added."""
        dtype = self.arrays[name].dtype if name in self.arrays else "U8"
        self.arrays[name] = Array(dtype, list(values.shape), values)

    def save(self) -> None:
        entries: dict[str, Any] = {"__metadata__": self.metadata}
        end = 0
        for name, array in self.arrays.items():
            begin, end = end, end + array.values.nbytes
            entries[name] = {"dtype": array.dtype, "shape": array.shape, "data_offsets": [begin, end]}
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        data = (array.values.tobytes() for array in self.arrays.values())
        (self.path / "model.safetensors").write_bytes(b"".join([len(header).to_bytes(8, "little"), header, *data]))
        (self.path / "config.json").write_text(json.dumps(self.config))


Damage = Callable[[Folder], object]


def by_the_method(run: Run) -> Iterator[QuantizedTensor]:
    return run.quantize(threads=2)


@dataclass(frozen=True)
class Made:
    """A checkpoint with its artifacts by method and parameters, each made once. `quantize` gives their tensors."""

    checkpoint: Checkpoint
    folder: Path
    quantize: Callable[[Run], Iterator[QuantizedTensor]] = by_the_method

    def artifact(self, method: Method, params: Mapping[str, Any]) -> Path:
        name = "-".join([method.name, *map(str, params.values())])
        if not (self.folder / name).exists():
            self.write(method, params, self.folder / name)
        return self.folder / name

    def write(self, method: Method, params: Mapping[str, Any], folder: Path) -> None:
        run = self.run(method, params)
        run.write(self.quantize(run), folder)

    def copy(self, method: Method, params: Mapping[str, Any], folder: Path) -> Folder:
        return Folder(Path(shutil.copytree(self.artifact(method, params), folder)), self.checkpoint)

    def run(self, method: Method, params: Mapping[str, Any]) -> Run:
        own = self.folder / "calibration"
        own.mkdir(parents=True, exist_ok=True)
        return Run(method, method.params(**params), self.checkpoint, calibrate, own)

    def failed_checks(self, method: Method, params: Mapping[str, Any], folder: Path) -> dict[str, str]:
        run = self.run(method, params)
        try:
            verify(self.checkpoint, run.plan, method, run.params, folder)
        except VerificationFailed as error:
            return {check["name"]: check["detail"] for check in error.fields["failed"]}
        return {}


# Damages


@dataclass(frozen=True)
class Damages:
    """A table: what is done to a folder of a method, which check refuses it then, and what that names.

    Called with a method, a check, what it names and parameters, it adds the function that it decorates.
    """

    rows: dict[str, tuple[Method, Mapping[str, Any], Damage, str, str]] = field(default_factory=dict)

    def __call__(self, method: Method, check: str, named: str, **params: Any) -> Callable[[Damage], Damage]:
        def add(edit: Damage) -> Damage:
            self.rows[f"{method.name} {edit.__name__.replace('_', ' ').strip()}"] = (method, params, edit, check, named)
            return edit

        return add


def assert_refused(found: Mapping[str, str], check: str, named: str) -> None:
    assert check in found, found
    assert named in found[check]


def damage_is_refused(damage: Damages, made: str) -> Callable[..., None]:
    """A test for each row of the table: a copy of the artifact, with the arrays or settings changed, fails the check
    that names it. `made` is the name of a fixture, a Made."""

    @pytest.mark.parametrize(("method", "params", "edit", "check", "named"), damage.rows.values(), ids=damage.rows)
    def test(
        request: pytest.FixtureRequest,
        tmp_path: Path,
        method: Method,
        params: Mapping[str, Any],
        edit: Damage,
        check: str,
        named: str,
    ) -> None:
        source: Made = request.getfixturevalue(made)
        copy = source.copy(method, params, tmp_path / "artifact")
        edit(copy)
        copy.save()

        assert_refused(source.failed_checks(method, params, copy.path), check, named)

    return test


def other_files_are_refused(made: str, params: Mapping[str, Any], *methods: Method) -> Callable[..., None]:
    """The same of changes to the folder's files, which nothing writes again."""

    @pytest.mark.parametrize("method", methods, ids=lambda method: method.name)
    @pytest.mark.parametrize(("edit", "check", "named"), FILES.values(), ids=FILES)
    def test(
        request: pytest.FixtureRequest, tmp_path: Path, method: Method, edit: Damage, check: str, named: str
    ) -> None:
        source: Made = request.getfixturevalue(made)
        copy = source.copy(method, params, tmp_path / "artifact")
        edit(copy)

        assert_refused(source.failed_checks(method, params, copy.path), check, named)

    return test


def damaged_shards_are_refused(made: str, shard_bytes: int, *methods: Method) -> Callable[..., None]:
    """An artifact of several shards passes, and is not readable after the edit."""

    @pytest.mark.parametrize("method", methods, ids=lambda method: method.name)
    @pytest.mark.parametrize("edit", OF_SHARDS)
    def test(
        request: pytest.FixtureRequest,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        method: Method,
        edit: Callable[[Path], None],
    ) -> None:
        monkeypatch.setattr(model_folder, "SHARD_BYTES", shard_bytes)
        source: Made = request.getfixturevalue(made)
        source.write(method, {}, tmp_path / "artifact")
        assert source.failed_checks(method, {}, tmp_path / "artifact") == {}

        edit(tmp_path / "artifact")

        assert "readable" in source.failed_checks(method, {}, tmp_path / "artifact")

    return test


def swap(values: np.ndarray, a: Any, b: Any) -> None:
    values[[a, b]] = values[[b, a]]


def extremes(scales: np.ndarray) -> tuple[int, int]:
    """The smallest and the largest of some scales, in one dimension."""
    return int(scales.argmin()), int(scales.argmax())


def shuffled(values: np.ndarray) -> np.ndarray:
    return values[np.random.default_rng(0).permutation(len(values))]


def store_unquantized(folder: Folder, weight: str, *parts: str) -> None:
    """The source's values instead of the arrays `parts`."""
    drop(folder, *parts)
    values = np.array(folder.checkpoint.tensor(weight).values)
    folder.arrays[weight] = Array("BF16", list(values.shape), values)


def drop(folder: Folder, *names: str) -> None:
    for name in names:
        del folder.arrays[name]


def relabel(folder: Folder, old: str, new: str) -> None:
    folder.arrays = {new if name == old else name: array for name, array in folder.arrays.items()}


QC = "quantization_config"


def set_key(path: str, value: Any) -> Damage:
    """Another value at a dotted path of config.json; None removes it."""

    def edit(folder: Folder) -> None:
        *parents, last = path.split(".")
        at = folder.config
        for key in parents:
            at = at[key]
        at[last] = value
        if value is None:
            del at[last]

    return edit


def cut(folder: Folder) -> None:
    path = folder.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def blurred(folder: Folder) -> None:
    path = folder.path / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b'"model"', b'"modal"', 1))


FILES: dict[str, tuple[Damage, str, str]] = {
    "a truncated file": (cut, "readable", "model.safetensors"),
    "an empty file": (lambda f: (f.path / "model.safetensors").write_bytes(b""), "readable", "model.safetensors"),
    "no file": (lambda f: (f.path / "model.safetensors").unlink(), "readable", "must hold model.safetensors or"),
    "no tokenizer": (
        lambda f: (f.path / "tokenizer.json").unlink(),
        "carried_files",
        "tokenizer.json: nothing instead",
    ),
    "another tokenizer": (blurred, "carried_files", "tokenizer.json: "),
    "a foreign file": (lambda f: (f.path / "notes.txt").write_text("x"), "files", "notes.txt: not of this artifact"),
    "a pickle": (lambda f: (f.path / "pytorch_model.bin").write_text("x"), "files", "pytorch_model.bin: not of this"),
    "no settings": (lambda f: (f.path / "config.json").unlink(), "readable", "config.json cannot be read"),
    "an index beside one file": (
        lambda f: (f.path / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
        *("readable", "and not both"),
    ),
}


OF_THE_MODEL: dict[str, tuple[Damage, str, str]] = {
    "no quantization is said": (set_key(QC, None), QC, "quant_method: nothing instead of"),
    "another method is said": (set_key(f"{QC}.quant_method", "mxfp4"), QC, "quant_method: 'mxfp4'"),
    "a stale rope base": (set_key("rope_theta", 1e6), "config", "rope_theta: '1000000.0' instead of"),
    "stale heads": (set_key("num_key_value_heads", 4), "config", "num_key_value_heads: '4' instead of '2'"),
    "a forgotten tie": (set_key("tie_word_embeddings", None), "config", "tie_word_embeddings: nothing instead of"),
    "a foreign key": (set_key("auto_map", {"AutoModel": "x.py"}), "config", "auto_map: "),
    "a place of this machine": (
        lambda f: f.config.update(_name_or_path=str(f.path)),
        *("no_local_paths", "config.json: names the"),
    ),
}

INDEX = "model.safetensors.index.json"


def a_stale_index(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = min(index["weight_map"].values())
    (folder / INDEX).write_text(json.dumps(index))


def a_missing_shard(folder: Path) -> None:
    next(folder.glob("model-00002-*")).unlink()


def a_truncated_shard(folder: Path) -> None:
    shard = next(folder.glob("model-00002-*"))
    shard.write_bytes(shard.read_bytes()[:-100])


def a_tensor_in_two_shards(folder: Path) -> None:
    one, two = next(folder.glob("model-00001-*")), next(folder.glob("model-00002-*"))
    two.write_bytes(one.read_bytes())


OF_SHARDS: tuple[Callable[[Path], None], ...] = (
    a_stale_index,
    a_missing_shard,
    a_truncated_shard,
    a_tensor_in_two_shards,
)
