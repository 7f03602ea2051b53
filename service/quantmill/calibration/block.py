"""One block of a calibration run: its statistics as it is, its weights as a method changes them, its outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import torch

from quantmill.calibration.accumulate import Gathering
from quantmill.calibration.activations import Activations
from quantmill.calibration.decoder import Call, limit_threads
from quantmill.calibration.origins import unsupported
from quantmill.calibration.resident import Resident, require_of_block
from quantmill.calibration.routing import Routed, Routing
from quantmill.calibration.taps import CacheTap, Taps, until_reached
from quantmill.contract.calibration import Statistic, Statistics, statistics_bytes
from quantmill.contract.errors import CalibrationMissing, NonFiniteActivation, PluginBroken
from quantmill.contract.sensitivity import Sensitivity, sensitivity
from quantmill.contract.tensors import FloatArray

AHEAD_BYTES = 1 << 30  # statistics of experts that are gathered before they are asked for

T = TypeVar("T")
R = TypeVar("R")
Place = int  # where a weight's values lie


class Threads:
    """Runs pieces of work side by side, each in one thread of torch's; answers come in the order of the questions."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, "calibration", initializer=lambda: torch.set_num_threads(1))

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        def one(item: T) -> R:
            with torch.inference_mode():
                return work(item)

        return list(self._pool.map(one, items))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class ExpertRules:
    """An expert that fewer than `least_tokens` are routed to is starved; with `all_tokens` it is fed every token."""

    least_tokens: int = 0
    all_tokens: bool = False


@dataclass
class Window:
    """What was seen of one window: inputs (tokens, in) of Linears, how many tokens each expert was sent, and the keys
    and values (tokens, heads * head_dim) that were cached."""

    inputs: dict[Place, torch.Tensor]
    routed: dict[str, torch.Tensor] = field(default_factory=dict)
    cached: dict[str, torch.Tensor] = field(default_factory=dict)


def _count(windows: Sequence[Window], routed: dict[str, list[int]]) -> None:
    """Add what a run sends to experts; one that stops before them says nothing."""
    for window in windows:
        for module, counts in window.routed.items():
            before = routed.setdefault(module, [0] * len(counts))
            routed[module] = [a + b for a, b in zip(before, counts.tolist(), strict=True)]


