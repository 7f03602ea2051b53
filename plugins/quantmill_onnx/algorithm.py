"""Quantizing weights: codes by channel, by row or by tensor, and blocks for MatMulNBits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, QuantizedTensor, SourceTensor, TensorPlan
from quantmill_onnx.gptq import Inputs, Solution, solve
from quantmill_onnx.hessians import Hessians
from quantmill_onnx.layout import CODES, HALF, SCALE, ZERO, pack_nibbles
from quantmill_onnx.observed import observe, samples_of
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.planning import require_graph
from quantmill_onnx.ranges import Range
from quantmill_onnx.sites import Site, activations, settled_sites

CHUNK_VALUES = 1 << 18  # rounded at once
NEAREST = "rounded to nearest"
Note = Callable[..., None]  # Session.note of one weight


@dataclass(frozen=True)
class Seen:
    """What samples have shown of a weight's inputs, and where what comes of that is noted.

    scale   (inputs,) that the weight's rows are multiplied by first, where its input is smoothed
    inputs  that GPTQ solves by
    least   (outputs,) that filters' scales are at least, where they have a bias
    """

    scale: FloatArray | None = None
    inputs: Inputs | None = None
    least: FloatArray | None = None
    note: Note = lambda found, **figures: None


UNSEEN = Seen()


def quantize(session: Session, params: OnnxParams) -> Iterator[QuantizedTensor]:
    """Each weight as the plan says; its parts are those of `layout.parts_of`.

    Raises RangeExceeded, naming the weight, for a value whose magnitude the format cannot hold.
    """
    sites = settled_sites(require_graph(session.index), params, session.plan)
    taken = activations(sites)
    hessians = hessians_of(session, sites, params)
    observed = cache(lambda: observe(session, sites, params))  # an attempt that needs nothing of it runs no sample
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            row, site = session.plan.by_name[name], sites[name]
            if isinstance(site, str):
                yield QuantizedTensor(name, row.scheme, row.shape, {"values": _kept(session, row)})
                continue
            scale = observed().scales.get(site.activation) if params.smooths else None
            least = observed().least.get(name) if site.is_filters else None
            seen = Seen(scale, hessians.of(name) if hessians else None, least, partial(session.note, name))
            parts = dict(quantized_parts(session.tensor(name), site, params, session.threads, seen))
            for number, activation in enumerate(taken[name] if params.observes else ()):
                parts |= observed().parts(activation)
                what = "output" if any(use.rounded == activation for use in site.uses) else "input"
                which = f"its {what}" if number == 0 or len(site.uses) == 1 else f"{what} {number}"
                _note(session, name, f"range of {which}", observed().ranges.get(activation))
            yield QuantizedTensor(name, row.scheme, row.shape, parts)


def _kept(session: Session, row: TensorPlan) -> NDArray[Any]:
    values = session.tensor(row.name).values
    return values.astype(np.float16) if row.scheme == HALF else values


def hessians_of(session: Session, sites: Mapping[str, Site | str], params: OnnxParams) -> Hessians | None:
    """Of the inputs of the units still to be done, where they are solved by."""
    if not params.solves:
        return None
    graph = require_graph(session.index)
    weights = [name for unit in session.units() for name in unit.tensors]
    samples = cache(lambda: samples_of(session, graph, params))
    return Hessians(graph, sites, weights, samples, session.threads, session)


def _note(session: Session, weight: str, what: str, found: Range | None) -> None:
    """The range of an activation that the weight's products are the first to take, or round behind them."""
    if found is not None:
        low, high = found
        session.note(weight, what, low=low, high=high)


