"""Quantizing for bitsandbytes: whole weights through the native encoders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import quantmill_kernels
from quantmill.contract.errors import RangeExceeded
from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.session import Session
from quantmill.contract.tensors import QuantizedTensor, SourceTensor, TensorPlan
from quantmill_bnb.layout import NESTED_BLOCK, STORAGE, quant_state
from quantmill_bnb.params import BnbParams

ROW_MAJOR = np.array(0, np.uint8)  # bitsandbytes' weight_format "row"


def quantize(session: Session, params: BnbParams) -> Iterator[QuantizedTensor]:
    """Encode each Linear as the plan says; its parts are those of `layout.parts_of`.

    Raises RangeExceeded, naming tensor and place, for a value whose magnitude the format cannot hold.
    """
    for unit in session.units():
        for name in unit.tensors:  # no name holds a tensor across the yield: the plan counts one at a time
            row = session.plan.by_name[name]
            if row.action == "keep":
                yield kept_tensor(session.tensor(name))
            else:
                yield _quantized(session.tensor(name), row, params, session.threads)


def _quantized(source: SourceTensor, row: TensorPlan, params: BnbParams, threads: int) -> QuantizedTensor:
    encode = _int8 if params.quant_type == "int8" else _four_bit
    try:
        return QuantizedTensor(row.name, row.scheme, row.shape, encode(source, row, params, threads))
    except ValueError as error:  # finite, as the session promises, but beyond what the format holds
        raise RangeExceeded(f"{row.name}: {error}; put its module into skip_modules", tensor=row.name) from error


def _int8(source: SourceTensor, row: TensorPlan, params: BnbParams, threads: int) -> dict[str, np.ndarray]:
    codes, absmax = quantmill_kernels.encode_int8_rows(source.values, threads=threads)
    return {"weight": codes, "SCB": absmax, "weight_format": ROW_MAJOR}


def _four_bit(source: SourceTensor, row: TensorPlan, params: BnbParams, threads: int) -> dict[str, np.ndarray]:
    packed, absmax = quantmill_kernels.encode_4bit(
        params.quant_type, source.values, block_size=params.block_size, threads=threads
    )
    parts = {"weight": packed.view(f"u{STORAGE[params.quant_storage][1]}").reshape(-1, 1)}
    parts["quant_map"] = quantmill_kernels.quant_map(params.quant_type)
    offset = 0.0
    if params.doubles:
        codes, nested, offset = quantmill_kernels.encode_absmax(absmax, block_size=NESTED_BLOCK)
        parts |= {"absmax": codes, "nested_absmax": nested, "nested_quant_map": quantmill_kernels.dynamic_map()}
    else:
        parts["absmax"] = absmax
    parts["quant_state"] = np.frombuffer(quant_state(row, params, offset), np.uint8)
    return parts
