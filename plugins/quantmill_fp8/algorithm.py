"""Quantizing to FP8, NVFP4 and MX formats: whole weights through the native encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.linears import linears
from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import QuantizedTensor, SourceTensor
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.schemes import SCHEMES, Fp8Scheme

Parts = Mapping[str, NDArray[Any]]

STORED = {"F32": ("float32", np.float32), "F16": ("float16", np.float16), "BF16": ("bfloat16", ml_dtypes.bfloat16)}


def quantize(session: Session, params: Fp8Params) -> Iterator[QuantizedTensor]:
    """Encode each Linear as the plan says; its parts are those of `schemes.parts_of`.

    Raises RangeExceeded, naming tensor and place, for a value whose magnitude the format cannot hold.
    """
    scheme = SCHEMES[params.scheme]
    shared = SharedScales(session) if scheme.granularity == "nvfp4" else None
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            if session.plan.by_name[name].action == "keep":
                yield kept_tensor(session.tensor(name))
            else:
                global_scale = shared.of(name) if shared else None
                yield _quantized(session.tensor(name), scheme, global_scale, session.threads)


class SharedScales:
    """NVFP4's scale of a whole tensor, which modules share that engines compute in one product.

    Computed at the first use of each group; a group's tensors are read once for it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._linears = linears(session.index)
        self._known: dict[tuple[str, ...], float] = {}

    def of(self, name: str) -> float:
        fused = self._linears[name].fused
        if fused not in self._known:
            largest = max(self._absmax(f"{module}.weight") for module in fused)
            dtype, _ = STORED[self._session.index.tensors[name].dtype]
            self._known[fused] = quantmill_kernels.nvfp4_global_scale(largest, dtype=dtype)
        return self._known[fused]

    def _absmax(self, name: str) -> float:
        return quantmill_kernels.absmax(self._session.tensor(name).values, threads=self._session.threads)


def _quantized(source: SourceTensor, scheme: Fp8Scheme, global_scale: float | None, threads: int) -> QuantizedTensor:
    info = source.info
    try:
        parts = ENCODERS[scheme.granularity](source, scheme, global_scale, threads)
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{info.name}: {error}; put its module into skip_modules", tensor=info.name) from error
    return QuantizedTensor(info.name, scheme.label, info.shape, parts)


def _channel(source: SourceTensor, scheme: Fp8Scheme, global_scale: float | None, threads: int) -> Parts:
    return _fp8(source, "channel", source.info.dtype, threads)


def _block(source: SourceTensor, scheme: Fp8Scheme, global_scale: float | None, threads: int) -> Parts:
    return _fp8(source, "block", source.info.dtype if scheme.format else "F32", threads)


def _fp8(source: SourceTensor, strategy: str, stored: str, threads: int) -> Parts:
    name, dtype = STORED[stored]
    codes, scale = quantmill_kernels.encode_fp8(source.values, strategy=strategy, scale_dtype=name, threads=threads)
    return {"codes": codes, "scale": scale.astype(dtype)}  # exact: the scales have been rounded to it already


def _mxfp8(source: SourceTensor, scheme: Fp8Scheme, global_scale: float | None, threads: int) -> Parts:
    codes, exponents = quantmill_kernels.encode_mxfp8(source.values, threads=threads)
    return {"codes": codes, "scale": exponents}


def _mxfp4(source: SourceTensor, scheme: Fp8Scheme, global_scale: float | None, threads: int) -> Parts:
    packed, exponents = quantmill_kernels.encode_mxfp4(source.values, threads=threads)
    return {"codes": packed, "scale": exponents}


def _nvfp4(source: SourceTensor, scheme: Fp8Scheme, global_scale: float | None, threads: int) -> Parts:
    packed, scale, used = quantmill_kernels.encode_nvfp4(source.values, global_scale=global_scale, threads=threads)
    return {"codes": packed, "scale": scale, "global_scale": np.array([used], np.float32)}


Encode = Callable[[SourceTensor, Fp8Scheme, float | None, int], Parts]
ENCODERS: Mapping[str, Encode] = MappingProxyType(
    {"channel": _channel, "block": _block, "mxfp8": _mxfp8, "mxfp4": _mxfp4, "nvfp4": _nvfp4}
)
