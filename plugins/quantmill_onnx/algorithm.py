"""Quantizing weights: codes by channel, by row or by tensor, and blocks for MatMulNBits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, QuantizedTensor, SourceTensor
from quantmill_onnx.layout import CODES, SCALE, ZERO, pack_nibbles
from quantmill_onnx.observed import observe
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.planning import require_graph
from quantmill_onnx.ranges import Range
from quantmill_onnx.sites import Site, activations, settled_sites

CHUNK_VALUES = 1 << 18  # rounded at once


def quantize(session: Session, params: OnnxParams) -> Iterator[QuantizedTensor]:
    """Each weight as the plan says; its parts are those of `layout.parts_of`.

    Raises RangeExceeded, naming the weight, for a value whose magnitude the format cannot hold.
    """
    sites = settled_sites(require_graph(session.index), params, session.plan)
    taken = activations(sites)
    observed = cache(lambda: observe(session, sites, params))  # an attempt that needs nothing of it runs no sample
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            row, site = session.plan.by_name[name], sites[name]
            if isinstance(site, str):
                yield QuantizedTensor(name, row.scheme, row.shape, {"values": session.tensor(name).values})
                continue
            scale = observed().scales.get(site.activation) if params.smooths else None
            parts = dict(quantized_parts(session.tensor(name), site, params, session.threads, scale))
            for number, activation in enumerate(taken[name] if params.observes else ()):
                parts |= observed().parts(activation)
                what = "output" if any(use.rounded == activation for use in site.uses) else "input"
                which = f"its {what}" if number == 0 or len(site.uses) == 1 else f"{what} {number}"
                _note(session, name, f"range of {which}", observed().ranges.get(activation))
            yield QuantizedTensor(name, row.scheme, row.shape, parts)


def _note(session: Session, weight: str, what: str, found: Range | None) -> None:
    """The range of an activation that the weight's products are the first to take, or round behind them."""
    if found is not None:
        low, high = found
        session.note(weight, what, low=low, high=high)


def quantized_parts(
    source: SourceTensor, site: Site, params: OnnxParams, threads: int, scale: FloatArray | None = None
) -> Mapping[str, NDArray[Any]]:
    """The weight's arrays by their parts; `scale` (inputs,) is what its rows are multiplied by first.

    Raises RangeExceeded, naming it, for a value that the format cannot hold.
    """
    values = source.values
    try:
        if site.is_table:
            return _by_row(values, site.is_product and params.reduced, threads)
        if site.is_filters:
            return _by_filter(values, params, threads)
        if params.mode == "weight_only":
            return _blocks(_rows_of_outputs(values, site, params), params, threads)
        if scale is not None:
            values = values * (scale if site.turned else scale[:, None])
        return _by_channel(values, site, params, threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        name = site.weight.info.name
        raise RangeExceeded(f"{name}: {error}; exclude the nodes that use it", tensor=name) from error


def _by_row(values: NDArray[Any], reduced: bool, threads: int) -> Mapping[str, NDArray[Any]]:
    codes, scale, _ = quantmill_kernels.encode_int8_affine(values, axis=0, reduce_range=reduced, threads=threads)
    return {CODES: codes, SCALE: scale.reshape(-1, 1)}


def _by_filter(values: NDArray[Any], params: OnnxParams, threads: int) -> Mapping[str, NDArray[Any]]:
    """Without zero points: ONNX Runtime's convolutions of integers take one for all filters at most."""
    codes, scale, _ = quantmill_kernels.encode_int8_affine(
        values.reshape(len(values), -1),
        axis=0 if params.per_channel else None,
        reduce_range=params.reduced,
        threads=threads,
    )
    return {CODES: codes.reshape(values.shape), SCALE: scale.reshape(scale.shape if params.per_channel else ())}


def _by_channel(values: NDArray[Any], site: Site, params: OnnxParams, threads: int) -> Mapping[str, NDArray[Any]]:
    """A channel is a column of (in, out), a row of (out, in)."""
    axis = None if not params.per_channel else 0 if site.turned else 1
    codes, scale, zero = quantmill_kernels.encode_int8_affine(
        values, axis=axis, symmetric=params.symmetric, reduce_range=params.reduced, threads=threads
    )
    shape = scale.shape if params.per_channel else ()
    parts = {CODES: codes.T if site.turned else codes, SCALE: scale.reshape(shape)}
    return parts if params.symmetric else {**parts, ZERO: zero.reshape(shape)}


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


def _blocks(weight: FloatArray, params: OnnxParams, threads: int) -> Mapping[str, NDArray[Any]]:
    outputs, inputs = weight.shape
    bits, size = params.weight_bits, params.block_size
    if params.algorithm == "hqq":
        codes, scale, zero = quantmill_kernels.solve_hqq(
            weight, nbits=bits, group_size=size, axis=1, integer_zero=True, threads=threads
        )
        codes, scale = codes.reshape(outputs, inputs), scale.reshape(outputs, -1)
        zeros = zero.reshape(outputs, -1).astype(np.uint8)
    else:
        scale, zeros = quantmill_kernels.find_gptq_scales(
            weight, bits=bits, group_size=size, symmetric=params.symmetric, threads=threads
        )
        codes = _nearest(weight, scale, zeros, params)
    packed = codes.reshape(outputs, -1, size)
    parts: dict[str, NDArray[Any]] = {CODES: packed if bits == 8 else pack_nibbles(packed), SCALE: scale}
    return parts if params.symmetric else {**parts, ZERO: zeros if bits == 8 else pack_nibbles(zeros)}


def _nearest(weight: FloatArray, scale: FloatArray, zeros: NDArray[np.uint8], params: OnnxParams) -> NDArray[np.uint8]:
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
