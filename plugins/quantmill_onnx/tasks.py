"""Which models of transformers become ONNX graphs, what they take and give; and a forecast of the quantized graph from
the checkpoint's headers, before there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.errors import ArchitectureUnsupported, SourceRejected
from quantmill.contract.onnx import CONSTANT_BYTES, Node, Stored
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo, TensorPlan, Unit
from quantmill_onnx.images import checked, preprocessing_of
from quantmill_onnx.layout import HALF, parts_of, scheme_of
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.samples import reject
from quantmill_onnx.sites import FILTERS, Form, Site, Use
from quantmill_onnx.tokens import NO_TOKENIZER, TOKENIZER
from quantmill_onnx.versions import RUNTIMES

EXPORT_OPSET = 20
EXPORT_BYTES = 512 << 20  # torch, transformers, onnxscript and the traced program
EXPORT_COPIES = (
    3  # of the weights in float32: torch's, those that are turned, and ONNX Runtime's while both are compared
)

Kind = Literal["decoder", "text", "image"]


@dataclass(frozen=True)
class Task:
    """What models whose architecture ends in `suffix` are run on, and what of their results a graph gives."""

    suffix: str
    kind: Kind
    outputs: tuple[str, ...]


TASKS = (  # the first that fits
    Task("ForCausalLM", "decoder", ("logits",)),
    Task("LMHeadModel", "decoder", ("logits",)),
    Task("ForMaskedLM", "text", ("logits",)),
    Task("ForSequenceClassification", "text", ("logits",)),
    Task("ForTokenClassification", "text", ("logits",)),
    Task("ForQuestionAnswering", "text", ("start_logits", "end_logits")),
    Task("ForImageClassification", "image", ("logits",)),
    Task("Model", "text", ("last_hidden_state",)),
)
IMAGES = Task("Model", "image", ("last_hidden_state",))
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
TABLE = re.compile(r"(^|[._])(embed_tokens|wte|wpe|(word|token_type|position)_embeddings|embed_positions)\.weight$")
NO_NODE = Node("MatMul", "", "", ("",), (), frozenset(), b"")


def task_of(index: ModelIndex) -> Task:
    """Raises SourceRejected for a source that no graph is made of: GGUF, quantized, of no architecture known here."""
    if index.gguf is not None or index.stored or index.config.get("quantization_config") is not None:
        raise SourceRejected(
            "the source is no ONNX model, and graphs are made of checkpoints in float only; give the one that it was "
            "made from"
        )
    architecture = index.architecture
    found = next((task for task in TASKS if architecture.endswith(task.suffix)), None)
    several = any(isinstance(index.config.get(part), dict) for part in ("text_config", "vision_config", "encoder"))
    if found is None or several or index.config.get("is_encoder_decoder"):
        raise ArchitectureUnsupported(
            f"{architecture} is not exported here; export it first, for instance with optimum-cli, and give the graph"
        )
    layers = max((n for key in LAYER_COUNTS if isinstance(n := index.config.get(key), int)), default=0)
    if layers > len(index.tensors):
        raise ArchitectureUnsupported(f"config.json has {layers} layers, but only {len(index.tensors)} tensors")
    pictures = "vocab_size" not in index.config and isinstance(index.config.get("num_channels"), int)
    return IMAGES if found.suffix == IMAGES.suffix and pictures else found


def export_opset(params: OnnxParams) -> int:
    """That of a checkpoint's graph: EXPORT_OPSET, or what the runtime takes."""
    return min(EXPORT_OPSET, RUNTIMES[params.runtime].opset)


def described(index: ModelIndex, task: Task, params: OnnxParams) -> str:
    """What the source becomes, in words."""
    takes = {
        "decoder": "tokens and a cache of keys and values",
        "text": "tokens",
        "image": "images",
    }[task.kind]
    return (
        f"an ONNX graph in float32, opset {export_opset(params)}, that takes {takes} "
        f"and gives {', '.join(task.outputs)}"
        + (" and the cache as it has become" if task.kind == "decoder" else "")
        + f": transformers' {index.architecture} by torch.onnx.export"
    )


def forecast(index: ModelIndex, params: OnnxParams) -> Plan:
    """The plan of a checkpoint, from its headers: its graph's plan takes its place once there is one."""
    task = task_of(index)
    _check_folder(index, task, params)
    rows = tuple(_row(info, params) for info in index.tensors.values())
    need = None
    if params.reads_samples and params.samples is None:
        if task.kind == "image":
            reject("a text does not calibrate a model of images; give a folder of images, or an .npz file")
        if TOKENIZER not in index.files:
            reject(NO_TOKENIZER)
        need = CalibrationNeed(windows=True)
    values = sum(info.values for info in index.tensors.values())
    becomes = described(index, task, params)
    return Plan(
        tensors=rows,
        units=tuple(Unit(row.name, (row.name,)) for row in rows),
        peak_memory_bytes=EXPORT_BYTES + 4 * EXPORT_COPIES * values,
        warnings=(
            f"the source becomes {becomes}, which is compared with the source's before it is quantized; "
            "names and sizes here are a forecast",
        ),
        calibration=need,
        converts=becomes,
    )


def _check_folder(index: ModelIndex, task: Task, params: OnnxParams) -> None:
    """Images are known to fit before there is a graph of the model."""
    if params.reads_samples and params.samples is not None and Path(params.samples).is_dir():
        if task.kind != "image":
            reject("a folder of images is for a model of images; give a text, or an .npz file")
        checked(Path(params.samples), preprocessing_of(index))


def _row(info: TensorInfo, params: OnnxParams) -> TensorPlan:
    reason = next(_reasons_to_keep(info, params), "")
    if reason:
        halved = params.rest == "float16" and 4 * info.values > CONSTANT_BYTES
        scheme, size = (HALF, 2) if halved else ("F32", 4)
        return TensorPlan(info.name, info.shape, info.dtype, "keep", scheme, info.name, size * info.values, reason)
    table = TABLE.search(info.name) is not None
    as_float = TensorInfo(info.name, "F32", info.shape, 4 * info.values)
    form: Form = "filters" if _is_filters(info, params) else "table" if table else "out_in"
    site = Site(Stored(as_float, "", 0), (Use(NO_NODE, form),))
    nbytes = sum(part.nbytes for part in parts_of(site, params))
    why = "a table that is looked up: a scale for each row" if table else ""
    scheme = scheme_of(site, params, {NO_NODE.inputs[0]} if params.smooths else ())
    return TensorPlan(info.name, info.shape, info.dtype, "quantize", scheme, info.name, nbytes, why)


def _is_filters(info: TensorInfo, params: OnnxParams) -> bool:
    return params.mode == "static" and len(info.shape) in FILTERS and info.name.endswith("weight")


def _reasons_to_keep(info: TensorInfo, params: OnnxParams) -> Iterator[str]:
    if not _is_filters(info, params) and (len(info.shape) != 2 or not info.name.endswith("weight")):
        yield f"{len(info.shape)} dimensions" if len(info.shape) != 2 else "not the matrix of a product"
    if 4 * info.values <= CONSTANT_BYTES:
        yield "so small that it belongs to the graph"
    table = TABLE.search(info.name) is not None
    op_types = {"Conv"} if _is_filters(info, params) else {"Gather"} if table else {"MatMul", "Gemm"}
    if not op_types.intersection(params.op_types):
        yield f"used by {' or '.join(sorted(op_types))}, which op_types leaves out"
    if params.embeddings == "keep" and table:
        yield "an embedding table, which is kept"
