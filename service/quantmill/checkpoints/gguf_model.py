"""GGUF files as sources: one file, or all parts of one that was split.

`open_checkpoint` gives a `Checkpoint` whose index has `gguf`: every key as bytes, and the type of every tensor in the
order of the file. Tensors have the file's names, shapes are row-major. `Checkpoint.tensor` gives those of F32, F16 and
BF16 as they are, the others as a `BlockTensor`: the stored blocks, whose values numpy decodes when they are asked for.
A type of blocks is read once it stands in `contract.gguf.TYPES` and has a decoder in `contract.ggml`. Tensors in NVFP4
have the values that the tensors beside them scale them to.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quantmill.checkpoints.confined import check_name, open_inside
from quantmill.contract.card import Card
from quantmill.contract.errors import NotFound, SourceRejected
from quantmill.contract.gguf import NVFP4, GgufHeader, GgufSource, StoredTensor, read_header, side_of
from quantmill.contract.mapped import MappedFile
from quantmill.contract.safetensors import DTYPES
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import TensorInfo

MAGIC = b"GGUF"
SUFFIX = ".gguf"
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # a folder with these is a checkpoint
FILES_LIMIT = 512  # each holds a descriptor open

SPLIT = "split."  # keys that say which part of a model a file is
ARCHITECTURE = re.compile(r"[a-z0-9_.-]{1,64}", re.ASCII)
MOST = 2**31 - 1

# Keys of general.* by a card's names for them
TEXTS: Mapping[str, str] = {
    "name": "name",
    "license.name": "license_name",
    "license.link": "license_link",
    "source.repo_url": "repo_url",
}
LISTS: Mapping[str, str] = {"license": "license", "base_model.0.repo_url": "base_model"}
LONGEST_TEXT = 1000

# Keys below the architecture's name, by config.json's names for them
DIMENSIONS: Mapping[str, str] = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
}


class GgufWeights(MappedFile):
    """An open GGUF file whose header has been checked."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path, descriptor)
        try:
            self.header = self._read()
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = {name: _seen(stored) for name, stored in self.header.tensors.items()}

    def values(self, name: str) -> NDArray[Any]:
        """What is stored, as `MappedFile.array` gives it: values, or blocks as uint8 (rows, row_bytes).

        Raises NotFound, and SourceRejected when the file has changed.
        """
        if name not in self.tensors:
            raise NotFound(f"{self.path.name} holds no tensor {shown(name)}.", tensor=name)
        stored = self.header.tensors[name]
        type_ = stored.type
        if type_.name in DTYPES:
            return self.array(stored.start, stored.shape, stored.nbytes, DTYPES[type_.name])
        shape = (stored.rows, type_.row_bytes(stored.shape[-1]))
        return self.array(stored.start, shape, stored.nbytes, DTYPES["U8"])

    def raw(self, key: str) -> bytes:
        """Value type and value of a key, as they lie in the file."""
        start, end = self.header.spans[key]
        return os.pread(self.descriptor, end - start, start)

    def _read(self) -> GgufHeader:
        name = self.path.name
        if not self.size:
            raise SourceRejected(f"{name} is empty.", file=name)
        mapping = mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ)  # closed when no slice is left of it
        return read_header(name, memoryview(mapping), SourceRejected)


def _seen(stored: StoredTensor) -> TensorInfo:
    """A tensor as what it stands for: one in blocks is F32."""
    if stored.type.name in DTYPES:
        return TensorInfo(stored.name, stored.type.name, stored.shape, stored.nbytes)
    return TensorInfo(stored.name, "F32", stored.shape, 4 * stored.rows * stored.shape[-1])


def gguf_files(path: Path) -> tuple[Path, Sequence[str]] | None:
    """The folder and the names of the model's files in their order, where `path` is a GGUF model; one file or part of
    it, or a folder that holds one.

    Raises SourceRejected for a folder with several, and for parts that are missing.
    """
    if path.is_file():
        return (path.parent, _all_parts(path.parent, path.name)) if is_gguf(path) else None
    if any(os.path.lexists(path / name) for name in WEIGHTS):
        return None
    names = sorted(each.name for each in path.iterdir() if each.suffix == SUFFIX)
    models = {_stem(name): name for name in names}
    if len(models) > 1:
        few = ", ".join(map(shown, [*models.values()][:4]))
        raise SourceRejected(f"The folder holds {len(models)} GGUF models ({few}, ...); give the path of one.")
    return (path, _all_parts(path, names[0])) if names else None


def is_gguf(path: Path) -> bool:
    """Whether the file is meant to be one: by its name, or by how it begins."""
    if path.suffix == SUFFIX:
        return True
    with path.open("rb") as file:  # a link of a cache leads to a file that has no such name
        return file.read(len(MAGIC)) == MAGIC


def _stem(name: str) -> tuple[str, str]:
    part = PART.fullmatch(name)
    return (part["stem"], part["count"]) if part else (name, "")


def _all_parts(folder: Path, name: str) -> Sequence[str]:
    part = PART.fullmatch(name)
    if part is None:
        return (check_name(name, "the folder"),)
    count = int(part["count"])
    if not 1 <= count <= FILES_LIMIT:
        raise SourceRejected(f"{name} is one of {count} parts; at most {FILES_LIMIT} are read.", file=name)
    names = [f"{part['stem']}-{number:05}-of-{count:05}{SUFFIX}" for number in range(1, count + 1)]
    missing = [each for each in names if not os.path.lexists(folder / each)]
    if missing:
        raise SourceRejected(
            f"{name} is one of {count} parts, and {shown(missing[0])} is not beside it ({len(missing)} missing).",
            file=missing[0],
        )
    return names


