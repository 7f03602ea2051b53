"""Writing the GGUF file: metadata that llama.cpp needs, then the tensors one by one."""

from __future__ import annotations

from collections.abc import Iterable
from io import BufferedWriter, BytesIO
from itertools import groupby
from pathlib import Path
from typing import cast

import gguf
import numpy as np

from quantmill.contract.placement import Place, Placement, WeightFile, write_placed
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor
from quantmill_gguf.families import PREFIX_KEY, Described, ExpectedTensor, describe
from quantmill_gguf.params import GgufParams
from quantmill_gguf.policies import MIXES
from quantmill_gguf.tokenizer import Tokenizer, read_tokenizer
from quantmill_gguf.types import SCHEMES

QUANTIZATION_VERSION = 2  # GGML's, of the block layouts


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: GgufParams, folder: Path
) -> list[Path]:
    """Write `model-<type>.gguf` into `folder`; holds one tensor at a time.

    The bytes depend on the tensors, the model's config and its tokenizer only: no paths, no dates. Raises
    PluginBroken when the tensors are not those of the plan, in its order.
    """
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: GgufParams) -> Placement:
    """Where `write` puts each byte: metadata, generated tensors, then the source's in the plan's order.

    Source tensors that are one tensor of the file stand side by side.
    """
    file = f"model-{params.type}.gguf"
    described = describe(index)
    generated = {name: np.array(values, np.float32) for name, values in described.generated().items()}
    writer = gguf.GGUFWriter(None, described.architecture.name)
    _describe_model(writer, described, params)
    _describe_imatrix(writer, plan)
    _describe_tokenizer(writer, read_tokenizer(index, described.model.vocab))
    for name, values in generated.items():
        _announce(writer, name, "F32", values.shape, values.nbytes)
    shapes = {tensor.output: _shape(tensor) for tensor in described.tensors()}
    stored = [row for row in plan.tensors if row.action != "drop"]
    outputs = [(output, list(rows)) for output, rows in groupby(stored, key=lambda row: row.output)]
    for output, rows in outputs:
        _announce(writer, output, rows[0].scheme, shapes[output], sum(row.nbytes for row in rows))
    head = _padded(_header(writer)) + b"".join(_padded(values.tobytes()) for values in generated.values())
    places, end = {}, len(head)
    for _, rows in outputs:
        end += _padding(end)
        for row in rows:
            places[row.name] = (Place("packed", row.output, file, end, row.nbytes),)
            end += row.nbytes
    return Placement({file: WeightFile(head, end + _padding(end))}, places)


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


def _padding(position: int) -> int:
    return -position % gguf.GGUF_DEFAULT_ALIGNMENT


VALUE_TYPES = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
}


def _describe_model(writer: gguf.GGUFWriter, described: Described, params: GgufParams) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(MIXES[params.type].file_type)
    writer.add_quantization_version(QUANTIZATION_VERSION)
    for key, value in described.metadata.items():
        writer.add_key_value(f"{described.architecture.name}.{key}", value, VALUE_TYPES[type(value)])
    if described.model.token_types:
        writer.add_token_type_count(described.model.token_types)
    if described.prefix:
        writer.add_string(PREFIX_KEY, described.prefix)


def _describe_imatrix(writer: gguf.GGUFWriter, plan: Plan) -> None:
    """What llama-quantize says of it, but by its content: a file's name and place are no part of the artifact."""
    if "imatrix" in plan.inputs:
        writer.add_string("quantize.imatrix.file", plan.inputs["imatrix"])


def _describe_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    add_id = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unknown": writer.add_unk_token_id,
        "padding": writer.add_pad_token_id,
    }
    for role, id_ in tokenizer.ids.items():
        add_id[role](id_)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
