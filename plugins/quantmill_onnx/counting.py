"""What activations are on all samples, counted as these pass: ranges, channels and moments.

What has been counted is kept now and then, so that an attempt which takes another's place runs only the samples that
are left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.tensors import FloatArray
from quantmill_onnx.calibration import LANES, MOMENTS, SIZE, VALUES, run_all, sizes_of, slices
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.ranges import RANGES, Histogram, Range
from quantmill_onnx.samples import Feeds
from quantmill_onnx.smoothing import Channels

KEPT_EVERY = 32  # samples
NO_FACTORS: Mapping[str, FloatArray] = MappingProxyType({})
Arrays = Mapping[str, NDArray[Any]]
Seen = Mapping[tuple[str, str], NDArray[Any]]  # what came out of the graph for an activation, by the kind of it


class Counter(Protocol):
    """What is counted of one activation; all of it as arrays, and back."""

    def state(self) -> Arrays: ...

    def restore(self, state: Arrays) -> None: ...


class Host(Protocol):
    """What of a session counting needs."""

    def progress(self, done: int, total: int) -> None: ...

    def keep(self, name: str, arrays: Arrays) -> None: ...

    def kept(self, name: str) -> Arrays | None: ...


def activation_ranges(
    graph: OnnxGraph,
    names: Sequence[str],
    samples: Feeds,
    params: OnnxParams,
    threads: int,
    host: Host,
    factors: Mapping[str, FloatArray] = NO_FACTORS,
) -> Mapping[str, Range]:
    """The range of each activation, by `params.calibration_method`; the same for any number of threads.

    `factors` are what an activation's channels are multiplied by before it is rounded.

    Raises SourceRejected for samples that the graph does not run on, or that make values which are not finite, or none.
    """
    find = RANGES[params.calibration_method]
    histograms = {name: Histogram() for name in names}

    def add(name: str, seen: Seen) -> None:
        values = seen[name, VALUES]
        histograms[name].add(values * factors[name] if name in factors else values)

    counting = Counting("ranges", histograms, (VALUES,), add)
    counting.run(graph, _passes(graph, names, samples), samples, threads, host)
    for name, histogram in histograms.items():
        if not histogram.counts.any():
            raise SourceRejected(
                f"no sample has a value of {name}, which its range could follow from; give samples that do, exclude "
                "the nodes that take it, or choose mode dynamic",
                activation=name,
            )
    return {name: find(histogram, params.percentile) for name, histogram in histograms.items()}


def channels_of(
    graph: OnnxGraph, names: Sequence[str], samples: Feeds, threads: int, host: Host
) -> Mapping[str, Channels]:
    """The channels of each activation. Raises as `activation_ranges`."""
    found = {name: Channels() for name in names}
    counting = Counting("channels", found, (VALUES,), lambda name, seen: found[name].add(seen[name, VALUES]))
    counting.run(graph, _passes(graph, names, samples), samples, threads, host)
    return found


class Moments:
    """The sum of x x^T over all rows x of an activation, float32 (channels, channels), and how many there were."""

    def __init__(self) -> None:
        self.total: FloatArray = np.zeros((1, 1), np.float32)
        self.rows = 0

    def add(self, total: FloatArray, values: int) -> None:
        """A sample's sum, and how many values it is of. Raises ValueError where they cannot be squared."""
        if not np.isfinite(total).all():
            raise ValueError("it cannot be squared in float32")
        self.total = np.add(self.total, total, out=self.total) if self.rows else total
        self.rows += values // len(total)

    def state(self) -> Arrays:
        return {"total": self.total, "rows": np.array([self.rows])}

    def restore(self, state: Arrays) -> None:
        self.total, (self.rows,) = state["total"], state["rows"].tolist()


def moments_of(
    graph: OnnxGraph, names: Sequence[str], samples: Feeds, threads: int, host: Host
) -> Mapping[str, Moments]:
    """The moments of each activation, all of which are in memory once and with each sample that runs.

    Raises as `activation_ranges`.
    """
    found = {name: Moments() for name in names}

    def add(name: str, seen: Seen) -> None:
        found[name].add(seen[name, MOMENTS], int(seen[name, SIZE]))

    Counting("moments", found, (MOMENTS, SIZE), add).run(graph, [names], samples, threads, host)
    return found


def _passes(graph: OnnxGraph, names: Sequence[str], samples: Feeds) -> Sequence[Sequence[str]]:
    """The activations in runs, as many in each as may come out of the graph together."""
    return [*slices(names, sizes_of(graph, names, samples))] if names else []


@dataclass(frozen=True)
class Counting:
    """What is counted, by activation, and how.

    what      the name that it is kept under
    kinds     of what comes out of the graph for each activation
    add       what a sample has shown of an activation to its counter; ValueError where that cannot be counted
    """

    what: str
    counters: Mapping[str, Counter]
    kinds: Sequence[str]
    add: Callable[[str, Seen], None]

    def run(self, graph: OnnxGraph, passes: Sequence[Sequence[str]], samples: Feeds, threads: int, host: Host) -> None:
        """All samples, once for each of `passes`; of those that were counted before in the same passes, none."""
        of = np.frombuffer(hashlib.sha256(json.dumps(passes).encode()).digest(), np.uint8)
        done, counted = self._restore(host, of)
        for position, names in enumerate(passes):
            if position < done:
                continue
            first = counted if position == done else 0
            asked = [(name, kind) for name in names for kind in self.kinds]
            feeds = islice(samples.feeds(), first, None)
            for number, seen in enumerate(run_all(graph, asked, feeds, min(threads, LANES)), first):
                host.progress(position * samples.count + number, len(passes) * samples.count)
                for name in names:
                    self._add(name, seen, number)
                if (number + 1) % KEPT_EVERY == 0:
                    self._keep(host, of, position, number + 1)
            self._keep(host, of, position + 1, 0)

    def _keep(self, host: Host, of: NDArray[np.uint8], done: int, counted: int) -> None:
        """What there is after `done` passes and `counted` samples of the next, in place of what was kept of others."""
        state: dict[str, NDArray[Any]] = {"of": of, "done": np.array([done, counted])}
        for number, counter in enumerate(self.counters.values()):
            state |= {f"{number} {key}": array for key, array in counter.state().items()}
        host.keep(self.what, state)

    def _restore(self, host: Host, of: NDArray[np.uint8]) -> tuple[int, int]:
        """How many passes were done before, and samples of the next; the counters are as they were then."""
        state = host.kept(self.what)
        if state is None or not np.array_equal(state["of"], of):
            return 0, 0
        for number, counter in enumerate(self.counters.values()):
            own = f"{number} "
            counter.restore({key.removeprefix(own): array for key, array in state.items() if key.startswith(own)})
        done, counted = state["done"].tolist()
        return done, counted

    def _add(self, name: str, seen: Seen, number: int) -> None:
        try:
            self.add(name, seen)
        except ValueError as error:
            what = f"sample {number} makes {name} what cannot be counted: {error}"
            raise SourceRejected(what, sample=number) from error
