"""Settling which weights stay float: what each costs is measured, and the fewest bytes that meet the gates are kept.

Every weight is quantized first. What keeping one of them float would bring is measured for each; those that bring most
per byte are kept, just as many as meet the gates. Then each of these is quantized again on trial, what brings least
first, and stays so where the gates are still met: none of those that are left can be done without.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from quantmill.contract.errors import GateFailed
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, Plan, TensorPlan
from quantmill_onnx.algorithm import Seen, hessians_of, quantized_parts
from quantmill_onnx.gates import Gate, Measured, loss, parse, shown
from quantmill_onnx.layout import parts_of
from quantmill_onnx.observed import observe, samples_of
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.planning import require_graph, rows_of
from quantmill_onnx.sites import Site, activations, find_sites
from quantmill_onnx.trials import Trials

DIGITS = 6  # that gains keep, so that no processor's order of additions decides


def settle(session: Session, params: OnnxParams) -> Plan:
    """The plan with the smallest set of float weights that meets the gates.

    Raises SourceRejected where the samples have changed or do not run, GateFailed where nothing could be quantized.
    """
    graph = require_graph(session.index)
    samples = samples_of(session, graph, params)
    sites = find_sites(graph, params)
    arrays = _arrays(session, sites, params)
    search = _Search(session, Trials(graph, params, arrays, samples.feeds(), session.threads), sites, params)
    kept = search.fewest()
    return _settled(session.plan, rows_of(session.index, graph, search.without(kept), params), search, kept)


def _arrays(session: Session, sites: Mapping[str, Site | str], params: OnnxParams) -> Mapping[str, NDArray[Any]]:
    """All quantized weights, and what stands in the graph for activations, by their names there."""
    arrays: dict[str, NDArray[Any]] = {}
    scales: Mapping[str, FloatArray] = {}
    least: Mapping[str, FloatArray] = {}
    if params.observes:
        observed = observe(session, sites, params)
        scales, least = observed.scales, observed.least
        for name in dict.fromkeys(each for some in activations(sites).values() for each in some):
            arrays.update(observed.parts(name))
    hessians = hessians_of(session, sites, params)
    for name, site in sites.items():
        if isinstance(site, Site):
            seen = Seen(scales.get(site.activation), hessians.of(name) if hessians else None, least.get(name))
            parts = quantized_parts(session.tensor(name), site, params, session.threads, seen)
            arrays.update({each.name: parts[each.part] for each in parts_of(site, params)})
    return arrays


@dataclass(frozen=True)
class _Gain:
    """What keeping a weight float brings, in the gates' loss; its noise in decibels; and the bytes that it costs."""

    loss: float
    decibels: float
    nbytes: int

    @property
    def per_byte(self) -> float:
        return self.loss / max(1, self.nbytes)


class _Search:
    def __init__(self, session: Session, trials: Trials, sites: Mapping[str, Site | str], params: OnnxParams) -> None:
        self.session, self.trials, self.sites = session, trials, sites
        self.gates: Sequence[Gate] = [parse(text) for text in params.gates]
        self.open = [row.name for row in session.plan.tensors if row.action == "quantize"]
        count = len(self.open)
        self.done, self.total = 0, 2 + 2 * count + count.bit_length()  # trials: at most one more for each that is kept
        self.all_quantized = self.measured(())
        self.gains = self._gains()

    def without(self, kept: Collection[str]) -> Mapping[str, Site | str]:
        """The sites with those of `kept` float."""
        return {name: _kept(site) if name in kept else site for name, site in self.sites.items()}

    def measured(self, kept: Collection[str]) -> Sequence[Measured]:
        self._step()
        return self.trials.measured(self.without(kept))

    def _step(self) -> None:
        self.session.progress(self.done, self.total)
        self.done += 1

    def loss(self, kept: Collection[str]) -> float:
        return loss(self.gates, self.measured(kept))

    def _gains(self) -> Mapping[str, _Gain]:
        whole, rows = loss(self.gates, self.all_quantized), self.session.plan.by_name
        if whole <= 1:
            return {}
        self._step()
        decibels = self.trials.noise(self.sites)
        source = self.session.index.tensors
        gains: dict[str, _Gain] = {}
        for name in self.open:
            gain = float(f"{whole - self.loss([name]):.{DIGITS}g}")
            gains[name] = _Gain(gain, decibels[name], source[name].nbytes - rows[name].nbytes)
        return gains

    def fewest(self) -> Sequence[str]:
        """The weights that stay float."""
        order = sorted(self.gains, key=lambda name: (-self.gains[name].per_byte, name))
        kept = order[: self._enough(order)]
        self.total = self.done + len(kept) + 1
        for name in reversed(kept):
            rest = [each for each in kept if each != name]
            if self.loss(rest) <= 1:
                kept = rest
        return kept

    def _enough(self, order: Sequence[str]) -> int:
        """How many of the first meet the gates: the fewest, as far as more are never worse."""
        if not order:
            return 0
        low, high = 0, len(order)  # what misses, what meets: all float is the source
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.loss(order[:middle]) <= 1 else (middle, high)
        if high == len(order):
            raise GateFailed(
                f"not met with any weight quantized: {'; '.join(gate.text for gate in self.gates)}; with all of them "
                f"{shown(self.gates, self.all_quantized)}. Choose mode weight_only, or another limit."
            )
        return high


def _kept(site: Site | str) -> str:
    """Why the search keeps it."""
    labels = site if isinstance(site, str) else ", ".join(use.node.label for use in site.uses)
    return f"node {labels} stays float for the gates"


def _settled(plan: Plan, rows: Sequence[TensorPlan], search: _Search, kept: Sequence[str]) -> Plan:
    texts = ", ".join(gate.text for gate in search.gates)
    observed = shown(search.gates, search.measured(kept) if kept else search.all_quantized)
    said = [f"{len(kept)} of {len(search.open)} weights stay float for {texts}: {observed}"]
    said += [f"with all of them quantized: {shown(search.gates, search.all_quantized)}"] if kept else []
    settled = [replace(row, reason=_reason(row, search)) for row in rows]
    return replace(plan, tensors=tuple(settled), warnings=(*plan.warnings, *said))


def _reason(row: TensorPlan, search: _Search) -> str:
    """With what was measured of the weight."""
    gain = search.gains.get(row.name)
    if gain is None:
        return row.reason
    share = 100 * gain.loss / loss(search.gates, search.all_quantized)
    figures = f"noise at {gain.decibels:.1f} dB, {share:.1f} % of what is lost"
    return f"{row.reason}: {figures}" if row.reason else figures
