"""What the Linears of a running block are fed, and what its attention caches.

Inputs are seen where torch multiplies by the Linears' weights, keys and values where the cache is updated.

A weight is known by where its values lie. So nn.Linear, GPT-2's Conv1D and the experts that transformers keeps in one
stacked parameter are all seen alike, each expert with the tokens that were routed to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from quantmill.calibration.decoder import Reached

LINEAR, ADDMM = torch.nn.functional.linear, torch.addmm


class Taps(TorchFunctionMode):
    """Keeps the input (tokens, in) of every product with a weight that lies at one of `places`, by place.

    With `stop`, Reached is raised once all of them have been seen: nothing behind them is computed. With `places` None
    every product is kept, in the order in which they come.
    """

    def __init__(self, places: Collection[int] | None, *, stop: bool = False) -> None:
        super().__init__()
        self.seen: dict[int, torch.Tensor] = {}
        self._places = places
        self._stop = stop

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is LINEAR or func is ADDMM:
            x, weight = (args[0], args[1]) if func is LINEAR else (args[1], args[2])
            self._look(x, weight.data_ptr())
        return func(*args, **(kwargs or {}))

    def _look(self, x: torch.Tensor, place: int) -> None:
        if self._places is not None and place not in self._places:
            return
        flat = x.reshape(-1, x.shape[-1])
        self.seen[place] = flat if place not in self.seen else torch.cat([self.seen[place], flat])
        if self._stop and self._places is not None and len(self.seen) == len(self._places):
            raise Reached


class CacheTap:
    """Stands in for the cache of keys and values of an attention: keeps what it is given to store."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """transformers' Cache.update: both are (1, heads, tokens, head_dim), keys after RoPE."""
        self.seen.append((_by_token(keys), _by_token(values)))
        return keys, values


def _by_token(states: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, head_dim) to (tokens, heads * head_dim)."""
    return states[0].transpose(0, 1).flatten(1)


@contextmanager
def until_reached() -> Iterator[None]:
    """Run a part of a model until Taps have seen enough."""
    try:
        yield
    except Reached:
        return
