"""Checkpoints of transformers as ONNX graphs, by torch's own exporter, compared with what they were made of.

The model is built from config.json and the checked tensors alone: no code of the checkpoint runs, no file but those is
read. Decoders take and give a cache of keys and values by the names that optimum and ONNX Runtime use,
past_key_values.N.key and present.N.key; positions follow from the mask, so that left-padded batches are right.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import ArchitectureUnsupported, QuantmillError, SourceRejected
from quantmill.contract.method import Conversion
from quantmill.contract.model_folder import PLACES
from quantmill.contract.onnx import CONSTANT_BYTES
from quantmill.contract.session import Session
from quantmill.contract.tensors import ModelIndex
from quantmill_onnx.inspection import cosine, open_session
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.tasks import Task, export_opset, task_of

MODEL, DATA, CONFIG = "model.onnx", "model.onnx.data", "config.json"
INLINE_BYTES = 1 << 30  # weights in the graph's own file: protobuf ends at 2 GiB
MOST_OFF = 1e-3  # of the largest value that the source gives; float32 in another order of sums stays below 1e-5
UNUSED_KEYS = {"attn_implementation", "auto_map", "dtype", "torch_dtype", "architectures"}
SCOPES = "pkg.torch.onnx.name_scopes"
WRAPPED = "source"  # the attribute that holds the model while it is traced
BATCH, TOKENS, BEFORE = 2, 6, 3  # of the inputs that a graph is traced and compared with
IMAGE_SIZE = 224  # where the configuration says none
MOST_PIXELS = 1 << 26  # of the images that a graph is traced with, over their channels

Arrays = Mapping[str, NDArray[Any]]


def convert(session: Session, params: OnnxParams, folder: Path) -> Conversion:
    """Write the session's source to `folder` as an ONNX model with the files that belong to it.

    Raises ArchitectureUnsupported where transformers or torch's exporter fail on it, SourceRejected where weights are
    missing or the graph does not compute what the source does.
    """
    index = session.index
    task = task_of(index)
    _require_libraries()
    with _quiet(session.threads), _heard_by_modules(session):
        model, left_out = _build(session)
        with _failures_named(session, "its inputs"):
            traced = _Traced.of(model, task, index)
            expected = [traced.run(inputs) for inputs in traced.examples]
        with _failures_named(session, "torch.onnx.export"):
            program = traced.export(export_opset(params))
        session.pause()
        _name(program.model)
        _save(program.model, folder)
        del model, program
    session.pause()
    _carry(index, folder)
    return Conversion(compare(folder, traced.examples, expected, session.pause), left_out)


def _require_libraries() -> None:
    """Raises QuantmillError where this worker lacks what the exporter is made of."""
    for name in ("torch", "transformers", "onnxscript"):
        if find_spec(name) is None:
            raise QuantmillError(
                f"this worker has no {name} to make a graph with: install quantmill[worker,onnx] there"
            )


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """torch on so many threads, and without the exporter's warnings of its own parts or transformers' bars."""
    import torch
    import transformers

    bars: Any = transformers.utils.logging
    exporter = logging.getLogger("torch.onnx")
    before, level, shown = torch.get_num_threads(), exporter.level, bars.is_progress_bar_enabled()
    torch.set_num_threads(threads)
    exporter.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
        exporter.setLevel(level)
        if shown:
            bars.enable_progress_bar()


@contextmanager
def _heard_by_modules(session: Session) -> Iterator[None]:
    """Each module of a model that runs or is traced looks first whether the job has been canceled."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    handle = register_module_forward_pre_hook(lambda module, inputs: session.pause())
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _failures_named(session: Session, what: str) -> Iterator[None]:
    """What transformers and torch raise as ArchitectureUnsupported, with `what` they failed on.

    A cancellation that they have caught and wrapped is raised again as what it is.
    """
    try:
        yield
    except (QuantmillError, MemoryError):
        raise
    except Exception as error:
        session.pause()
        raise _unsupported(session.index, f"{what}: {error!r}") from error