class RunningBlock:
    """A CalibratedBlock: `resident` on the windows whose hidden states `before` holds."""

    def __init__(
        self,
        resident: Resident,
        unit: str,
        before: Activations,
        calls: Sequence[Call],
        threads: Threads,
        experts: ExpertRules,
    ) -> None:
        """`calls` are what the block is called with beside hidden states, window by window."""
        self.number = resident.number
        self.unit = unit
        self.routed: dict[str, list[int]] = {}  # tokens that each expert was sent, by module, as last seen
        self._resident = resident
        self._before = before
        self._calls = calls
        self._threads = threads
        self._rules = experts
        self._routing = Routing(resident.expert_modules)
        self._ahead: dict[tuple[Place, tuple[Statistic, ...]], Statistics] = {}
        self.done = False  # it changes no more
        self.stays = False  # as the source has it
        self.outputs: Activations | None = None  # of all windows, once a run has given them
        self.measuring_seconds = 0.0
        self.sensitivity: dict[str, Sensitivity] = {}  # of its weights as they were when their inputs were first seen

    # What a method sees

    @cached_property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        with limit_threads(1), torch.inference_mode():
            return self._resident.stages(self._hidden(0), self._calls[0])

    def weight(self, name: str) -> FloatArray:
        require_of_block(name, self._resident.weights)
        values: FloatArray = self._resident.weights[name].cpu().numpy().view()
        values.flags.writeable = False
        return values

    def replace(self, name: str, values: FloatArray) -> None:
        weights = self._resident.weights
        require_of_block(name, weights)
        if self.stays:
            raise PluginBroken(f"{name!r} was replaced, but the plan leaves blocks as the source has them", tensor=name)
        if self.done:
            raise PluginBroken(f"{name!r} was replaced after its block had been run for the next one", tensor=name)
        if values.shape != tuple(weights[name].shape):
            raise ValueError(f"{name} is {tuple(weights[name].shape)}, not {values.shape}")
        weights[name].copy_(torch.from_numpy(np.require(values, np.float32, ["C", "W"])))
        # experts of one level do not reach each other: what is known of them stays
        unreached = {place for level in self._resident.experts if name in level.weights for place in level.places}
        self._ahead = {key: found for key, found in self._ahead.items() if key[0] in unreached}

    def statistics(self, names: Collection[str], kinds: Collection[Statistic]) -> Mapping[str, Statistics]:
        if self.done:
            raise PluginBroken(f"{self._resident.name} was asked for statistics after its last tensor had been given")
        for name in names:
            if name not in self._first:
                require_of_block(name, self._resident.weights)
                raise CalibrationMissing(f"{name!r} is not the weight of a Linear of this block", tensor=name)
        wanted, kept = {self._first[name] for name in names}, tuple(sorted(kinds))
        missing = {place for place in wanted if (place, kept) not in self._ahead}
        if missing:
            found = self.gather(missing | self._following(missing, kept), kept)
            self._ahead |= {(place, kept): statistics for place, statistics in found.items()}
        answer = {name: self._ahead[self._first[name], kept] for name in names}
        for place in wanted:
            del self._ahead[place, kept]
        self._measure(answer)
        return answer

    @cached_property
    def _first(self) -> dict[str, Place]:
        """Where the first lies of the weights that have one input with a weight, by its name."""
        place = {name: place for place, names in self._resident.places.items() for name in names}
        return {name: place[names[0]] for names in self.stages for name in names}

    def _following(self, wanted: Collection[Place], kinds: Collection[Statistic]) -> set[Place]:
        """Experts behind those wanted, as many as fit: a run through the block for each would take for ever."""
        following: list[Place] = []
        for level in self._resident.experts:
            positions = [position for position, place in enumerate(level.places) if place in wanted]
            if positions:
                following += level.places[max(positions) + 1 :]
        sizes = [statistics_bytes(kinds, self._inputs(place)) for place in following]
        return set(following[: int(np.searchsorted(np.cumsum(sizes), AHEAD_BYTES, side="right"))])

    # What the run does with it

    def gather_named(
        self,
        names: Collection[str],
        kinds: Collection[Statistic],
        after: Activations | None,
        attention: str | None = None,
    ) -> dict[str, Statistics]:
        """The statistics of these Linears, and of what the `attention` caches; with `after` the block's outputs too.

        All in the same run.
        """
        cached = dict[str, Gathering]() if attention else None
        found = self.gather({self._first[name] for name in names}, kinds, after, cached)
        answer = {name: found[self._first[name]] for name in names}
        self._measure(answer)
        if attention and cached:
            answer |= {f"{attention}.{name}": gathering.result() for name, gathering in cached.items()}
        return answer

    def _measure(self, found: Mapping[str, Statistics]) -> None:
        start = time.perf_counter()
        for name, statistics in found.items():
            if name not in self.sensitivity:
                weight = self.weight(name)
                known = sensitivity(weight.T if name in self._resident.crosswise else weight, statistics)
                self.sensitivity |= {name: known} if known is not None else {}
        self.measuring_seconds += time.perf_counter() - start

    def gather(
        self,
        places: Collection[Place],
        kinds: Collection[Statistic],
        after: Activations | None = None,
        cached: dict[str, Gathering] | None = None,
    ) -> dict[Place, Statistics]:
        """`cached` is filled with the keys and the values that its attention caches."""
        with limit_threads(1):
            device = self._resident.decoder.device
            gathered = {place: Gathering(self._inputs(place), kinds, device) for place in sorted(places)}
            starved = self._starved(places)
            routed = dict[str, list[int]]()
            caches = {} if cached is None else cached
            look = partial(self._look, places=places, starved=starved, after=after, caching=cached is not None)
            for windows in self._rounds(look):
                work = []
                for name in windows[0].cached:
                    states = [window.cached[name] for window in windows]
                    gathering = caches.setdefault(name, Gathering(states[0].shape[1], kinds, device))
                    gathering.count(sum(map(len, states)))
                    work += [(piece, states) for piece in gathering.work]
                for place, gathering in gathered.items():
                    inputs = [window.inputs[place] for window in windows if place in window.inputs]
                    gathering.count(sum(map(len, inputs)))
                    work += [(piece, inputs) for piece in gathering.work]
                self._threads.map(lambda each: each[0](each[1]), work)
                _count(windows, routed)
            self.routed = routed or self.routed
            with torch.inference_mode():
                return {place: gathering.result() for place, gathering in gathered.items()}

    def advance(self, after: Activations) -> None:
        """Run all windows through the block as it has become. The block changes no more."""
        routed = dict[str, list[int]]()
        with limit_threads(1):
            for windows in self._rounds(lambda window: self._look(window, (), frozenset(), after)):
                _count(windows, routed)
        self.routed = routed
        self.done = True

    def _hidden(self, window: int) -> torch.Tensor:
        return self._before.read(window).to(self._resident.decoder.device)

    def _inputs(self, place: Place) -> int:
        """The width of what the weight there is multiplied by."""
        return self._resident.inputs_of[place]

    def _starved(self, places: Collection[Place]) -> frozenset[Place]:
        """Experts among `places` that are to be fed every token."""
        levels = [level for level in self._resident.experts if not set(level.places).isdisjoint(places)]
        if not self._rules.all_tokens or not levels:
            return frozenset()
        totals: dict[str, torch.Tensor] = {}
        for windows in self._rounds(lambda window: self._look(window, (), frozenset(), None)):
            for window in windows:
                for module, counts in window.routed.items():
                    totals[module] = totals.get(module, torch.zeros_like(counts)) + counts
        return frozenset(
            place
            for level in levels
            for place, count in zip(level.places, totals[level.module].tolist(), strict=True)
            if count < self._rules.least_tokens and place in places
        )

    def _rounds(self, look: Callable[[int], Window]) -> Iterator[list[Window]]:
        """Look at all windows, a few at a time."""
        at_once = 2 * self._threads.count
        for start in range(0, len(self._calls), at_once):
            yield self._threads.map(look, range(start, min(start + at_once, len(self._calls))))

    def _look(
        self,
        window: int,
        places: Collection[Place],
        starved: Collection[Place],
        after: Activations | None,
        caching: bool = False,
    ) -> Window:
        hidden, call = self._hidden(window), self._calls[window]
        cache = CacheTap()
        if caching:
            call = self._resident.caching(call, cache)
        taps = Taps(set(places) - set(starved), stop=after is None and not starved and not caching)
        with self._routing.watched() as routed, until_reached(), taps:
            out = self._resident.run(hidden, call)
            if after is not None:
                self._require_finite(out, "its outputs")
                after.write(window, out)
        inputs = taps.seen | self._everything(routed, starved)
        for place, x in inputs.items():
            self._require_finite(x, self._resident.places[place][0])
        return Window(inputs, self._routing.counts(routed), self._cached(cache) if caching else {})

    def _cached(self, cache: CacheTap) -> dict[str, torch.Tensor]:
        """Keys and values by name, (tokens, heads * head_dim) each."""
        if len(cache.seen) != 1:
            reason = f"{self._resident.name} caches keys and values {len(cache.seen)} times"
            raise unsupported(self._resident.decoder.architecture, reason)
        keys, values = cache.seen[0]
        for what, states in (("its keys", keys), ("its values", values)):
            self._require_finite(states, what)
        return {"keys": keys, "values": values}

    def _everything(self, routed: Routed, starved: Collection[Place]) -> dict[Place, torch.Tensor]:
        found: dict[Place, torch.Tensor] = {}
        for level in self._resident.experts:
            for expert, place in enumerate(level.places):
                if place in starved:
                    found |= self._routing.everything(routed, level.module, expert, {place})
        return found

    def _require_finite(self, values: torch.Tensor, what: str) -> None:
        if not values.isfinite().all():
            raise NonFiniteActivation(
                f"{self._resident.name}: NaN or infinite values at {what}; the calibration text or the weights before "
                "it are beyond what float32 holds",
                block=self.number,
                at=what,
            )
