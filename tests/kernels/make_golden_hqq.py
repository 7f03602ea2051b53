"""Write tests/data/golden/hqq.npz: what hqq 0.2.8 makes of a few values, for test_hqq.py.

The file in the repository comes from the environment of kernels/bench/peers/hqq (hqq 0.2.8, torch 2.13.0 on a CPU):

    python -m venv /tmp/hqq && /tmp/hqq/bin/pip install -r kernels/bench/peers/hqq/requirements.txt
    /tmp/hqq/bin/python tests/kernels/make_golden_hqq.py

`values` is (rows, cols) float16, the weights of the cases named `weights`; those named `large` are 64 times as big.
`errors.<case>.<nbits>.<group_size>.<axis>` holds mean |error|^0.7 and root mean square error of hqq's solver.
`rounded.<axis>.<name>` is one matrix rounded to nearest by hqq: codes, scale, zero and the values they stand for.
`<packing>.codes` and `<packing>.packed` are what hqq's BitPack packs, and into what.
"""

from pathlib import Path

import numpy as np
import torch
from hqq.core.bitpack import BitPack
from hqq.core.quantize import Quantizer

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hqq.npz"
CASES = {"weights": 1, "large": 64}
SETTINGS = [
    *((nbits, 64, 1) for nbits in (1, 2, 3, 4, 5, 6, 8)),
    *((nbits, 16, axis) for nbits in (1, 2, 4) for axis in (0, 1)),
    (4, 8, 1),
    (4, 64, 0),
    (3, 256, 1),
    (4, 0, 0),  # whole columns
    (4, 0, 1),  # whole rows
]
PACKINGS = {  # rows, largest code
    "8bit_u8": (5, 255),
    "4bit_u8": (10, 15),
    "3bit_32": (37, 7),
    "2bit_u8": (12, 3),
    "1bit_u8": (24, 1),
}


def quantized(values: np.ndarray, **options: object) -> dict[str, np.ndarray]:
    codes, meta = Quantizer.quantize(
        torch.from_numpy(values), bitpack=False, device="cpu", compute_dtype=torch.float32, **options
    )
    decoded = ((codes - meta["zero"]) * meta["scale"]).reshape(values.shape)
    arrays = {"codes": codes.to(torch.uint8), "scale": meta["scale"], "zero": meta["zero"], "decoded": decoded}
    return {name: array.numpy() for name, array in arrays.items()}


def errors(values: np.ndarray, nbits: int, group_size: int, axis: int) -> np.ndarray:
    """hqq's defaults: the zero of the start is rounded for 4 bits."""
    options = {"nbits": nbits, "group_size": group_size or None, "axis": axis, "round_zero": nbits == 4}
    left = np.abs(quantized(values, **options)["decoded"].astype(np.float64) - values)
    return np.array([(left**0.7).mean(), np.sqrt((left**2).mean())])


def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(30)
    values = (rng.standard_t(5, (48, 512)) * 0.02).astype(np.float16)
    arrays = {"values": values}
    for case, factor in CASES.items():
        for nbits, group_size, axis in SETTINGS:
            floats = values.astype(np.float32) * factor
            arrays[f"errors.{case}.{nbits}.{group_size}.{axis}"] = errors(floats, nbits, group_size, axis)
    for axis in (0, 1):
        rounded = quantized(values[:2].astype(np.float32), nbits=4, group_size=64, axis=axis, optimize=False)
        arrays |= {f"rounded.{axis}.{name}": array for name, array in rounded.items()}
    for packing, (rows, largest) in PACKINGS.items():
        codes = rng.integers(0, largest + 1, (rows, 19), dtype=np.uint8)
        arrays[f"{packing}.codes"] = codes
        arrays[f"{packing}.packed"] = getattr(BitPack, f"pack_{packing}")(torch.from_numpy(codes)).numpy()
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
