"""Transformers' causal language models with weights of our choice, one part in memory at a time.

A `Decoder` is transformers' own model on the meta device: all of its modules, none of its weights. What is run gets
them just before, and loses them after. The parts are the embedding, each block, and the head (final norm and output).

Imported where a model is run, never at start-up: torch and transformers take seconds and hundreds of MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from quantmill.calibration.origins import Origin, check_shape, origins_of, unsupported
from quantmill.calibration.weights import Weights
from quantmill.contract.errors import RequestRejected
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


def find_device(name: str) -> torch.device:
    """Raises RequestRejected, saying what is missing, where torch has no such device on this machine."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestRejected(f"{name!r} is not a device of this machine ({reason}); use 'cpu'", device=name) from error
    if device.type == "meta":
        raise RequestRejected("'meta' is not a device that computes; use 'cpu'", device=name)
    return device


def kind_of(device: torch.device) -> str:
    """What numbers depend on: devices of one kind give the same bits, those of two kinds nearly the same numbers."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def compute_in_float32(device: torch.device) -> None:
    """From now on: no TF32, and sums in an order of their own where torch knows one. A CPU does so anyway."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)


class Reached(Exception):
    """The forward pass came to the end of the part that has weights."""


@dataclass(frozen=True)
class Decoder:
    """The model that an index describes, without weights; `device` and `dtype` are where and as what parts run.

    `origins` has, for each of the model's tensors that is not another one under a second name, what it is made of.
    """

    model: Model
    blocks: Any  # torch.nn.ModuleList
    origins: Mapping[str, Origin]
    architecture: str
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, index: ModelIndex, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
        """Raises ArchitectureUnsupported when transformers does not have the model, or its tensors do not fit it, and
        RequestRejected when there is no such device."""
        place = find_device(device)
        with torch.device("meta"):
            model = _build(index, dtype)
        origins = origins_of(model, {name: info.shape for name, info in index.tensors.items()})
        _fill_buffers(model, index.architecture, place)
        return cls(model.eval(), _blocks(model, index.architecture), origins, index.architecture, place, dtype)

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
        made = self._make({alias for name in names for alias in _aliases(name, places)}, weights, places)
        try:
            for name in names:
                own = _first(made, _aliases(name, places))
                if own is None:
                    raise unsupported(self.architecture, f"the weights lack {self._origin(name).names[0]}")
                self._set(name, own)
            del made
            yield
        finally:
            for name in names:
                self._set(name, places[name])

    def _make(
        self, names: Collection[str], weights: Weights, places: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Those of the model's tensors whose parts `weights` have; parts are freed as soon as they are joined."""
        wanted = {origin.place: origin for origin in map(self._origin, names)}
        origin_of = {name: origin for origin in wanted.values() for name in origin.names}
        parts: dict[str, torch.Tensor] = {}
        made: dict[str, torch.Tensor] = {}
        for name, values in weights(sorted(origin_of)):
            parts[name] = torch.from_numpy(values).to(self.device, self.dtype)
            origin = origin_of[name]
            if parts.keys() >= set(origin.names):
                joined = origin.make({each: parts.pop(each) for each in origin.names}, self.model)
                for place, tensor in joined.items():
                    check_shape(self.model, place, tuple(tensor.shape), places)
                made |= joined
        if parts:
            lacking = next(each for each in origin_of[next(iter(parts))].names if each not in parts)
            raise unsupported(self.architecture, f"the weights lack {lacking}")
        return made

    def origin(self, name: str) -> Origin | None:
        """What the model's tensor `name` is made of, or that which it is tied to."""
        places = self.model.state_dict(keep_vars=True)
        return next((self.origins[each] for each in _aliases(name, places) if each in self.origins), None)

    def _origin(self, name: str) -> Origin:
        """A tensor that is not stored, because it is tied to another, may still be given under its own name."""
        return self.origins.get(name) or Origin((("", name),), name)

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

    def block_of(self) -> dict[str, int]:
        """The block of each source tensor that is in one, by its name; an output layer of its own is one more."""
        found = {
            name: number
            for number in range(len(self.blocks))
            for place in self.block_names(number)
            for name in self._origin(place).names
        }
        head = [self.origins[place] for place in self.head_names() if place in self.origins]
        return found | {name: len(self.blocks) for origin in head for name in origin.names}

    def run_experts_alone(self) -> None:
        """Let each expert compute by itself, not all of them in one product of the tokens grouped by expert."""
        self.model.set_experts_implementation("eager")

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

    @contextmanager
    def whole(self, weights: Weights) -> Iterator[Model]:
        """transformers' model with all of its weights in memory, for what cannot be done block by block."""
        with self.loaded(list(self.model.state_dict()), weights):
            yield self.model

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
            raise unsupported(self.architecture, "its blocks give more than hidden states")
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
        raise unsupported(index.architecture, str(error)[:300]) from error
    if type(model).__name__ != index.architecture:
        raise unsupported(index.architecture, f"as a language model, transformers has {type(model).__name__}")
    return model


def _config(index: ModelIndex) -> Any:
    if index.gguf is not None:
        raise unsupported(index.architecture, "it is a GGUF file; give the checkpoint that it was made from")
    if index.config.get("quantization_config") is not None:
        raise unsupported(index.architecture, "its weights are quantized already")
    layers = max((n for key in LAYER_COUNTS if isinstance(n := index.config.get(key), int)), default=0)
    if layers > len(index.tensors):
        raise unsupported(index.architecture, f"config.json has {layers} layers, but only {len(index.tensors)} tensors")
    keys = {key: value for key, value in index.config.items() if key not in UNUSED_KEYS and not key.startswith("_")}
    if index.tied:
        keys["tie_word_embeddings"] = True  # where config.json does not say so
    try:
        return AutoConfig.for_model(**{"model_type": "", **keys})
    except Exception as error:
        raise unsupported(index.architecture, str(error)[:300]) from error


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
            raise unsupported(architecture, f"transformers does not compute the buffers of {path}")


def _blocks(model: Model, architecture: str) -> Any:
    layers = model.config.get_text_config().num_hidden_layers
    lists = [each for each in model.get_decoder().children() if isinstance(each, torch.nn.ModuleList)]
    found = [each for each in lists if len(each) == layers]
    if len(found) != 1 or not layers:
        raise unsupported(architecture, "it is not one list of blocks")
    return found[0]


def _aliases(name: str, places: Mapping[str, torch.Tensor]) -> list[str]:
    """All names of the parameter that has this one, this one first."""
    return [name, *(other for other, values in places.items() if values is places[name] and other != name)]


def _first(found: Mapping[str, torch.Tensor], names: list[str]) -> torch.Tensor | None:
    return next((found[name] for name in names if name in found), None)