def quantized_parts(
    source: SourceTensor, site: Site, params: OnnxParams, threads: int, seen: Seen = UNSEEN
) -> Mapping[str, NDArray[Any]]:
    """The weight's arrays by their parts.

    Raises RangeExceeded, naming it, for a value that the format cannot hold.
    """
    values = source.values
    try:
        if site.is_table:
            return _by_row(values, site.is_product and params.reduced, threads)
        if site.is_filters:
            return _by_filter(values, params, threads, seen)
        if params.mode == "weight_only":
            return _blocks(_rows_of_outputs(values, site, params), params, threads, seen)
        if seen.scale is not None:
            values = values * (seen.scale if site.turned else seen.scale[:, None])
        return _by_channel(values, site, params, threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        name = site.weight.info.name
        raise RangeExceeded(f"{name}: {error}; exclude the nodes that use it", tensor=name) from error


def _by_row(values: NDArray[Any], reduced: bool, threads: int) -> Mapping[str, NDArray[Any]]:
    codes, scale, _ = quantmill_kernels.encode_int8_affine(values, axis=0, reduce_range=reduced, threads=threads)
    return {CODES: codes, SCALE: scale.reshape(-1, 1)}


def _by_filter(values: NDArray[Any], params: OnnxParams, threads: int, seen: Seen) -> Mapping[str, NDArray[Any]]:
    """Without zero points: ONNX Runtime's convolutions of integers take one for all filters at most.

    Filters much smaller than their bias, those of channels that training has given up, have larger steps for it.
    """
    codes, scale, _ = quantmill_kernels.encode_int8_affine(
        values.reshape(len(values), -1),
        axis=0 if params.per_channel else None,
        reduce_range=params.reduced,
        threads=threads,
    )
    shape = scale.shape if params.per_channel else ()
    if seen.least is not None:
        raised = np.maximum(scale, seen.least if params.per_channel else seen.least.max()).astype(np.float32)
        steps, small = (np.broadcast_to(each, (len(values),)) for each in (raised, raised > scale))
        for row in np.flatnonzero(small):
            codes[row] = np.rint(values[row].reshape(-1) / steps[row])
        if small.any():
            seen.note("steps raised for the bias", outputs=int(small.sum()), of=len(values))
        scale = raised
    return {CODES: codes.reshape(values.shape), SCALE: scale.reshape(shape)}


def _by_channel(values: NDArray[Any], site: Site, params: OnnxParams, threads: int) -> Mapping[str, NDArray[Any]]:
    """A channel is a column of (in, out), a row of (out, in)."""
    axis = None if not params.per_channel else 0 if site.turned else 1
    codes, scale, zero = quantmill_kernels.encode_int8_affine(
        values,
        axis=axis,
        symmetric=params.symmetric,
        reduce_range=params.reduced and not params.unsigned,
        threads=threads,
    )
    if params.unsigned:
        codes, zero = _unsigned(codes), _unsigned(zero)
    shape = scale.shape if params.per_channel else ()
    parts = {CODES: codes.T if site.turned else codes, SCALE: scale.reshape(shape)}
    return parts if params.symmetric else {**parts, ZERO: zero.reshape(shape)}


def _unsigned(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes plus 128, in place."""
    found = codes.view(np.uint8)
    found ^= np.uint8(128)
    return found


def _rows_of_outputs(values: NDArray[Any], site: Site, params: OnnxParams) -> FloatArray:
    """The weight as (out, in), each row filled up with zeros to whole blocks."""
    weight = values if site.turned else values.T
    outputs, inputs = weight.shape
    missing = -inputs % params.block_size
    if site.turned and not missing:
        return weight
    whole = np.zeros((outputs, inputs + missing), np.float32)
    whole[:, :inputs] = weight
    return whole


Codes = NDArray[np.uint8]
Blocks = tuple[Codes, FloatArray, Codes]  # codes (out, in), scales and zero points (out, blocks)


def _blocks(weight: FloatArray, params: OnnxParams, threads: int, seen: Seen) -> Mapping[str, NDArray[Any]]:
    bits, size = params.weight_bits, params.block_size
    codes, scale, zeros = ALGORITHMS[params.algorithm](weight, params, threads, seen)
    packed = codes.reshape(len(codes), -1, size)
    parts: dict[str, NDArray[Any]] = {CODES: packed if bits == 8 else pack_nibbles(packed), SCALE: scale}
    return parts if params.symmetric else {**parts, ZERO: zeros if bits == 8 else pack_nibbles(zeros)}


def _hqq(weight: FloatArray, params: OnnxParams, threads: int, seen: Seen) -> Blocks:
    codes, scale, zero = quantmill_kernels.solve_hqq(
        weight,
        nbits=params.weight_bits,
        group_size=params.block_size,
        axis=1,
        integer_zero=True,
        threads=threads,
    )
    outputs = len(weight)
    zeros = zero.reshape(outputs, -1).astype(np.uint8)
    return codes.reshape(weight.shape), scale.reshape(outputs, -1), zeros


def _gptq(weight: FloatArray, params: OnnxParams, threads: int, seen: Seen) -> Blocks:
    assert seen.inputs is not None  # of a weight in blocks
    solution = solve(weight, seen.inputs, params, threads)
    _note_solution(seen.note, seen.inputs, solution, params)
    return solution.codes, solution.scales, solution.zeros


def _note_solution(note: Note, inputs: Inputs, solution: Solution, params: OnnxParams) -> None:
    """What the samples did not settle."""
    channels = len(inputs.hessian)
    if inputs.dead == channels:
        note(NEAREST, why="its inputs were always 0")
        return
    if inputs.dead:
        note("inputs that were always 0", inputs=inputs.dead, of=channels)
    if inputs.rows < channels:
        note("fewer tokens than inputs", tokens=inputs.rows, inputs=channels)
    if solution.damp == np.inf:
        note(NEAREST, why="with no damping its weights stayed within what verification accepts")
    elif solution.damp > params.damp_percent:
        note("damping raised", asked=params.damp_percent, used=float(solution.damp))


def _rtn(weight: FloatArray, params: OnnxParams, threads: int, seen: Seen) -> Blocks:
    scale, zeros = quantmill_kernels.find_gptq_scales(
        weight, bits=params.weight_bits, group_size=params.block_size, symmetric=params.symmetric, threads=threads
    )
    return _nearest(weight, scale, zeros, params), scale, zeros


ALGORITHMS: Mapping[str, Callable[[FloatArray, OnnxParams, int, Seen], Blocks]] = {
    "rtn": _rtn,
    "hqq": _hqq,
    "gptq": _gptq,
}


def _nearest(weight: FloatArray, scale: FloatArray, zeros: Codes, params: OnnxParams) -> Codes:
    """The nearest codes, halves to even, a few rows at a time."""
    outputs, inputs = weight.shape
    codes = np.empty(weight.shape, np.uint8)
    step = max(1, CHUNK_VALUES // inputs)
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        blocks = weight[rows].reshape(-1, inputs // params.block_size, params.block_size)
        steps = np.rint(blocks / scale[rows, :, None])
        steps += zeros[rows, :, None]
        codes[rows] = np.clip(steps, 0, 2**params.weight_bits - 1).reshape(-1, inputs)
    return codes
