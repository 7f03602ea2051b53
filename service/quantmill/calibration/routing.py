"""Which tokens a block's router sends to which experts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from quantmill.calibration.taps import Taps

Routed = dict[str, tuple[torch.Tensor, torch.Tensor]]  # experts' module -> hidden states (tokens, hidden), chosen ones


class Routing:
    """Watches the experts' modules of a block; windows may run in several threads."""

    def __init__(self, modules: dict[str, Any]) -> None:
        """`modules` are those of transformers that hold stacked experts, by name."""
        self._modules = modules
        self._here = threading.local()

    @contextmanager
    def watched(self) -> Iterator[Routed]:
        """What this thread's run sends to experts."""
        self._here.routed = routed = Routed()
        handles = [module.register_forward_pre_hook(self._hook(name)) for name, module in self._modules.items()]
        try:
            yield routed
        finally:
            for handle in handles:
                handle.remove()
            del self._here.routed

    def _hook(self, name: str) -> Callable[..., None]:
        thread = threading.get_ident()

        def note(module: Any, args: tuple[Any, ...]) -> None:
            if threading.get_ident() == thread:  # others have hooks of their own
                self._here.routed[name] = (args[0].reshape(-1, args[0].shape[-1]), args[1])

        return note

    def counts(self, routed: Routed) -> dict[str, torch.Tensor]:
        """How many tokens each expert was sent, by module."""
        return {
            name: torch.bincount(chosen.reshape(-1), minlength=self.experts(name))[: self.experts(name)]
            for name, (_, chosen) in routed.items()
        }

    def experts(self, name: str) -> int:
        return len(next(self._modules[name].parameters()))

    def everything(self, routed: Routed, name: str, expert: int, places: Collection[int]) -> dict[int, torch.Tensor]:
        """What an expert's Linears at `places` would be fed if every token were sent to it."""
        hidden, _ = routed[name]
        chosen = torch.full((len(hidden), 1), expert, device=hidden.device)
        taps = Taps(places)
        with taps:
            self._modules[name](hidden, chosen, torch.ones(len(hidden), 1, device=hidden.device))
        return taps.seen
