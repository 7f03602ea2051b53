"""Writing the GGUF files: metadata that llama.cpp needs, then the tensors one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedWriter, BytesIO
from itertools import groupby
from pathlib import Path
from typing import cast

import gguf
import numpy as np

from quantmill.contract.gguf import GgufSource, side_of
from quantmill.contract.placement import Place, Placement, WeightFile, write_placed
from quantmill.contract.tensors import FloatArray, ModelIndex, Plan, QuantizedTensor, TensorPlan
from quantmill_gguf import imatrix
from quantmill_gguf.families import COPIED_KEY, PREFIX_KEY, Described, ExpectedTensor, describe
from quantmill_gguf.general import general
from quantmill_gguf.header import changed_keys, header, keys_of_part
from quantmill_gguf.imatrix import BESIDE, ImportanceMatrix, gguf_writer
from quantmill_gguf.nvfp4 import FILE_TYPE
from quantmill_gguf.params import BUDGET, CODES_KEPT, GgufParams
from quantmill_gguf.policies import GUESSED, MIXES
from quantmill_gguf.readme import plain_files
from quantmill_gguf.shards import Piece, Stored, file_names, split
from quantmill_gguf.tokenizer import Tokenizer, read_tokenizer
from quantmill_gguf.types import COPY, COUNTS, FACTOR, FACTOR_BYTES, NVFP4, PACKED, SCHEMES, SUMS, UNQUANTIZED

QUANTIZATION_VERSION = 2  # GGML's, of the block layouts
COMPUTED = ImportanceMatrix({}, chunks=1, chunk_size=1, datasets=("calibration text, see quantmill.json",))


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: GgufParams, folder: Path
) -> list[Path]:
    """Write `model-<type>.gguf` or its parts, README.md and a Modelfile into `folder`; holds one tensor at a time.

    The bytes depend on the tensors, the parameters and the source only: no paths, no dates. Raises
    PluginBroken when the tensors are not those of the plan, in its order.
    """
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: GgufParams) -> Placement:
    """Where `write` puts each byte: metadata, generated tensors, then the source's in the plan's order.

    Source tensors that are one tensor of the file stand side by side. Of several files the first has all metadata and
    the generated tensors. What is made from a GGUF file has that file's metadata, by its bytes.
    """
    if index.gguf is not None:
        return _place_requantized(plan, index, index.gguf, params)
    described = describe(index)
    generated = {name: np.array(values, np.float32) for name, values in described.generated().items()}
    parts = split(_stored(plan, described), params)
    names = file_names(params, len(parts))
    total = len(generated) + sum(map(len, parts))
    weights: dict[str, WeightFile] = {}
    places: dict[str, tuple[Place, ...]] = {}
    for number, (file, tensors) in enumerate(zip(names, parts, strict=True)):
        writer = gguf.GGUFWriter(None, described.architecture.name)
        if number == 0:
            _describe_source(writer, index, params)
            _describe_model(writer, described, _file_type(plan, params))
            _describe_imatrix(writer, plan, params)
            _describe_tokenizer(writer, read_tokenizer(index, described.model.vocab))
        if len(parts) > 1:
            _describe_split(writer, number, len(parts), total)
        weights[file] = _place(writer, file, tensors, generated if number == 0 else {}, places)
    if computed := list(_computed(plan, described)):
        weights[BESIDE] = _place(gguf_writer(None, COMPUTED), BESIDE, computed, {}, places)
    return Placement(weights, places, plain_files(plan, index, params, names))


def _place_requantized(plan: Plan, index: ModelIndex, source: GgufSource, params: GgufParams) -> Placement:
    """As `place`, of a GGUF file: its keys, but for those that are no longer so, and its tensors in their order."""
    parts = split(_stored(plan, describe(index)), params)
    names = file_names(params, len(parts))
    keys = changed_keys(
        source,
        params,
        file_type=_file_type(plan, params),
        version=QUANTIZATION_VERSION,
        digest=index.digest,
        imatrix=plan.inputs.get("imatrix"),
    )
    weights: dict[str, WeightFile] = {}
    places: dict[str, tuple[Place, ...]] = {}
    total = sum(map(len, parts))
    for number, (file, tensors) in enumerate(zip(names, parts, strict=True)):
        head = header(keys_of_part(keys, number, len(parts), total), tensors, source.alignment)
        weights[file] = _laid(head, file, tensors, places, source.alignment)
    return Placement(weights, places, plain_files(plan, index, params, names))


def _stored(plan: Plan, described: Described) -> Iterator[Stored]:
    """The file's tensors in the plan's order; a copy follows what it is a copy of, and factors what they multiply."""
    expected = {tensor.output: tensor for tensor in described.tensors()}
    kept = [row for row in plan.tensors if row.action != "drop"]
    for output, grouped in groupby(kept, key=lambda row: row.output):
        tensor, rows = expected[output], tuple(grouped)
        if rows[0].scheme == NVFP4.name:
            yield from _with_factors(tensor, rows)
            continue
        for name, part in ((output, PACKED), (tensor.copy, COPY)):
            if name:
                pieces = tuple(Piece(row.name, part, row.nbytes // tensor.copies) for row in rows)
                yield Stored(name, rows[0].scheme, _shape(tensor), pieces)


def _with_factors(tensor: ExpectedTensor, rows: Sequence[TensorPlan]) -> Iterator[Stored]:
    """A tensor in NVFP4, and the factors that llama.cpp multiplies it by: one for each matrix."""
    pieces = tuple(Piece(row.name, PACKED, row.nbytes - FACTOR_BYTES) for row in rows)
    yield Stored(tensor.output, NVFP4.name, _shape(tensor), pieces)
    factors = tuple(Piece(row.name, FACTOR, FACTOR_BYTES) for row in rows)
    yield Stored(side_of(tensor.output), "F32", (len(rows),), factors)


def _computed(plan: Plan, described: Described) -> Iterator[Stored]:
    """The tensors of the importance matrix that the job computes; experts stand in one."""
    expected = {tensor.output: tensor for tensor in described.tensors()}
    kept = [row for row in plan.tensors if row.beside]
    for output, grouped in groupby(kept, key=lambda row: row.output):
        rows, cols = list(grouped), expected[output].stored[-1]
        for part, ending, width in ((SUMS, imatrix.SUMS, cols), (COUNTS, imatrix.COUNTS, 1)):
            pieces = tuple(Piece(row.name, part, 4 * width) for row in rows)
            yield Stored(f"{output}{ending}", "F32", (len(rows), width), pieces)


def _place(
    writer: gguf.GGUFWriter,
    file: str,
    tensors: list[Stored],
    generated: Mapping[str, FloatArray],
    places: dict[str, tuple[Place, ...]],
) -> WeightFile:
    """One file that begins with the writer's keys and the generated tensors; adds to `places`."""
    for name, values in generated.items():
        _announce(writer, name, "F32", values.shape, values.nbytes)
    for tensor in tensors:
        _announce(writer, tensor.name, tensor.scheme, tensor.shape, tensor.nbytes)
    head = _padded(_header(writer)) + b"".join(_padded(values.tobytes()) for values in generated.values())
    return _laid(head, file, tensors, places)


