"""One block of a decoder with float32 weights of its own, by their names in the source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

from quantmill.calibration.decoder import Call, Decoder
from quantmill.calibration.origins import Origin, unsupported
from quantmill.calibration.taps import CacheTap, Taps
from quantmill.calibration.weights import Weights
from quantmill.contract.errors import CalibrationMissing
from quantmill.contract.experts import Stack
from quantmill.contract.tensors import FloatArray, ModelIndex

HEAD = threading.Lock()  # the head is reached through the whole model, with stand-ins for its blocks

Tensors = Callable[[str], NDArray[Any]]  # a source tensor's values by its name


@dataclass(frozen=True)
class Experts:
    """The stacked weights of a block's experts that run on one input: gate and up, say, or down.

    `places` has for each expert where its slice lies, `names` its weights in the source.
    """

    module: str
    names: tuple[tuple[str, ...], ...]
    places: tuple[int, ...]

    @property
    def weights(self) -> frozenset[str]:
        return frozenset(name for names in self.names for name in names)


@dataclass(frozen=True)
class Resident:
    """The weights are tensors, on the decoder's device, that the model's parameters share: changing one changes what
    runs.

    `places` are where a matrix's values lie, with its names in the source: gate and up of an expert lie in one.
    `inputs_of` is the width of what is multiplied by it; `crosswise` names those that are stored (in, out).
    """

    decoder: Decoder
    number: int
    name: str
    weights: Mapping[str, torch.Tensor]
    places: Mapping[int, tuple[str, ...]]
    inputs_of: Mapping[int, int]
    experts: tuple[Experts, ...]
    crosswise: frozenset[str]

    @property
    def expert_modules(self) -> dict[str, Any]:
        return {level.module: self.decoder.model.get_submodule(level.module) for level in self.experts}

    def run(self, hidden: torch.Tensor, call: Call) -> torch.Tensor:
        """What the block makes of (1, length, hidden); the head gives it back as it is."""
        if self.number < len(self.decoder.blocks):
            return self.decoder.block(self.number, hidden, call)
        with HEAD:
            self.decoder.logits(hidden[0])
        return hidden

    def caching(self, call: Call, cache: CacheTap) -> Call:
        """The call with `cache` for the keys and values of its attention."""
        args, kwargs = call
        if "past_key_values" not in kwargs:
            raise unsupported(self.decoder.architecture, f"{self.name} is called without a cache of keys and values")
        return args, {**kwargs, "past_key_values": cache}

    def stages(self, hidden: torch.Tensor, call: Call) -> tuple[tuple[str, ...], ...]:
        """Its Linears by a trial run: those with one input together, in order; experts one after the other."""
        taps = Taps(self.places.keys())
        with taps:
            self.run(hidden, call)
        grouped: dict[Any, list[str]] = {}
        level_of = {place: level for level in self.experts for place in level.places}
        for place, x in taps.seen.items():
            level = level_of.get(place)
            if level is None:
                grouped.setdefault((x.data_ptr(), x.shape), []).extend(self.places[place])
            else:
                for position, names in enumerate(level.names):
                    grouped.setdefault((level.places[position], "expert"), list(names))
        unseen = [level for level in self.experts if not taps.seen.keys() & set(level.places)]
        if unseen:
            raise unsupported(self.decoder.architecture, f"{unseen[0].names[0][0]} takes no part in its blocks")
        return tuple(map(tuple, grouped.values()))


def aligned(tensors: Tensors, index: ModelIndex) -> Weights:
    """Float32 copies, laid as torch lays them: numpy aligns to less, and products may then round otherwise."""

    def read(names: Collection[str]) -> Iterator[tuple[str, FloatArray]]:
        for name in names:
            if name in index.tensors:
                source = tensors(name)
                values = torch.empty(source.shape).numpy()
                values[...] = source
                yield name, values

    return read


@contextmanager
def resident(
    decoder: Decoder,
    number: int,
    tensors: Tensors,
    weights: Weights,
    apart: Mapping[str, Stack] = MappingProxyType({}),
) -> Iterator[Resident]:
    """Read a block, or with the number after the last one the final norm and the head.

    `apart` are stacks of the source, by name, whose experts are seen one by one. Raises ArchitectureUnsupported where
    its weights are not those of the architecture.
    """
    head = number == len(decoder.blocks)
    names = decoder.head_names() if head else decoder.block_names(number)
    with decoder.loaded(names, weights):
        found = _Found(apart)
        for place, parameter in _parameters(decoder, names):
            found.add(decoder, place, parameter, tensors)
        name = "the head" if head else decoder.block_prefix(number).rstrip(".")
        where = (found.weights, found.places, found.inputs_of, tuple(found.experts), found.crosswise)
        yield Resident(decoder, number, name, *where)


def _parameters(decoder: Decoder, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    state = decoder.model.state_dict(keep_vars=True)
    return ((name, state[name].detach()) for name in names)


class _Found:
    """What the parameters of a block are."""

    def __init__(self, apart: Mapping[str, Stack]) -> None:
        self._apart = apart
        self.weights: dict[str, torch.Tensor] = {}
        self.places: dict[int, tuple[str, ...]] = {}
        self.inputs_of: dict[int, int] = {}
        self.experts: list[Experts] = []
        self.crosswise: frozenset[str] = frozenset()

    def add(self, decoder: Decoder, place: str, parameter: torch.Tensor, tensors: Tensors) -> None:
        origin = decoder.origin(place)
        if origin is not None and origin.converter is not None:
            self.weights |= stacked(decoder, place, origin, parameter, tensors)
            self._add_level(_level(place, origin, parameter), parameter)
            return
        name = origin.names[0] if origin is not None else place
        self.weights[name] = parameter
        if name in self._apart:
            stack = self._apart[name]
            self.weights |= _slices(stack, parameter)
            names = tuple(stack.names(expert) for expert in range(stack.experts))
            self._add_level(Experts(place.rpartition(".")[0], names, _places(parameter)), parameter)
        if parameter.ndim == 2:
            owner = decoder.model.get_submodule(place.rpartition(".")[0])
            self.places[parameter.data_ptr()] = (name,)
            self.inputs_of[parameter.data_ptr()] = parameter.shape[0 if isinstance(owner, Conv1D) else 1]
            if isinstance(owner, Conv1D):
                self.crosswise |= {name}

    def _add_level(self, level: Experts, parameter: torch.Tensor) -> None:
        self.experts.append(level)
        self.places |= dict(zip(level.places, level.names, strict=True))
        self.inputs_of |= dict.fromkeys(level.places, parameter.shape[2])


def _slices(stack: Stack, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights of each expert of a stack (experts, out, in), in place."""
    rows = stack.shape[0]
    return {
        name: parameter[expert, position * rows : (position + 1) * rows]
        for expert in range(stack.experts)
        for position, name in enumerate(stack.names(expert))
    }


