"""Hessians of what products take, from samples: as many at a time as fit HESSIAN_BYTES, in a pass over the samples.

The source graph gives x^T x of each sample, computed by ONNX Runtime on one core, and these are added in the order of
the samples: neither threads nor which of them are in hand together change a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantmill.contract.onnx import OnnxGraph
from quantmill_onnx.calibration import LANES
from quantmill_onnx.counting import Host, Moments, moments_of
from quantmill_onnx.gptq import Inputs, require_torch
from quantmill_onnx.samples import Feeds
from quantmill_onnx.sites import Site

HESSIAN_BYTES = 1 << 30  # of the Hessians that are in hand, and what samples add to them
COPIES = 2 + LANES  # of a Hessian: its sum, what is kept of that, and what samples add to it; later its factor
FACTORING = 6  # copies of the widest one while it is factored
TORCH_BYTES = 512 << 20  # of torch itself, which factors them

Sites = Mapping[str, Site | str]


class Hessians:
    """The inputs of `weights`, which are asked for in that order; the graph runs when the first of a slice is."""

    def __init__(
        self,
        graph: OnnxGraph,
        sites: Sites,
        weights: Sequence[str],
        samples: Callable[[], Feeds],
        threads: int,
        host: Host,
    ) -> None:
        self._slices = [each.taken for each in _slices({name: sites[name] for name in weights})]
        self._graph, self._samples, self._threads, self._host = graph, samples, threads, host
        self._taken: Mapping[str, tuple[str, ...]] = {}
        self._inputs: Mapping[tuple[str, ...], Inputs] = {}

    def of(self, name: str) -> Inputs | None:
        """None for a weight that is not in blocks. Raises SourceRejected for samples that the graph does not run on, or
        that make values which are not finite."""
        found = next((each for each in self._slices if name in each), None)
        if found is None:
            return None
        if found is not self._taken:
            require_torch()
            self._taken, self._inputs = found, {}  # the last ones go before the next ones come
            self._inputs = self._observed(found)
        return self._inputs[found[name]]

    def _observed(self, taken: Mapping[str, tuple[str, ...]]) -> Mapping[tuple[str, ...], Inputs]:
        activations = [*dict.fromkeys(name for names in taken.values() for name in names)]
        moments = moments_of(self._graph, activations, self._samples(), self._threads, self._host)
        return {names: _inputs([moments[name] for name in names]) for names in taken.values()}


def _inputs(moments: Sequence[Moments]) -> Inputs:
    """Of all the activations that a weight meets; mostly it is one. Zeros where no sample had a row for it."""
    first, *others = moments
    total = first.total
    for each in others:
        total = total + each.total
    rows = sum(each.rows for each in moments)
    return Inputs(total / np.float32(max(1, rows)), rows)


def hessian_bytes(sites: Sites) -> int:
    """The most memory that Hessians of these weights' inputs take, with what they are factored by."""
    found = [*_slices(sites)]
    widest = max((nbytes for each in found for nbytes in each.hessians.values()), default=0)
    most = max((each.nbytes for each in found), default=0)
    return most + FACTORING * widest + TORCH_BYTES if found else 0


@dataclass(frozen=True)
class _Slice:
    """Weights with the activations that they meet, and the bytes of each activation's Hessian."""

    taken: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hessians: dict[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return COPIES * sum(self.hessians.values())

    def joined_by(self, name: str, site: Site) -> _Slice:
        """With one weight more."""
        names = tuple(dict.fromkeys(use.node.inputs[0] for use in site.uses))
        sizes = dict.fromkeys(names, 4 * site.inputs**2)
        return _Slice({**self.taken, name: names}, {**self.hessians, **sizes})


def _slices(sites: Sites) -> Iterator[_Slice]:
    """All weights in blocks, in runs of at most HESSIAN_BYTES, or one weight."""
    some = _Slice()
    for name, site in sites.items():
        if isinstance(site, Site) and not site.is_table:
            more = some.joined_by(name, site)
            if some.taken and more.nbytes > HESSIAN_BYTES:
                yield some
                more = _Slice().joined_by(name, site)
            some = more
    if some.taken:
        yield some
