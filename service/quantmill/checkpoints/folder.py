"""Model folders as Hugging Face writes them: config.json, safetensors weights, tokenizer files; ONNX models; GGUF."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import rfc8785
from numpy.typing import NDArray

from quantmill.checkpoints.card import CARD, HEAD_LIMIT, front_matter, read_card
from quantmill.checkpoints.confined import check_name, open_inside, real_path
from quantmill.checkpoints.gguf_model import card_of, gguf_files, open_gguf
from quantmill.checkpoints.onnx_model import onnx_file, open_onnx
from quantmill.checkpoints.settings import BESIDE, mended
from quantmill.contract.card import Card
from quantmill.contract.errors import NotFound, SourceRejected
from quantmill.contract.gguf import NVFP4, BlockTensor, side_of
from quantmill.contract.graph_text import GRAPH_OF
from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.safetensors import TensorFile
from quantmill.contract.stored import stored_weights, values_of
from quantmill.contract.strictjson import parse_object, shown
from quantmill.contract.tensors import ModelIndex, SourceTensor, StoredWeight, TensorInfo

CONFIG = "config.json"
SINGLE = "model.safetensors"
SHARDED = "model.safetensors.index.json"

# Files that belong to a model beside its weights; they are carried along by their bytes and count for its digest.
CARRIED = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
)
IDS, POSITIONS = "input_ids", "max_position_embeddings"
ONNX: Mapping[str, Any] = {"architectures": ["ONNX"]}  # in place of a config.json: the graph says all
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

CONFIG_LIMIT = 10 << 20  # bytes; the largest real ones list some 100,000 labels
INDEX_LIMIT = 100_000_000  # bytes, as a single header may have
SHARDS_LIMIT = 512  # each holds a descriptor open; the largest public checkpoints have about 200
CHUNK = 1 << 19  # bytes that are digested at a time: they stay in the processor's cache

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

Progress = Callable[[int, int], None]


class WeightsFile(Protocol):
    """An open file of weights: a safetensors or GGUF file, or what an ONNX model keeps in one file."""

    path: Path
    tensors: Mapping[str, TensorInfo]

    @property
    def descriptor(self) -> int: ...

    def values(self, name: str) -> NDArray[Any]: ...

    def check_unchanged(self) -> None: ...

    def close(self) -> None: ...


class Checkpoint:
    """An opened model. Its files stay open, so that what was checked is what will be read.

    `index` has been made from config.json and the headers alone; its digest is empty. `folder` is where the files lie.
    """

    def __init__(
        self, folder: Path, index: ModelIndex, files: Sequence[WeightsFile], read: Mapping[str, bytes]
    ) -> None:
        """`read` are the JSON files that `index` was made from."""
        self.folder = folder
        self.index = index
        self._files = files
        self._file_of = {name: file for file in files for name in file.tensors}
        self._read_digests = {name: _sha256(data) for name, data in read.items()}

    def tensor(self, name: str) -> SourceTensor:
        """One stored tensor, memory-mapped and read-only.

        Raises NotFound for a name that is not stored (a tied one is not), SourceRejected when its file has
        changed since the checkpoint was opened.
        """
        if name in self.index.stored:
            return self._stored(name, self.index.stored[name])
        if name not in self._file_of or name not in self.index.tensors:
            raise NotFound(f"The checkpoint holds no tensor {shown(name)}.", tensor=name)
        info, stored = self.index.tensors[name], self._file_of[name].values(name)
        if self.index.gguf is not None and info.dtype != (type_ := self.index.gguf.types[name]).name:
            return BlockTensor(info, type_, stored, self._factors(name, len(stored)))
        return SourceTensor(info, stored)

    def _factors(self, name: str, rows: int) -> NDArray[np.float32] | None:
        """What the rows of a GGUF file's tensor in NVFP4 are multiplied by, where the file says it; float32 (rows,)."""
        side = side_of(name)
        if self.index.gguf is None or self.index.gguf.sides.get(side) != name:
            return None
        factors = self._file_of[side].values(side)
        return np.repeat(factors, rows // len(factors))

    def _stored(self, name: str, weight: StoredWeight) -> SourceTensor:
        """What the arrays of a quantized weight stand for."""
        parts = {part: self._file_of[info.name].values(info.name) for part, info in weight.parts.items()}
        return SourceTensor(self.index.tensors[name], values_of(weight, parts), parts)

    def source_digest(self, progress: Progress | None = None) -> str:
        """`sha256:...` over the RFC 8785 JSON of {file name: sha256:... of its bytes}.

        Covers config.json, the weights, their index, the carried files and the front matter of a README.md.
        `progress(done, total)` counts bytes.
        Raises SourceRejected when a weight file has changed since the checkpoint was opened.
        """
        with ExitStack() as stack:
            descriptors = {file.path.name: file.descriptor for file in self._files}
            for name in self.index.files:
                descriptors[name] = open_inside(self.folder, name)
                stack.callback(os.close, descriptors[name])
            digests = _digests(descriptors, progress)
        for file in self._files:
            file.check_unchanged()
        return _sha256(rfc8785.dumps({**digests, **self._read_digests}))

    def close(self) -> None:
        """Close the files; tensors that were handed out stay valid."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open the model in `folder`: config.json and safetensors, an ONNX model, or a GGUF model, which may also be given
    as the path of its file. No weight is read.

    Of a quantized checkpoint one module's zero points and order of inputs are, to see whether its settings hold.

    Raises SourceRejected, naming the file and what to do about it, when `folder` is not a model that can be read
    safely.
    """
    try:
        return _open_checkpoint(folder)
    except OSError as error:
        raise SourceRejected(f"{folder} cannot be read: {error.strerror}.") from error


def _open_checkpoint(folder: Path) -> Checkpoint:
    if not folder.is_dir() and not folder.is_file():
        raise SourceRejected(f"{folder} is not a folder.")
    if folder.is_dir() and (model := onnx_file(folder)) is not None:
        return _open_onnx(folder, model)
    if (found := gguf_files(folder)) is not None:
        return _open_gguf(*found)
    if folder.is_file():
        raise SourceRejected(f"{folder} is not a folder, nor a GGUF file.")
    if not _exists(folder, CONFIG):
        raise SourceRejected(f"{folder} has no {CONFIG}; it is not a model folder.", file=CONFIG)
    read = {CONFIG: _read(folder, CONFIG, CONFIG_LIMIT)}
    if _exists(folder, SHARDED):
        read[SHARDED] = _read(folder, SHARDED, INDEX_LIMIT)
    beside = {name: _read(folder, name, CONFIG_LIMIT) for name in BESIDE if _exists(folder, name)}
    config = _config(read[CONFIG])
    card, matter = _card(folder)
    with ExitStack() as opened:
        files = tuple(opened.enter_context(file) for file in _weights(folder, read.get(SHARDED)))
        tensors = {name: info for file in files for name, info in file.tensors.items()}
        if not tensors:
            raise SourceRejected(f"{files[0].path.name} holds no tensors.", file=files[0].path.name)
        file_of = {name: file for file in files for name in file.tensors}
        config, defects = mended(config, beside, tensors, lambda name: file_of[name].values(name))
        stored = stored_weights(config, tensors)
        tensors = _as_weights(tensors, stored)
        tied, carried = _tied(config, tensors), _carried(folder, *CARRIED)
        index = ModelIndex(config, tensors, tied, carried, stored=stored, defects=defects, card=card)
        opened.pop_all()
    return Checkpoint(folder, index, files, {**read, **beside, **matter})


def _card(folder: Path) -> tuple[Card, Mapping[str, bytes]]:
    """What the README.md says of the model, and its front matter under the file's name where it has one.

    A file that cannot be opened safely is passed over: the model is the same without it.
    """
    if not _exists(folder, CARD):
        return Card(), {}
    try:
        with os.fdopen(open_inside(folder, CARD), "rb") as file:
            matter = front_matter(file.read(HEAD_LIMIT))
    except SourceRejected as error:
        return Card(notes=(f"{error.detail} Nothing of it is repeated.",)), {}
    return read_card(matter), {CARD: matter} if matter else {}


def _open_onnx(folder: Path, model: str) -> Checkpoint:
    graph, files = open_onnx(folder, model)
    tensors = {name: stored.info for name, stored in graph.weights.items()}
    config = {**ONNX, **_stated(folder, graph)}
    index = ModelIndex(config, tensors, {}, _carried(folder, *CARRIED, CONFIG), graph=graph)
    return Checkpoint(folder, index, files, {})


def _stated(folder: Path, graph: OnnxGraph) -> Mapping[str, Any]:
    """What a graph of text was made of, by the config.json beside it, and how many tokens it takes: by that, or fewer
    where its length is fixed."""
    stated: dict[str, Any] = {}
    limits: list[Any] = [size for each in graph.inputs if each.name == IDS for size in (each.shape or ())[1:]]
    if _exists(folder, CONFIG):
        try:
            beside = parse_object(_read(folder, CONFIG, CONFIG_LIMIT), non_finite=True)
        except ValueError as error:
            raise SourceRejected(f"{CONFIG} cannot be read: {error}.", file=CONFIG) from error
        limits += [beside.get(key) for key in (POSITIONS, "n_positions")]
        architectures = beside.get("architectures")
        if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
            stated[GRAPH_OF] = architectures[0]
    known = [limit for limit in limits if type(limit) is int and limit > 0]  # true is an int, too
    return {**stated, POSITIONS: min(known)} if known else stated


def _open_gguf(folder: Path, names: Sequence[str]) -> Checkpoint:
    source, config, files = open_gguf(folder, names)
    tensors = {name: info for file in files for name, info in file.tensors.items()}
    beside = _carried(folder, *CARRIED, CONFIG) if NVFP4 in source.types.values() else {}  # to become a folder again
    index = ModelIndex(config, dict(sorted(tensors.items())), {}, beside, gguf=source, card=card_of(source))
    return Checkpoint(folder, index, files, {})


def _as_weights(tensors: Mapping[str, TensorInfo], stored: Mapping[str, StoredWeight]) -> dict[str, TensorInfo]:
    """The checkpoint's tensors, quantized weights as what they stand for, in the order of their names."""
    parts = {info.name for weight in stored.values() for info in weight.parts.values()}
    plain = {name: info for name, info in tensors.items() if name not in parts}
    weights = {name: TensorInfo(name, "F32", weight.shape, 4 * prod(weight.shape)) for name, weight in stored.items()}
    return dict(sorted({**plain, **weights}.items()))


def read_config(path: Path) -> Mapping[str, Any]:
    """A config.json by itself, checked as that of a checkpoint is. Raises SourceRejected."""
    try:
        if path.stat().st_size > CONFIG_LIMIT:
            raise SourceRejected(f"{path} is larger than {CONFIG_LIMIT} bytes.", file=path.name)
        return _config(path.read_bytes())
    except OSError as error:
        raise SourceRejected(f"{path} cannot be read: {error.strerror}.") from error


def _config(data: bytes) -> Mapping[str, Any]:
    try:
        config = parse_object(data, non_finite=True)
    except ValueError as error:
        raise SourceRejected(f"{CONFIG} cannot be read: {error}.", file=CONFIG) from error
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not all(isinstance(a, str) for a in architectures):
        raise SourceRejected(f'{CONFIG} has no "architectures" that name the model\'s class.', file=CONFIG)
    for key in _remote_code(config):
        raise SourceRejected(
            f'{CONFIG} has the key "{key}": it points at code that comes with the model, and that is never run. '
            "Where the architecture is built into transformers, remove the key; the weights stay the same.",
            file=CONFIG,
            key=key,
        )
    return config


def _remote_code(value: object) -> Iterator[str]:
    """Keys anywhere in a config that make loaders import the model's own Python."""
    if isinstance(value, dict):
        yield from (key for key in ("auto_map", "trust_remote_code") if value.get(key))
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _remote_code(inner)


def _weights(folder: Path, index: bytes | None) -> Iterator[TensorFile]:
    """The opened weight files, checked against the index of shards where there is one."""
    single = _exists(folder, SINGLE)
    if single and index is not None:
        raise SourceRejected(
            f"The folder holds both {SINGLE} and {SHARDED}; remove the one that is not the model.", file=SHARDED
        )
    if single:
        yield TensorFile(folder / SINGLE, open_inside(folder, SINGLE))
    elif index is not None:
        for shard, names in _shards(index).items():
            yield _checked_shard(TensorFile(folder / shard, open_inside(folder, shard)), names)
    else:
        raise _no_weights(folder)


def _shards(index: bytes) -> dict[str, set[str]]:
    """What the index says: the tensors of each shard."""
    try:
        weight_map = parse_object(index).get("weight_map")
    except ValueError as error:
        raise SourceRejected(f"{SHARDED} cannot be read: {error}.", file=SHARDED) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceRejected(f'{SHARDED} has no "weight_map" from tensors to files.', file=SHARDED)
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        shards.setdefault(check_name(shard, SHARDED), set()).add(tensor)
    if len(shards) > SHARDS_LIMIT:
        raise SourceRejected(f"{SHARDED} names {len(shards)} files; the limit is {SHARDS_LIMIT}.", file=SHARDED)
    return dict(sorted(shards.items()))


def _checked_shard(file: TensorFile, names: set[str]) -> TensorFile:
    """`file`, when it holds exactly the tensors that the index expects there; so none is in two files."""
    different = sorted(names ^ file.tensors.keys())
    if not different:
        return file
    file.close()
    where = "is said by the index to be in" if different[0] in names else "is not said by the index to be in"
    raise SourceRejected(
        f"{SHARDED} and {file.path.name} disagree: tensor {shown(different[0])} {where} {file.path.name}.",
        file=file.path.name,
        tensor=different[0],
    )


def _no_weights(folder: Path) -> SourceRejected:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickles:
        return SourceRejected(
            f"The folder holds its weights as Python pickles only ({shown(pickles[0])}): loading them runs code. "
            "Convert them to safetensors where you trust them: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder).",
            file=pickles[0],
        )
    return SourceRejected(f"The folder has neither {SINGLE} nor {SHARDED}; it holds no weights that can be read.")


def _tied(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Mapping[str, str]:
    """Which of the two ends of a causal language model is stored once and used twice.

    As transformers does it: config.json's `tie_word_embeddings` ties whichever of the two is missing to the one
    that is stored. Where both are stored they are kept apart, whatever the config says: transformers ties them
    only if all their values are equal, and then it makes no difference. Where config.json does not say (its
    defaults depend on the model type), a missing head is a tied one.
    """
    stored = {name for name in (HEAD, EMBEDDING) if name in tensors}
    if len(stored) != 1 or not str(config["architectures"][0]).endswith("ForCausalLM"):
        return {}
    (kept,) = stored
    if kept == HEAD and any(info.shape == tensors[HEAD].shape for name, info in tensors.items() if name != HEAD):
        return {}  # that is the embedding, by another name: Falcon's is transformer.word_embeddings
    missing = HEAD if kept == EMBEDDING else EMBEDDING
    if not config.get("tie_word_embeddings", kept == EMBEDDING):
        raise SourceRejected(
            f"The checkpoint does not store {missing}, and {CONFIG} does not tie it to {kept} (tie_word_embeddings).",
            tensor=missing,
        )
    return {missing: kept}


def _carried(folder: Path, *names: str) -> Mapping[str, Path]:
    present = [name for name in names if _exists(folder, name)]
    for name in present:
        os.close(open_inside(folder, name))
    return {name: real_path(folder, name) for name in present}


def _exists(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def _read(folder: Path, name: str, limit: int) -> bytes:
    with os.fdopen(open_inside(folder, name), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise SourceRejected(f"{name} is larger than {limit} bytes.", file=name)
    return data


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _digests(descriptors: Mapping[str, int], progress: Progress | None) -> dict[str, str]:
    """The digest of each open file; several files are read at a time, each in chunks."""
    total = sum(os.fstat(descriptor).st_size for descriptor in descriptors.values())
    read: dict[str, int] = {}
    count = threading.Lock()

    def digest_of(name: str) -> str:
        digest, position, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
        while length := os.preadv(descriptors[name], [buffer], position):
            digest.update(buffer[:length])
            position += length
            if progress is not None:
                with count:
                    read[name] = position
                    progress(sum(read.values()), total)
        return f"sha256:{digest.hexdigest()}"

    largest_first = sorted(descriptors, key=lambda name: -os.fstat(descriptors[name]).st_size)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="digest") as pool:
        return dict(zip(largest_first, pool.map(digest_of, largest_first), strict=True))