def _unsupported(index: ModelIndex, why: str) -> ArchitectureUnsupported:
    return ArchitectureUnsupported(
        f"{index.architecture} does not become an ONNX graph here ({why[:300]}); export it with another tool and give "
        "that",
        architecture=index.architecture,
    )


# The model


def _build(session: Session) -> tuple[Any, tuple[str, ...]]:
    """The model in float32, and what of the checkpoint is not in it."""
    import transformers

    index = session.index
    keys = {key: value for key, value in index.config.items() if key not in UNUSED_KEYS and not key.startswith("_")}
    if index.tied:
        keys["tie_word_embeddings"] = True
    kind: Any = getattr(transformers, index.architecture, None)
    if not hasattr(kind, "from_pretrained"):
        raise _unsupported(index, "transformers has no such model")
    try:
        config = transformers.AutoConfig.for_model(**{"model_type": "", **keys})
        model, loaded = kind.from_pretrained(
            None,
            config=config,
            state_dict={name: _as_torch(session, name) for name in index.tensors},
            dtype="float32",
            attn_implementation="eager",
            output_loading_info=True,
        )
    except QuantmillError:
        raise
    except Exception as error:
        raise _unsupported(index, str(error)) from error
    missing = sorted(name for name in loaded["missing_keys"] if ".pooler." not in f".{name}")
    if missing or loaded["mismatched_keys"] or loaded["error_msgs"]:
        raise SourceRejected(
            f"the checkpoint does not fit {index.architecture}: it lacks {missing[:3]}, and of another shape are "
            f"{sorted(map(str, loaded['mismatched_keys']))[:3]}"
        )
    surplus = tuple(
        f"{name} is not in the graph: transformers' model has no use for it"
        for name in sorted(loaded["unexpected_keys"])
    )
    return model.eval(), surplus


def _as_torch(session: Session, name: str) -> Any:
    """The tensor as torch's, without a copy."""
    import torch

    values = session.tensor(name).values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mapping is read-only; it is cast to a copy, or left as it is
        if values.dtype.name == "bfloat16":
            return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(values)


# What is traced


@dataclass(frozen=True)
class _Traced:
    """A model with the names, axes and examples of its inputs.

    `axes` name the open dimensions of each input by their position.
    """

    module: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, Mapping[int, str]]
    examples: Sequence[Arrays]

    @classmethod
    def of(cls, model: Any, task: Task, index: ModelIndex) -> _Traced:
        makers = {"decoder": _decoder, "text": _text, "image": _image}
        return makers[task.kind](model, task, index)

    def run(self, inputs: Arrays) -> Arrays:
        import torch

        found = self.module(*(torch.from_numpy(inputs[name].copy()) for name in self.inputs))
        return {name: each.numpy() for name, each in zip(self.outputs, found, strict=True)}

    def export(self, opset: int) -> Any:
        import torch

        given = self.examples[-1]
        return torch.onnx.export(
            self.module,
            tuple(torch.from_numpy(given[name].copy()) for name in self.inputs),
            dynamo=True,
            opset_version=opset,
            input_names=list(self.inputs),
            output_names=list(self.outputs),
            dynamic_shapes=(tuple(dict(self.axes[name]) for name in self.inputs),),
            verbose=False,
        )