def _laid(
    head: bytes,
    file: str,
    tensors: list[Stored],
    places: dict[str, tuple[Place, ...]],
    alignment: int = gguf.GGUF_DEFAULT_ALIGNMENT,
) -> WeightFile:
    """The file that begins with `head`, its tensors one after the other; adds to `places`."""
    end = len(head)
    for tensor in tensors:
        end += _padding(end, alignment)
        for piece in tensor.pieces:
            place = Place(piece.part, tensor.name, file, end, piece.nbytes)
            places[piece.tensor] = (*places.get(piece.tensor, ()), place)
            end += piece.nbytes
    return WeightFile(head, end + _padding(end, alignment))


def _shape(tensor: ExpectedTensor) -> tuple[int, ...]:
    return (tensor.parts, *tensor.stored) if tensor.parts else tensor.stored


def _announce(writer: gguf.GGUFWriter, name: str, scheme: str, shape: tuple[int, ...], nbytes: int) -> None:
    # float32 here only says that `shape` counts values, not bytes; the type is `raw_dtype`
    type_ = gguf.GGMLQuantizationType(SCHEMES[scheme].id)
    writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, raw_dtype=type_)


def _header(writer: gguf.GGUFWriter) -> bytes:
    """What comes before the data; the writer gives it to files only, so it is given one in memory."""
    buffer = BytesIO()
    writer.fout, writer.state = [cast("BufferedWriter", buffer)], gguf.gguf_writer.WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return buffer.getvalue()


