"""Transformers' causal language models with weights of our choice, in float32, on the CPU.

Imported where a model is run, never at start-up: torch and transformers take seconds and hundreds of MiB.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from quantmill.contract.errors import ArchitectureUnsupported, SourceRejected
from quantmill.contract.tensors import FloatArray, ModelIndex

LOGITS_BYTES = 128 << 20  # of one batch; their log softmax takes as much again

# config.json may name kernels to fetch, classes to import, files to open. Such keys are not handed on.
UNUSED_KEYS = {"attn_implementation", "experts_implementation", "auto_map", "dtype", "torch_dtype", "architectures"}
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")

Model = Any  # transformers is not typed


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let torch use `threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_model(index: ModelIndex, weights: Iterable[tuple[str, FloatArray]]) -> Model:
    """The model that `index` describes, holding `weights`, ready to predict.

    It is built without memory first, and gets some only when the checkpoint's tensors fit it.
    Raises ArchitectureUnsupported when transformers does not have it, or `weights` lack a tensor, or have one that
    it does not.
    """
    with torch.device("meta"):
        outline = _build(index)
    _check_fit(outline, {name: info.shape for name, info in index.tensors.items()}, index.architecture)
    model = _build(index)
    _fill(model, weights, index.architecture)
    return model.eval()


def mean_nll(model: Model, windows: NDArray[np.int64]) -> Iterator[list[float]]:
    """The mean negative log likelihood of each window's tokens but the first, in nats, a few windows at a time.

    `windows` are token ids of shape (windows, window). Raises SourceRejected when the model has fewer tokens.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if windows.max() >= vocabulary:
        raise SourceRejected(f"The tokenizer makes token {windows.max()}, but the model knows {vocabulary} tokens.")
    batch = max(1, LOGITS_BYTES // (4 * vocabulary * windows.shape[1]))
    with torch.inference_mode():
        for start in range(0, len(windows), batch):
            ids = torch.from_numpy(windows[start : start + batch])  # (batch, window)
            logits = model(ids, use_cache=False).logits.flatten(0, 1)  # (batch * window, vocabulary)
            following = ids.roll(-1, dims=1).flatten()  # (batch * window,); a window's last one means nothing
            nll = torch.nn.functional.cross_entropy(logits, following, reduction="none")
            yield nll.view(ids.shape)[:, :-1].double().mean(dim=1).tolist()


def _build(index: ModelIndex) -> Model:
    """The model with the parameters' memory as it comes. What is computed from the config (RoPE) is right."""
    config = _config(index)
    from_config: Any = AutoModelForCausalLM.from_config
    try:
        with no_init_weights():
            model = from_config(config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False)
        model.tie_weights()
    except Exception as error:
        raise _unsupported(index.architecture, str(error)[:300]) from error
    if type(model).__name__ != index.architecture:
        raise _unsupported(index.architecture, f"as a language model, transformers has {type(model).__name__}")
    return model


def _config(index: ModelIndex) -> Any:
    if index.config.get("quantization_config") is not None:
        raise _unsupported(index.architecture, "its weights are quantized already")
    layers = max((n for key in LAYER_COUNTS if isinstance(n := index.config.get(key), int)), default=0)
    if layers > len(index.tensors):
        raise _unsupported(
            index.architecture, f"config.json has {layers} layers, but only {len(index.tensors)} tensors"
        )
    keys = {key: value for key, value in index.config.items() if key not in UNUSED_KEYS and not key.startswith("_")}
    if index.tied:
        keys["tie_word_embeddings"] = True  # where config.json does not say so
    try:
        return AutoConfig.for_model(**{"model_type": "", **keys})
    except Exception as error:
        raise _unsupported(index.architecture, str(error)[:300]) from error


def _check_fit(model: Model, shapes: Mapping[str, tuple[int, ...]], architecture: str) -> None:
    places = model.state_dict(keep_vars=True)
    fitting = [name for name, shape in shapes.items() if _has_place(model, places, name, shape, architecture)]
    _check_complete(places, fitting, architecture)


def _fill(model: Model, weights: Iterable[tuple[str, FloatArray]], architecture: str) -> None:
    places = model.state_dict(keep_vars=True)
    filled: dict[int, str] = {}
    for name, values in weights:
        if not _has_place(model, places, name, values.shape, architecture):
            continue
        if id(places[name]) in filled and not np.array_equal(places[name].detach().numpy(), values):
            places[name] = _untie(model, name)
        np.copyto(places[name].detach().numpy(), values)
        filled[id(places[name])] = name
    _check_complete(places, filled.values(), architecture)


def _has_place(
    model: Model, places: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...], architecture: str
) -> bool:
    """Whether the model takes this tensor, or knows that old checkpoints store what is computed now."""
    if name not in places:
        patterns = {r"rotary_emb\.inv_freq$", *(model._keys_to_ignore_on_load_unexpected or ())}
        if not any(re.search(pattern, name) for pattern in patterns):
            raise _unsupported(architecture, f"transformers' model has no tensor {name}")
        return False
    expected = tuple(places[name].shape)
    if expected != shape:
        raise _unsupported(architecture, f"config.json makes {name} {list(expected)}, but it is {list(shape)}")
    return True


def _untie(model: Model, name: str) -> torch.nn.Parameter:
    """A parameter of its own for `name`, which shares one. Tied ends that differ in a checkpoint are not tied."""
    module, _, attribute = name.rpartition(".")
    own = torch.nn.Parameter(torch.empty_like(getattr(model.get_submodule(module), attribute)))
    setattr(model.get_submodule(module), attribute, own)
    return own


def _check_complete(places: Mapping[str, torch.Tensor], names: Collection[str], architecture: str) -> None:
    """Every parameter has got values, by one of its names."""
    filled = {id(places[name]) for name in names}
    missing = [name for name, place in places.items() if id(place) not in filled]
    if missing:
        raise _unsupported(architecture, f"the weights lack {missing[0]} ({len(missing)} tensors in all)")


def _unsupported(architecture: str, reason: str) -> ArchitectureUnsupported:
    return ArchitectureUnsupported(f"{architecture} cannot be evaluated: {reason}.", architecture=architecture)