def _wrapped(model: Any, forward: Any) -> Any:
    """A module whose inputs are positional and whose results are a tuple."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, WRAPPED, model)

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            return tuple(forward(model, *inputs))

    return Wrapped().eval()


def _text(model: Any, task: Task, index: ModelIndex) -> _Traced:
    known = ["input_ids", "attention_mask"]
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        known.append("token_type_ids")

    def forward(model: Any, *inputs: Any) -> Iterator[Any]:
        found = model(**dict(zip(known, inputs, strict=True)), **_without_cache(model))
        return (found[name] for name in task.outputs)

    ids = _ids(model, BATCH, TOKENS)
    mask = np.ones_like(ids)
    mask[1, TOKENS // 2 :] = 0
    example = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    tokens = {0: "batch", 1: "sequence"}
    return _Traced(
        _wrapped(model, forward),
        tuple(known),
        task.outputs,
        dict.fromkeys(known, tokens),
        [{name: example[name] for name in known}],
    )


def _without_cache(model: Any) -> Mapping[str, bool]:
    return {"use_cache": False} if getattr(model.config, "use_cache", None) is not None else {}


def _ids(model: Any, batch: int, tokens: int) -> NDArray[np.int64]:
    """Tokens that are not among the first few, which may be padding."""
    vocabulary = int(model.config.vocab_size)
    first = min(4, vocabulary - 1)
    return np.random.default_rng(0).integers(first, vocabulary, (batch, tokens))


def _image(model: Any, task: Task, index: ModelIndex) -> _Traced:
    def forward(model: Any, images: Any) -> Iterator[Any]:
        found = model(pixel_values=images)
        return (found[name] for name in task.outputs)

    size = getattr(model.config, "image_size", None) or IMAGE_SIZE
    height, width = size if isinstance(size, list | tuple) else (size, size)
    shape = (BATCH, int(model.config.num_channels), int(height), int(width))
    if prod(shape) > MOST_PIXELS:
        raise _unsupported(index, f"its images have the shape {shape}")
    example = np.random.default_rng(0).standard_normal(shape, np.float32)
    return _Traced(
        _wrapped(model, forward),
        ("pixel_values",),
        task.outputs,
        {"pixel_values": {0: "batch"}},
        [{"pixel_values": example}],
    )


def _decoder(model: Any, task: Task, index: ModelIndex) -> _Traced:
    """Compared with an empty cache and left padding, then with a cache of BEFORE tokens."""
    shapes = _cache_shapes(model, index)
    caches = [f"{layer}.{part}" for layer in range(len(shapes)) for part in ("key", "value")]
    inputs = ("input_ids", "attention_mask", *(f"past_key_values.{name}" for name in caches))
    axes = {name: {0: "batch", 2: "past"} for name in inputs[2:]}
    axes |= {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "past_and_sequence"}}
    sizes = [size for pair in shapes for size in pair]
    generator = np.random.default_rng(0)
    examples = []
    for before in (0, BEFORE):
        mask = np.ones((BATCH, before + TOKENS), np.int64)
        mask[0, : TOKENS // 3] = 0
        pasts = [generator.standard_normal((BATCH, heads, before, width), np.float32) for heads, width in sizes]
        given: list[NDArray[Any]] = [_ids(model, BATCH, TOKENS), mask, *pasts]
        examples.append(dict(zip(inputs, given, strict=True)))
    outputs = (*task.outputs, *(f"present.{name}" for name in caches))
    return _Traced(_wrapped(model, _decode), inputs, outputs, axes, examples)


def _decode(model: Any, ids: Any, mask: Any, *pasts: Any) -> Iterator[Any]:
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(pasts[::2], pasts[1::2], strict=True)):
        cache.update(keys, values, layer)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, pasts[0].shape[2] :]
    found = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    yield found.logits
    for layer in found.past_key_values.layers:
        yield from (layer.keys, layer.values)


def _cache_shapes(model: Any, index: ModelIndex) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Heads and values of a head, of each layer's keys and values."""
    import torch
    from transformers import DynamicCache

    try:
        found = model(input_ids=torch.from_numpy(_ids(model, 1, 2)), past_key_values=DynamicCache(), use_cache=True)
        layers = [(layer.keys, layer.values) for layer in found.past_key_values.layers]
        return [((keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3])) for keys, values in layers]
    except QuantmillError:
        raise
    except Exception as error:
        raise _unsupported(index, f"its cache is not one of keys and values: {error}") from error


# The graph