def _padded(data: bytes) -> bytes:
    return data + bytes(_padding(len(data)))


def _padding(position: int, alignment: int = gguf.GGUF_DEFAULT_ALIGNMENT) -> int:
    return -position % alignment


VALUE_TYPES = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
}


def _describe_split(writer: gguf.GGUFWriter, number: int, count: int, tensors: int) -> None:
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", count)
    writer.add_int32("split.tensors.count", tensors)


def _describe_source(writer: gguf.GGUFWriter, index: ModelIndex, params: GgufParams) -> None:
    """What the user and the model's card say of the model, how large it is, and the digest of the source's files."""
    for key, value in sorted(general(index, params).items()):
        if isinstance(value, list):
            writer.add_array(f"general.{key}", value)
        else:
            writer.add_key_value(f"general.{key}", value, VALUE_TYPES[type(value)])
    writer.add_size_label(gguf.size_label(sum(tensor.values for tensor in index.tensors.values()), 0, 0, 0))
    if index.digest:
        writer.add_string("quantmill.source.digest", index.digest)


def _file_type(plan: Plan, params: GgufParams) -> int:
    """The mix's, or of a budget what llama.cpp would guess: that of the type which most tensors have."""
    if params.type == CODES_KEPT:
        return FILE_TYPE
    if params.type != BUDGET:
        return MIXES[params.type].file_type
    types = {row.output: row.scheme for row in plan.tensors if row.scheme not in UNQUANTIZED}
    counts = Counter(types.values())
    most = max(sorted(counts), key=lambda type_: counts[type_], default="F32")
    return MIXES[GUESSED[most]].file_type


def _describe_model(writer: gguf.GGUFWriter, described: Described, file_type: int) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(file_type)
    writer.add_quantization_version(QUANTIZATION_VERSION)
    for key, value in described.metadata.items():
        writer.add_key_value(f"{described.architecture.name}.{key}", value, VALUE_TYPES[type(value)])
    if described.model.token_types:
        writer.add_token_type_count(described.model.token_types)
    if described.prefix:
        writer.add_string(PREFIX_KEY, described.prefix)
    if described.copies_output:
        writer.add_bool(COPIED_KEY, True)


def _describe_imatrix(writer: gguf.GGUFWriter, plan: Plan, params: GgufParams) -> None:
    """What llama-quantize says of it: one that was computed lies beside; of another its content, not its place."""
    if params.imatrix != "none":
        computed = BESIDE if any(row.beside for row in plan.tensors) else params.imatrix
        writer.add_string("quantize.imatrix.file", plan.inputs.get("imatrix", computed))


def _describe_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.scores:
        writer.add_token_scores(tokenizer.scores)
    if tokenizer.merges:
        writer.add_token_merges(tokenizer.merges)
    for role, id_ in tokenizer.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", id_)
    if tokenizer.charsmap:
        writer.add_precompiled_charsmap(tokenizer.charsmap)
    for key, value in tokenizer.settings.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