def open_gguf(folder: Path, names: Sequence[str]) -> tuple[GgufSource, dict[str, Any], tuple[GgufWeights, ...]]:
    """What the model's files say, its dimensions by config.json's names, and the opened files. No weight is read.

    Raises SourceRejected for what is no GGUF model, and for parts that do not belong together.
    """
    with ExitStack() as opened:
        files = tuple(opened.enter_context(GgufWeights(folder / name, open_inside(folder, name))) for name in names)
        _check_parts(files)
        source = _source(files)
        config = _config(source, files)
        opened.pop_all()
    return source, config, files


def _check_parts(files: Sequence[GgufWeights]) -> None:
    total = sum(len(file.tensors) for file in files)
    for number, file in enumerate(files):
        name = file.path.name
        count = file.header.metadata.get("split.count", 1)
        if count != len(files):
            raise SourceRejected(
                f"{name} is one of {shown(count)} parts, and {len(files)} were found; give the folder that has all of "
                "them under the names that they were made with.",
                file=name,
            )
        expected = (number, total)
        if len(files) > 1 and _numbered(file) != expected:
            raise SourceRejected(f"{name} is not part {number + 1} of a model of {total} tensors.", file=name)
        if file.header.alignment != files[0].header.alignment:
            raise SourceRejected(f"{name} is aligned otherwise than {files[0].path.name}.", file=name)
    seen: set[str] = set()
    for file in files:
        if twice := sorted(seen & file.tensors.keys()):
            raise SourceRejected(f"{file.path.name} holds {shown(twice[0])}, which another part holds too.")
        seen |= file.tensors.keys()
    if not seen:
        raise SourceRejected(f"{files[0].path.name} holds no tensors.", file=files[0].path.name)


def _numbered(file: GgufWeights) -> tuple[object, object]:
    return file.header.metadata.get("split.no"), file.header.metadata.get("split.tensors.count")


def _source(files: Sequence[GgufWeights]) -> GgufSource:
    first = files[0]
    header = first.header
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not ARCHITECTURE.fullmatch(architecture):
        raise SourceRejected(
            f"{first.path.name}: general.architecture is {shown(architecture)}, which names no model.",
            file=first.path.name,
        )
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise SourceRejected(f"{first.path.name} is no model: its general.type is {shown(kind)}.", file=first.path.name)
    return GgufSource(
        keys={key: first.raw(key) for key in header.spans if not key.startswith(SPLIT)},
        metadata={key: value for key, value in header.metadata.items() if not key.startswith(SPLIT)},
        types={name: stored.type for file in files for name, stored in file.header.tensors.items()},
        alignment=header.alignment,
        sides=_sides(files),
    )


def _sides(files: Sequence[GgufWeights]) -> dict[str, str]:
    """What stands beside tensors in NVFP4, by name, with theirs.

    Raises SourceRejected for factors that are not float32, one or one for each matrix.
    """
    tensors = {name: (file, stored) for file in files for name, stored in file.header.tensors.items()}
    sides: dict[str, str] = {}
    for name, (_, stored) in tensors.items():
        if stored.type == NVFP4 and name.endswith(".weight"):
            base = name.removesuffix(".weight")
            sides |= {side: name for side in (side_of(name), f"{base}.input_scale") if side in tensors}
    for side, name in sides.items():
        file, found = tensors[side]
        matrices = prod(tensors[name][1].shape[:-2])
        if found.type.name != "F32" or len(found.shape) != 1 or found.shape[0] not in (1, matrices):
            raise SourceRejected(
                f"{file.path.name}: {shown(side)} is {found.type.name} {list(found.shape)}, and {shown(name)} takes "
                f"F32 [1]{f' or [{matrices}]' if matrices > 1 else ''}.",
                file=file.path.name,
                tensor=side,
            )
    return sides


def card_of(source: GgufSource) -> Card:
    """What general.* says of the model, as far as people are shown it."""
    said = {key: source.metadata.get(f"general.{key}") for key in (*TEXTS, *LISTS)}
    lines = {key: text for key, text in said.items() if isinstance(text, str) and text.isprintable() and text}
    short = {key: text for key, text in lines.items() if len(text) <= LONGEST_TEXT}
    return Card(
        texts={card: short[key] for key, card in TEXTS.items() if key in short},
        lists={card: (short[key],) for key, card in LISTS.items() if key in short},
    )


def _config(source: GgufSource, files: Sequence[GgufWeights]) -> dict[str, Any]:
    """In place of a config.json: `architectures` is general.architecture, and the dimensions that the file states."""
    stated = {key: source.number(below) for key, below in DIMENSIONS.items()}
    embedding = next((file.tensors["token_embd.weight"] for file in files if "token_embd.weight" in file.tensors), None)
    stated["vocab_size"] = embedding.shape[0] if embedding is not None else None
    known = {key: value for key, value in stated.items() if value is not None and 0 < value <= MOST}
    return {"architectures": [source.architecture], **known}
