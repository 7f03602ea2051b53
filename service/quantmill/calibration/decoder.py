"""Transformers' causal language models with weights of our choice, one part in memory at a time.

A `Decoder` is transformers' own model on the meta device: all of its modules, none of its weights. What is run gets
them just before, and loses them after. The parts are the embedding, each block, and the head (final norm and output).

Imported where a model is run, never at start-up: torch and transformers take seconds and hundreds of MiB.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from quantmill.calibration.weights import Weights
from quantmill.contract.errors import ArchitectureUnsupported
from quantmill.contract.tensors import ModelIndex

# config.json may name kernels to fetch, classes to import, files to open. Such keys are not handed on.
UNUSED_KEYS = {"attn_implementation", "experts_implementation", "auto_map", "dtype", "torch_dtype", "architectures"}
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")

Model = Any  # transformers is not typed
Call = tuple[tuple[Any, ...], dict[str, Any]]  # what a block is called with after its hidden states


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let torch use `threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Reached(Exception):
    """The forward pass came to the end of the part that has weights."""


@dataclass(frozen=True)
class Decoder:
    """The model that an index describes, without weights; `device` and `dtype` are where and as what parts run."""

    model: Model
    blocks: Any  # torch.nn.ModuleList
    architecture: str
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, index: ModelIndex, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
        """Raises ArchitectureUnsupported when transformers does not have the model, or its tensors do not fit it."""
        with torch.device("meta"):
            model = _build(index, dtype)
        _check_fit(model, index)
        _fill_buffers(model, index.architecture, torch.device(device))
        return cls(model.eval(), _blocks(model, index.architecture), index.architecture, torch.device(device), dtype)

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def hidden(self) -> int:
        """The width of the hidden states."""
        config = self.model.config.get_text_config()
        return int(config.hidden_size)

    @contextmanager
    def loaded(self, names: list[str], weights: Weights) -> Iterator[None]:
        """Give the parameters of these names their values, and take them away again.

        Raises ArchitectureUnsupported when `weights` lack one, or have it in another shape.
        """
        places = self.model.state_dict(keep_vars=True)
        wanted = {alias for name in names for alias in _aliases(name, places)}
        found: dict[str, torch.Tensor] = {}
        for name, values in weights(sorted(wanted)):
            _check_shape(name, values.shape, places, self.architecture)
            found[name] = torch.from_numpy(values).to(self.device, self.dtype)
        try:
            for name in names:
                own = found[name] if name in found else _first(found, _aliases(name, places))
                if own is None:
                    raise _unsupported(self.architecture, f"the weights lack {name}")
                self._set(name, own)
            del found
            yield
        finally:
            for name in names:
                self._set(name, places[name])

    def _set(self, name: str, values: torch.Tensor) -> None:
        module, _, attribute = name.rpartition(".")
        kept = values if isinstance(values, torch.nn.Parameter) else torch.nn.Parameter(values, requires_grad=False)
        owner = self.model.get_submodule(module)
        if attribute in owner._parameters:
            owner._parameters[attribute] = kept
        else:
            owner._buffers[attribute] = values

    # The parts

    def block_names(self, number: int) -> list[str]:
        return [f"{self.block_prefix(number)}{name}" for name in self.blocks[number].state_dict()]

    def block_prefix(self, number: int) -> str:
        """What the names of the block's tensors begin with, such as `model.layers.3.`."""
        block = self.blocks[number]
        return next(f"{name}." for name, module in self.model.named_modules() if module is block)

    def embedding_names(self) -> list[str]:
        """All outside the blocks but the output layer."""
        return self._outside(without=self.model.get_output_embeddings())

    def head_names(self) -> list[str]:
        """All outside the blocks but the embedding, whose values the output layer has under its own name."""
        return self._outside(without=self.model.get_input_embeddings())

    def _outside(self, without: Any) -> list[str]:
        inside = {id(values) for values in self.blocks.state_dict(keep_vars=True).values()}
        left_out = next(f"{name}." for name, module in self.model.named_modules() if module is without)
        places = self.model.state_dict(keep_vars=True)
        return [name for name, values in places.items() if id(values) not in inside and not name.startswith(left_out)]

    # Running them

    def embed(self, ids: torch.Tensor) -> tuple[torch.Tensor, list[Call]]:
        """The hidden states (batch, window, hidden) that the first block takes, and what each block is called with.

        `ids` are (batch, window). Masks and positions are transformers' own, for this shape; windows are whole.
        """
        calls: list[Call] = []
        first: list[torch.Tensor] = []

        def record(number: int) -> Callable[..., torch.Tensor]:
            def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
                first.append(hidden)
                calls.append((args, kwargs))
                if number == len(self.blocks) - 1:
                    raise Reached
                return hidden

            return forward

        with self._instead([record(number) for number in range(len(self.blocks))]):
            self._run(ids)
        return first[0], calls

    def block(self, number: int, hidden: torch.Tensor, call: Call) -> torch.Tensor:
        """What the block makes of hidden states (batch, window, hidden)."""
        args, kwargs = call
        made = self.blocks[number](hidden, *args, **kwargs)
        if not isinstance(made, torch.Tensor):
            raise _unsupported(self.architecture, "its blocks give more than hidden states")
        return made

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 (tokens, vocabulary) of the last block's hidden states (tokens, hidden)."""
        tokens = hidden.unsqueeze(1)  # each token a batch of its own: norm and output layer know no others
        embedding = self.model.get_input_embeddings()
        embedding.forward = lambda ids: tokens
        try:
            with self._instead([lambda states, *args, **kwargs: tokens] * len(self.blocks)):
                ids = torch.zeros(len(tokens), 1, dtype=torch.int64, device=self.device)
                made: torch.Tensor = self.model(ids, use_cache=False).logits
        finally:
            del embedding.forward
        return made[:, 0].float()

    @contextmanager
    def _instead(self, forwards: list[Callable[..., torch.Tensor]]) -> Iterator[None]:
        """Other functions in the place of the blocks."""
        for block, forward in zip(self.blocks, forwards, strict=True):
            block.forward = forward
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward

    def _run(self, ids: torch.Tensor) -> None:
        try:
            self.model(ids, use_cache=False)
        except Reached:
            return


