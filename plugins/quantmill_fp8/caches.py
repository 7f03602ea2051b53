"""Scales of the key/value cache: what attentions stored in the source model, on the calibration text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.calibration import Statistics, cached_names
from quantmill.contract.errors import ParamsRejected, PluginBroken
from quantmill.contract.linears import linears
from quantmill.contract.session import Session
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.schemes import STORED

ATTENTION = ".self_attn"  # what vLLM and compressed-tensors know attentions by
KEYS = ("k_proj", "qkv_proj")  # Linears that the keys come from
CARRIERS = (*KEYS, "v_proj", "q_proj", "o_proj")  # the first that is quantized has the scales among its arrays


def attentions(index: ModelIndex) -> tuple[str, ...]:
    """The modules of the decoder that cache keys and values."""
    modules = (linear.module.rpartition(".") for linear in linears(index).values())
    return tuple(parent for parent, _, last in modules if last in KEYS and parent.endswith(ATTENTION))


def carried(index: ModelIndex, plan: Plan, params: Fp8Params) -> Mapping[str, str]:
    """Which weight of each attention has its scales among its arrays: weight -> attention; none without the setting.

    Raises ParamsRejected for a model without such attentions, for one that has scales of its own, and for an attention
    of which nothing is quantized.
    """
    if params.kv_cache_scheme is None:
        return {}
    quantized = {row.name for row in plan.tensors if row.action == "quantize"}
    found = {}
    for attention in attentions(index):
        if f"{attention}.k_scale" in index.tensors:
            message = f"the source has scales of its own: {attention}.k_scale"
            raise _rejected("has_scales", message, "leave kv_cache_scheme out, or give the model that it was made from")
        names = (f"{attention}.{leaf}.weight" for leaf in CARRIERS)
        carrier = next((name for name in names if name in quantized), None)
        if carrier is None:
            message = f"nothing of {attention} is quantized"
            raise _rejected("nothing_quantized", message, "quantize one of its Linears, or leave kv_cache_scheme out")
        found[carrier] = attention
    if not found:
        message = f"{index.architecture} has no attention whose keys come from a {' or '.join(KEYS)}"
        raise _rejected("no_cache", message, "leave kv_cache_scheme out")
    return found


def cache_scales(session: Session, attention: str, info: TensorInfo, percentile: float) -> dict[str, NDArray[Any]]:
    """`k_scale` and `v_scale`, (1,) each in the dtype of the weight that carries them.

    The largest magnitude of the keys (after RoPE) and of the values over 448, or that which `percentile` percent do not
    exceed.
    """
    stored, dtype = STORED[info.dtype]
    parts: dict[str, NDArray[Any]] = {}
    for part, name in zip(("k_scale", "v_scale"), cached_names(attention), strict=True):
        reached = _covered(session.statistics(name), percentile, name)
        parts[part] = np.array([quantmill_kernels.fp8_scale(reached, scale_dtype=stored)], dtype)
    return parts


def _covered(found: Statistics, percentile: float, name: str) -> float:
    if percentile < 100:
        return found.percentile(percentile / 100)
    if found.absmax is None:
        raise PluginBroken(f"the calibration gives no absmax for {name}", tensor=name)
    return float(found.absmax.max())


def _rejected(code: str, message: str, remedy: str) -> ParamsRejected:
    return ParamsRejected(
        f"kv_cache_scheme: {message}; {remedy}",
        [{"pointer": "/params/kv_cache_scheme", "code": code, "message": message}],
    )
