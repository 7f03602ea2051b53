"""What compressed-tensors does with a bfloat16 weight: the scales of a minmax observer, then its compressor."""

from collections.abc import Callable

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from kernels.bench.peers.timing import Arrays, Run, serve

SCHEMES = {  # of the table in ours.py: the preset and the compressor that writes it
    "FP8 tensor": ("FP8", "float-quantized"),
    "FP8 channel": ("FP8_DYNAMIC", "float-quantized"),
    "FP8 block": ("FP8_BLOCK", "float-quantized"),
    "NVFP4": ("NVFP4A16", "nvfp4-pack-quantized"),
    "MXFP4": ("MXFP4A16", "mxfp4-pack-quantized"),
    "MXFP8": ("MXFP8A16", "mxfp8-quantized"),
}


def tiles(weight: torch.Tensor, scheme: QuantizationScheme) -> torch.Tensor:
    """The values of each scale in the last dimension; rows and columns are multiples of a block."""
    args = scheme.weights
    if args.strategy == "tensor":
        return weight.reshape(1, -1)
    if args.strategy == "channel":
        return weight.unsqueeze(-2)
    if args.strategy == "block":
        height, width = args.block_structure
        rows, cols = weight.shape
        return weight.reshape(rows // height, height, cols // width, width).transpose(1, 2).flatten(-2, -1)
    return weight.unflatten(-1, (-1, args.group_size))


def compress(name: str) -> Callable[[Arrays], Run]:
    preset, form = SCHEMES[name]
    scheme = QuantizationScheme(**preset_name_to_scheme(preset, ["Linear"]).model_dump())
    compressor = BaseCompressor.get_value_from_registry(form)

    def prepare(inputs: Arrays) -> Run:
        torch.set_num_threads(1)
        weight = torch.from_numpy(inputs["values"].view(np.int16)).view(torch.bfloat16)

        def run() -> Arrays:
            observed = tiles(weight, scheme)
            low, high = observed.amin(-1), observed.amax(-1)
            state = {"weight": weight}
            if scheme.weights.strategy == "tensor_group":
                absmax = torch.max(high.max(), -low.min()).reshape(1)
                state["weight_global_scale"] = generate_gparam(-absmax, absmax)
            scale, _ = calculate_qparams(low, high, scheme.weights, global_scale=state.get("weight_global_scale"))
            state["weight_scale"] = scale.to(weight.dtype)
            compressed = compressor.compress(state, scheme)
            codes = compressed.get("weight_packed", compressed.get("weight"))
            return {"codes": codes.view(torch.uint8).numpy()}

        return run

    return prepare


def cast(inputs: Arrays) -> Run:
    """Plain torch, a float32 scale for each row: (weight / scale).clamp(-448, 448).to(float8_e4m3fn)."""
    torch.set_num_threads(1)
    weight = torch.from_numpy(inputs["values"].view(np.int16)).view(torch.bfloat16)

    def run() -> Arrays:
        scale = weight.abs().amax(-1, keepdim=True).float() / 448
        codes = (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        return {"codes": codes.view(torch.uint8).numpy()}

    return run


if __name__ == "__main__":
    serve({name: compress(name) for name in SCHEMES} | {"FP8 channel, float32 scale": cast})