def _build(index: ModelIndex, dtype: torch.dtype) -> Model:
    config = _config(index)
    from_config: Any = AutoModelForCausalLM.from_config
    try:
        with no_init_weights():
            model = from_config(config, dtype=dtype, trust_remote_code=False)
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


def _check_fit(model: Model, index: ModelIndex) -> None:
    """Each of the checkpoint's tensors has its place, and each place a tensor."""
    places = model.state_dict(keep_vars=True)
    patterns = {r"rotary_emb\.inv_freq$", *(model._keys_to_ignore_on_load_unexpected or ())}
    filled = set()
    for name, info in index.tensors.items():
        if name in places:
            _check_shape(name, info.shape, places, index.architecture)
            filled.add(id(places[name]))
        elif not any(re.search(pattern, name) for pattern in patterns):  # old checkpoints store what is computed now
            raise _unsupported(index.architecture, f"transformers' model has no tensor {name}")
    missing = [name for name, place in places.items() if id(place) not in filled]
    if missing:
        raise _unsupported(index.architecture, f"the weights lack {missing[0]} ({len(missing)} tensors in all)")


def _check_shape(name: str, shape: tuple[int, ...], places: Mapping[str, torch.Tensor], architecture: str) -> None:
    expected = tuple(places[name].shape)
    if expected != shape:
        raise _unsupported(architecture, f"config.json makes {name} {list(expected)}, but it is {list(shape)}")


def _fill_buffers(model: Model, architecture: str, device: torch.device) -> None:
    """Compute what is not stored (RoPE frequencies), as transformers does after loading on the meta device."""
    stored = model.state_dict(keep_vars=True).keys()
    for path, module in model.named_modules():
        computed = {
            name for name, _ in module.named_buffers(recurse=False) if f"{path}.{name}".lstrip(".") not in stored
        }
        if not computed:
            continue
        for name in computed:
            empty = torch.empty_like(module._buffers[name], device=device)
            module._buffers[name] = empty.fill_(float("nan")) if empty.is_floating_point() else empty
        model._init_weights(module)
        if any(module._buffers[name].isnan().any() for name in computed):
            raise _unsupported(architecture, f"transformers does not compute the buffers of {path}")


def _blocks(model: Model, architecture: str) -> Any:
    layers = model.config.get_text_config().num_hidden_layers
    lists = [each for each in model.get_decoder().children() if isinstance(each, torch.nn.ModuleList)]
    found = [each for each in lists if len(each) == layers]
    if len(found) != 1 or not layers:
        raise _unsupported(architecture, "it is not one list of blocks")
    return found[0]


def _aliases(name: str, places: Mapping[str, torch.Tensor]) -> list[str]:
    """All names of the parameter that has this one, this one first."""
    return [name, *(other for other, values in places.items() if values is places[name] and other != name)]


def _first(found: Mapping[str, torch.Tensor], names: list[str]) -> torch.Tensor | None:
    return next((found[name] for name in names if name in found), None)


def _unsupported(architecture: str, reason: str) -> ArchitectureUnsupported:
    return ArchitectureUnsupported(f"{architecture} cannot be evaluated: {reason}.", architecture=architecture)
