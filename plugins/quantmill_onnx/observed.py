"""What samples say of the activations that products take: by what their channels are divided, and their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray
from quantmill_onnx.clips import beneath
from quantmill_onnx.constants import Constants
from quantmill_onnx.counting import activation_ranges, channels_of
from quantmill_onnx.images import given_samples
from quantmill_onnx.layout import SCALE, SMOOTHING, ZERO
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.planning import require_graph
from quantmill_onnx.ranges import Range, qparams
from quantmill_onnx.samples import Feeds
from quantmill_onnx.sites import Site, activations, find_sites, smoothed
from quantmill_onnx.smoothing import smoothing_scales
from quantmill_onnx.tokens import TokenSamples

BIAS_STEPS = np.float32(2**30)  # that a bias may have, and as many are left for the products that are added to it


@dataclass(frozen=True)
class Observed:
    """By activation: s of each channel where it is smoothed, its range in mode static.

    `least` (outputs,), by the filters that have a bias: what their scales are at least, so that 32 bits hold it.
    """

    scales: Mapping[str, FloatArray]
    ranges: Mapping[str, Range]
    signed: bool
    least: Mapping[str, FloatArray]

    def parts(self, name: str) -> Mapping[str, NDArray[Any]]:
        """The activation's arrays by their names in the graph."""
        parts: dict[str, NDArray[Any]] = {}
        if name in self.ranges:
            parts[f"{name}_{SCALE}"], parts[f"{name}_{ZERO}"] = qparams(self.ranges[name], self.signed)
        if name in self.scales:
            parts[f"{name}_{SMOOTHING}"] = np.reciprocal(self.scales[name])
        return parts


def observe(session: Session, sites: Mapping[str, Site | str], params: OnnxParams) -> Observed:
    """Run the samples, once for the channels and once for the ranges, as far as the parameters ask for them.

    Raises SourceRejected where the samples have changed since the plan, or the graph does not run on them.
    """
    graph = require_graph(session.index)
    samples = samples_of(session, graph, params)
    scales = _scales(session, graph, samples, params)
    names = [name for names in activations(sites).values() for name in names] if params.mode == "static" else []
    factors = {name: np.reciprocal(scale) for name, scale in scales.items()}
    ranges = activation_ranges(graph, names, samples, params, session.threads, session, factors)
    clips = {
        use.rounded: use.ceiling
        for site in sites.values()
        if isinstance(site, Site)
        for use in site.uses
        if use.rounded
    }
    ranges = {name: beneath(found, clips.get(name)) for name, found in ranges.items()}
    signed = params.activation_type == "s8"
    return Observed(scales, ranges, signed, _least(session, sites, ranges, signed))


def _least(
    session: Session, sites: Mapping[str, Site | str], ranges: Mapping[str, Range], signed: bool
) -> Mapping[str, FloatArray]:
    """Of filters with biases. A bias is added in steps of input times filters."""
    constants = Constants(require_graph(session.index))
    found: dict[str, FloatArray] = {}
    for weight, site in sites.items():
        for use in site.uses if isinstance(site, Site) and site.is_filters else ():
            name = use.node.inputs[2] if len(use.node.inputs) > 2 else ""
            bias = session.tensor(name).values if name in constants.graph.weights else constants.floats(name)
            if bias is not None and use.node.inputs[0] in ranges:
                step, _ = qparams(ranges[use.node.inputs[0]], signed)
                least = np.abs(np.asarray(bias, np.float32)) / (step * BIAS_STEPS)
                found[weight] = np.maximum(least, found.get(weight, least))
    return found


def samples_of(session: Session, graph: OnnxGraph, params: OnnxParams) -> Feeds:
    """Raises SourceRejected where they are no longer those that were planned with."""
    if params.samples is None:
        return TokenSamples(graph, session.windows())
    samples = given_samples(Path(params.samples), session.index, graph)
    samples.require_unchanged(session.plan.inputs["samples"])
    return samples


def _scales(session: Session, graph: OnnxGraph, samples: Feeds, params: OnnxParams) -> Mapping[str, FloatArray]:
    """s of each activation, by all weights that may take it: the same whichever of them stay float."""
    taken: dict[str, list[str]] = {name: [] for name in smoothed(graph, params)}
    sites = find_sites(graph, params)
    for weight, site in sites.items():
        if isinstance(site, Site) and site.activation in taken:
            taken[site.activation].append(weight)
    seen = channels_of(graph, [*taken], samples, session.threads, session)

    def scale(name: str) -> FloatArray:
        def weights() -> Iterator[FloatArray]:
            return (_matrix(session, each, sites[each]) for each in taken[name])

        return smoothing_scales(seen[name], weights, params.per_channel)

    return {name: scale(name) for name in taken}


def _matrix(session: Session, name: str, site: Site | str) -> FloatArray:
    """The weight as (in, out)."""
    assert isinstance(site, Site)
    values: FloatArray = session.tensor(name).values
    return values.T if site.turned else values