def stacked(
    decoder: Decoder, place: str, origin: Origin, parameter: torch.Tensor, tensors: Tensors
) -> dict[str, torch.Tensor]:
    """The slices of a parameter (experts, rows, cols) that are the source's tensors.

    transformers stacks experts and sets what one input goes through below each other. Another arrangement is refused:
    a slice has to begin and end as its tensor does.
    """
    found: dict[str, torch.Tensor] = {}
    rows = 0
    for names in _by_pattern(origin):
        height = len(tensors(names[0]))
        for expert, name in enumerate(names):
            source = tensors(name)
            fits = parameter.ndim == 3 and expert < len(parameter)
            part = parameter[expert, rows : rows + height] if fits else parameter[:0]
            if part.shape != source.shape or not _same_ends(part, source):
                raise unsupported(decoder.architecture, f"{place} does not hold {name} as it is")
            found[name] = part
        rows += height
    return found


def _same_ends(part: torch.Tensor, source: NDArray[Any]) -> bool:
    return all(np.array_equal(part[row].cpu().numpy(), source[row].astype(np.float32)) for row in (0, -1))


def _by_pattern(origin: Origin) -> list[list[str]]:
    """The source's tensors of each of the converter's patterns, in its order."""
    return [[name for pattern, name in origin.sources if pattern == each] for each in origin.converter.source_patterns]


def _level(place: str, origin: Origin, parameter: torch.Tensor) -> Experts:
    names = tuple(zip(*_by_pattern(origin), strict=True))
    return Experts(place.rpartition(".")[0], names, _places(parameter))


def _places(parameter: torch.Tensor) -> tuple[int, ...]:
    return tuple(part.data_ptr() for part in parameter)


def require_of_block(name: str, weights: Mapping[str, torch.Tensor]) -> None:
    if name not in weights:
        raise CalibrationMissing(f"{name!r} is no tensor of this block; it has {', '.join(sorted(weights))}"[:2000])
