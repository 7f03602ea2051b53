"""Repacking: the same codes, zero points and scales in another order of bits. Nothing is rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded, SourceRejected
from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import QuantizedTensor, SourceTensor, StoredWeight, TensorPlan
from quantmill_repack.layouts import NVFP4_PACKED, is_out_of_order
from quantmill_repack.params import RepackParams, Target

Parts = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Integers:
    """A weight as (code - zero) * scale: codes uint8 (out, in), zeros uint8 and scales (out, groups).

    `groups` is the group of each input, None where groups follow each other.
    """

    codes: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    scales: NDArray[Any]
    groups: NDArray[np.int32] | None = None


def quantize(session: Session, params: RepackParams) -> Iterator[QuantizedTensor]:
    """Each weight in its new layout; parts are those of `layouts.parts_of`.

    Raises RangeExceeded for a scale that the layout's dtype does not hold exactly, SourceRejected for zero points and
    groups that are not what the source's settings say.
    """
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            if session.plan.by_name[name].action == "keep":
                yield kept_tensor(session.tensor(name))
            else:
                row, weight = session.plan.by_name[name], session.index.stored[name]
                ordered = not is_out_of_order(weight, session.index)
                yield _repacked(session.tensor(name), row, weight, ordered, params.to, session.threads)


def _repacked(
    source: SourceTensor, row: TensorPlan, weight: StoredWeight, ordered: bool, to: Target, threads: int
) -> QuantizedTensor:
    if to in ("fp8", "float-quantized"):
        scale = source.parts["weight_scale" if to == "fp8" else "weight_scale_inv"]
        parts: Parts = {"codes": source.parts["weight"], "scale": scale.astype(np.float32)}
    elif to == NVFP4_PACKED:
        parts = {part.removeprefix("weight_"): array for part, array in source.parts.items()}
    else:
        integers = UNPACK[weight.format](source, weight, threads)
        _check_zeros(row.name, integers, weight)
        _check_order(row.name, integers, ordered)
        parts = PACK[to](row.name, integers, weight, threads)
    return QuantizedTensor(row.name, row.scheme, row.shape, parts)


def _check_zeros(name: str, integers: Integers, weight: StoredWeight) -> None:
    middle = 1 << (weight.bits - 1)
    if weight.symmetric and (integers.zeros != middle).any():
        found = sorted({int(zero) for zero in np.unique(integers.zeros)} - {middle})
        raise SourceRejected(
            f"{name}: the source says that it is symmetric, but has the zero points {found[:5]} beside {middle}; "
            "its checkpoint_format may be mislabelled (gptq stores zero - 1, gptq_v2 the zero) or its sym",
            tensor=name,
        )


def _check_order(name: str, integers: Integers, ordered: bool) -> None:
    if ordered and integers.groups is not None:
        raise SourceRejected(
            f"{name}: the source says that its groups follow each other, and g_idx that they do not; desc_act may be "
            "missing from its settings",
            tensor=name,
        )


def _out_of_order(groups: NDArray[np.int32] | None, weight: StoredWeight) -> NDArray[np.int32] | None:
    ordered = groups is None or bool((groups == _in_order(weight)).all())
    return None if ordered else groups


def _in_order(weight: StoredWeight) -> NDArray[np.int32]:
    return (np.arange(weight.shape[1]) // weight.group_size).astype(np.int32)


def _from_gptq(source: SourceTensor, weight: StoredWeight, threads: int) -> Integers:
    parts = source.parts
    codes = quantmill_kernels.unpack_gptq(np.ascontiguousarray(parts["qweight"]), weight.bits, threads=threads)
    words = np.ascontiguousarray(parts["qzeros"])
    version: Any = weight.format
    zeros = quantmill_kernels.unpack_gptq_zeros(words, weight.bits, format=version, threads=threads)
    if weight.format == "gptq" and not weight.symmetric and (zeros == 0).any():
        raise SourceRejected(f"{weight.parts['qzeros'].name} has the zero point 2^bits, which no other layout stores")
    return Integers(codes, zeros, parts["scales"].T, _out_of_order(parts.get("g_idx"), weight))


def _from_awq(source: SourceTensor, weight: StoredWeight, threads: int) -> Integers:
    codes = quantmill_kernels.unpack_awq(np.ascontiguousarray(source.parts["qweight"]), threads=threads)
    zeros = quantmill_kernels.unpack_awq(np.ascontiguousarray(source.parts["qzeros"]), threads=threads)
    return Integers(codes, zeros, source.parts["scales"].T)


def _from_pack_quantized(source: SourceTensor, weight: StoredWeight, threads: int) -> Integers:
    parts, (rows, cols) = source.parts, weight.shape
    offset = 1 << (weight.bits - 1)
    words = np.ascontiguousarray(parts["weight_packed"])
    codes = quantmill_kernels.unpack_quantized(words, weight.bits, cols, threads=threads)
    zeros = np.full(parts["weight_scale"].shape, offset, np.uint8)
    if not weight.symmetric:
        words = np.ascontiguousarray(parts["weight_zero_point"])
        zeros = _raised(quantmill_kernels.unpack_quantized_zeros(words, weight.bits, rows, threads=threads), offset)
    return Integers(
        _raised(codes, offset), zeros, parts["weight_scale"], _out_of_order(parts.get("weight_g_idx"), weight)
    )


def _raised(signed: NDArray[np.int8], offset: int) -> NDArray[np.uint8]:
    """Signed codes counted from the least one, in their place."""
    raised = signed.view(np.uint8)
    raised += np.uint8(offset)
    return raised


def _to_gptq(name: str, integers: Integers, weight: StoredWeight, threads: int) -> Parts:
    return {
        "packed": quantmill_kernels.pack_gptq(integers.codes, weight.bits, threads=threads),
        "zeros": quantmill_kernels.pack_gptq_zeros(integers.zeros, weight.bits, format="gptq", threads=threads),
        "scale": _halves(name, integers.scales),
        "group_index": _in_order(weight) if integers.groups is None else integers.groups,
    }


def _to_awq(name: str, integers: Integers, weight: StoredWeight, threads: int) -> Parts:
    return {
        "packed": quantmill_kernels.pack_awq(integers.codes, threads=threads),
        "zeros": quantmill_kernels.pack_awq(integers.zeros, threads=threads),
        "scale": _halves(name, integers.scales),
    }


def _to_pack_quantized(name: str, integers: Integers, weight: StoredWeight, threads: int) -> Parts:
    parts = {
        "packed": quantmill_kernels.pack_quantized(integers.codes, weight.bits, threads=threads),
        "scale": np.ascontiguousarray(integers.scales),
        "shape": np.array(weight.shape, np.int64),
    }
    if not weight.symmetric:
        parts["zero_point"] = quantmill_kernels.pack_quantized_zeros(integers.zeros, weight.bits, threads=threads)
    return parts


def _halves(name: str, scales: NDArray[Any]) -> NDArray[np.float16]:
    """Scales (groups, out) as float16, where they are the same there."""
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(scales.T).astype(np.float32).astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), scales.T.astype(np.float32)):
        raise RangeExceeded(f"{name}: its {scales.dtype} scales are not the same in float16", tensor=name)
    return halves


UNPACK: Mapping[str, Callable[[SourceTensor, StoredWeight, int], Integers]] = {
    "gptq": _from_gptq,
    "gptq_v2": _from_gptq,
    "awq": _from_awq,
    "pack-quantized": _from_pack_quantized,
}
PACK: Mapping[Target, Callable[[str, Integers, StoredWeight, int], Parts]] = {
    "gptq": _to_gptq,
    "awq": _to_awq,
    "pack-quantized": _to_pack_quantized,
}
