"""bitsandbytes' side, in its own environment: see kernels/bench/peers/timing.py for the command line."""

from functools import partial

import bitsandbytes.functional as bnb
import numpy as np
import torch
from kernels.bench.peers.timing import Arrays, Run, serve


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).view(torch.bfloat16) if values.dtype == np.uint16 else torch.from_numpy(values)


def double_quantized(quant_type: str, inputs: Arrays) -> Run:
    values = tensor(inputs["values"])

    def run() -> Arrays:
        packed, state = bnb.quantize_4bit(values, quant_type=quant_type, compress_statistics=True)
        return {
            "packed": packed.numpy().reshape(-1),
            "codes": state.absmax.numpy(),
            "nested_absmax": state.state2.absmax.numpy(),
            "offset": state.offset.numpy(),
        }

    return run


def decoded(inputs: Arrays) -> Run:
    packed, state = bnb.quantize_4bit(tensor(inputs["values"]), quant_type="nf4")
    state.dtype = torch.float32
    return lambda: {"values": bnb.dequantize_4bit(packed, state).numpy()}


def int8_rows(inputs: Arrays) -> Run:
    values = tensor(inputs["values"])

    def run() -> Arrays:
        codes, absmax, _ = bnb.int8_vectorwise_quant(values)
        return {"codes": codes.numpy(), "absmax": absmax.numpy()}

    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        {
            "nf4 double bf16": partial(double_quantized, "nf4"),
            "nf4 double f32": partial(double_quantized, "nf4"),
            "fp4 double bf16": partial(double_quantized, "fp4"),
            "nf4 decode": decoded,
            "int8 rows bf16": int8_rows,
        }
    )
