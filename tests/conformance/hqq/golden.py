"""Runs in hqq's environment: layers as hqq 0.2.8 itself stores and dequantizes them.

    python golden.py tests/data/golden/hqq_layers.npz

`make test` holds our reader and our layout to them without hqq. Keys are `<layer>/<name in its state dict>` and
`<layer>/dequantized`, float32; bfloat16 arrays are stored as their bits.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

ROWS, COLS = 32, 48
SETTINGS = [  # nbits, group_size (None: whole rows), axis, compute dtype
    (1, 16, 1, torch.float32),
    (2, 16, 0, torch.float16),
    (3, 8, 1, torch.bfloat16),
    (3, 32, 0, torch.float32),
    (4, 64, 1, torch.bfloat16),
    (4, None, 0, torch.float32),
    (5, 16, 1, torch.float16),
    (6, None, 1, torch.float32),
    (8, 32, 1, torch.bfloat16),
]


def main() -> None:
    stored = {}
    for nbits, group_size, axis, dtype in SETTINGS:
        torch.manual_seed(nbits)
        linear = torch.nn.Linear(COLS, ROWS, bias=False)
        config = BaseQuantizeConfig(nbits=nbits, group_size=group_size, axis=axis)
        layer = HQQLinear(linear, config, compute_dtype=dtype, device="cpu")
        label = f"{nbits}-{group_size}-{axis}-{str(dtype).removeprefix('torch.')}"
        for name, value in layer.state_dict().items():
            if value is not None:
                bits = value.view(torch.uint16) if value.dtype == torch.bfloat16 else value
                stored[f"{label}/{name}"] = bits.detach().numpy()
        for name in ("scale", "zero"):  # dequantized as our reader does: in float32, from what is stored
            layer.meta[name] = layer.meta[name].float()
        layer.meta["compute_dtype"] = torch.float32
        stored[f"{label}/dequantized"] = layer.dequantize().float().numpy()
    np.savez_compressed(sys.argv[1], **stored)


if __name__ == "__main__":
    main()