def _name(model: Any) -> None:
    """Names by the source's modules, and nothing of the machine that it was made on.

    The matrix of a product, which the exporter turns and calls by a number, gets its Linear's own name.
    """
    graph = model.graph
    model.metadata_props.clear()
    graph.metadata_props.clear()
    counts: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in graph:
        scopes = literal_eval(node.metadata_props.get(SCOPES, "[]"))
        module = _module(scopes[-2]) if len(scopes) > 1 else ""
        label = f"{module}/{node.op_type}".lstrip("/")
        node.name = f"{label}_{counts[label]}" if counts[label] else label
        counts[label] += 1
        matrix = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if matrix is not None and matrix.name in graph.initializers and module:
            renamed.setdefault(matrix.name, f"{module}.weight")
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    _rename(graph, renamed)
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def _module(scope: str) -> str:
    return scope.removeprefix(WRAPPED).lstrip(".") if scope.startswith(WRAPPED) else ""


def _rename(graph: Any, renamed: Mapping[str, str]) -> None:
    """Initializers by the source's names; one whose name is taken keeps its own."""
    own = {name: _module(name) for name in graph.initializers if _module(name)}
    for name, better in (*own.items(), *renamed.items()):
        if name in graph.initializers and better not in graph.initializers:
            graph.initializers[name].name = better


def _save(model: Any, folder: Path) -> None:
    """The graph and its weights, in a file beside it where they are many; one tensor in memory at a time there."""
    import onnx_ir

    large = [
        value
        for value in model.graph.initializers.values()
        if value.const_value.dtype == onnx_ir.DataType.FLOAT and value.const_value.nbytes > CONSTANT_BYTES
    ]
    if sum(value.const_value.nbytes for value in large) > INLINE_BYTES:
        stored = onnx_ir.external_data.convert_tensors_to_external([value.const_value for value in large], folder, DATA)
        for value, tensor in zip(large, stored, strict=True):
            value.const_value = tensor
    onnx_ir.save(model, folder / MODEL)


def _carry(index: ModelIndex, folder: Path) -> None:
    """Tokenizer and settings, and config.json without the places where it lay."""
    for name, path in index.files.items():
        shutil.copyfile(path, folder / name)
    config = {key: value for key, value in index.config.items() if key not in PLACES}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(
    folder: Path, examples: Sequence[Arrays], expected: Sequence[Arrays], pause: Callable[[], None] = lambda: None
) -> dict[str, float | int | str]:
    """How far the graph's outputs are from the source's; `pause` is called before each run. Raises SourceRejected where
    that is too far."""
    session = open_session(folder / MODEL)
    worst, near, values = 0.0, 1.0, 0
    for inputs, outputs in zip(examples, expected, strict=True):
        pause()
        found = session.run(list(outputs), dict(inputs))
        for (name, theirs), ours in zip(outputs.items(), found, strict=True):
            theirs, ours = _where_tokens_are(inputs, theirs, name), _where_tokens_are(inputs, ours, name)
            off = float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-30))
            if not off <= MOST_OFF:  # so that NaN fails
                raise SourceRejected(
                    f"the exported graph gives another {name} than the source: off by {off:.3g} of its largest value, "
                    f"{MOST_OFF:g} are allowed; export it with another tool and give that",
                    output=name,
                )
            worst, near, values = max(worst, off), min(near, cosine(ours, theirs)), values + ours.size
    return {"largest difference": worst, "allowed": MOST_OFF, "least cosine": near, "values": values}


def _where_tokens_are(inputs: Arrays, output: NDArray[Any], name: str) -> NDArray[Any]:
    """Without what a model gives for padding, which means nothing. Caches are compared whole but for padding."""
    mask = inputs.get("attention_mask")
    if mask is None or output.ndim < 3:
        return output
    along = 2 if output.ndim == 4 else 1
    kept = mask[:, -output.shape[along] :].astype(bool)
    tokens: NDArray[Any] = np.moveaxis(output, along, 1)[kept]
    return tokens
