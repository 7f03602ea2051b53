"""Which of a checkpoint's tensors transformers' model is made of, by transformers' own table of conversions.

Most tensors are stored as the model has them. Others are stored under an older name (GPT-NeoX's `embed_out`), without
the prefix of the model inside (GPT-2's), or in parts: the experts of a mixture one by one, where the model has them
stacked.

Imports torch and transformers: imported where a model is run, never at start-up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from quantmill.contract.errors import ArchitectureUnsupported

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """Stored tensors and what they make.

    sources    (pattern, name in the checkpoint), in the order in which they are joined
    place      the first of the model's tensors that they make
    converter  transformers' operations; None where the stored tensor is the model's as it is
    """

    sources: tuple[tuple[str, str], ...]
    place: str
    converter: Any = None

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.sources]

    def make(self, stored: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
        """The model's tensors by name. Raises ArchitectureUnsupported where the parts do not join."""
        if self.converter is None:
            return {self.place: stored[self.names[0]]}
        converter = deepcopy(self.converter)
        for pattern, name in self.sources:
            converter.add_tensor(self.place, name, pattern, stored[name])
        try:
            made = converter.convert(self.place, model=model, config=model.config)
        except Exception as error:
            reason = f"{self.names[0]} and the like do not make {self.place}: {str(error)[:200]}"
            raise unsupported(type(model).__name__, reason) from error
        return {name: values[0] if isinstance(values, list) else values for name, values in made.items()}


def origins_of(model: Any, shapes: Mapping[str, Shape]) -> dict[str, Origin]:
    """Where each of the model's tensors comes from, by its name. `shapes` are those of the checkpoint's tensors.

    Raises ArchitectureUnsupported when one of the checkpoint's tensors has no place, or a place no tensor of its
    shape. Nothing is read.
    """
    places = model.state_dict(keep_vars=True)
    origins: dict[str, Origin] = {}
    for origin in _gather(model, shapes, places):
        empty = {name: torch.empty(shapes[name], device="meta") for name in origin.names}
        for place, values in origin.make(empty, model).items():
            if place not in places:
                raise unsupported(type(model).__name__, f"transformers' model has no tensor {place}")
            check_shape(model, place, tuple(values.shape), places)
            if place in origins:
                reason = f"both {origins[place].names[0]} and {origin.names[0]} are its {place}"
                raise unsupported(type(model).__name__, reason)
            origins[place] = origin
    filled = {id(places[name]) for name in origins}
    missing = [name for name, place in places.items() if id(place) not in filled]
    if missing:
        raise unsupported(type(model).__name__, f"the weights lack {missing[0]} ({len(missing)} tensors in all)")
    return origins


def check_shape(model: Any, name: str, shape: Shape, places: Mapping[str, torch.Tensor]) -> None:
    """Raises ArchitectureUnsupported where the model's tensor `name` is of another shape."""
    expected = tuple(places[name].shape)
    if expected != shape:
        reason = f"config.json makes {name} {list(expected)}, but it is {list(shape)}"
        raise unsupported(type(model).__name__, reason)


def unsupported(architecture: str, reason: str) -> ArchitectureUnsupported:
    return ArchitectureUnsupported(f"{architecture} cannot be evaluated: {reason}.", architecture=architecture)


def _gather(model: Any, names: Iterable[str], places: dict[str, torch.Tensor]) -> Iterator[Origin]:
    """Each stored tensor with those that it is joined to. Those that the model computes itself are left out."""
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    converter_of = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    ignored = [r"rotary_emb\.inv_freq$", *(model._keys_to_ignore_on_load_unexpected or ())]
    joined: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(names, key=dot_natural_key):
        place, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, places)
        if place not in places and name in places:  # a pattern that was meant for another name
            place, pattern = name, None
        if place not in places and any(re.search(each, name) for each in ignored):
            continue
        if place not in places:
            raise unsupported(type(model).__name__, f"transformers' model has no tensor {name}")
        if pattern is None:
            yield Origin((("", name),), place)
        else:
            joined.setdefault(place, []).append((pattern, name))
    for place, sources in joined.items():
        yield Origin(tuple(sources), place, converter_of[sources[0][0]])
