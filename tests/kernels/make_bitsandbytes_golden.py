"""Write tests/data/golden/bitsandbytes: what bitsandbytes makes of a few matrices on a CPU, for the kernels' tests.

The files in the repository come from bitsandbytes 0.50.2 with torch 2.13.0 and numpy 2.4.6 on an x86-64 machine:

    python3 -m venv bnb && bnb/bin/pip install -r kernels/bench/peers/bitsandbytes/requirements.txt
    bnb/bin/python tests/kernels/make_bitsandbytes_golden.py

`inputs.npz` holds one matrix per case, float32, float16 or bfloat16 as its uint16 bits, and under `absmax.<name>` the
vectors for double quantization. `results.npz` holds, under `<case>.<type>.<block size>.`, `packed` and `absmax`; under
`<case>.int8.`, `codes` and `absmax`; under `absmax.<name>.`, `codes`, `nested` and `offset`; and with each of them the
SHA-256 of the float32 values that bitsandbytes reads back.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "data/golden/bitsandbytes"
TYPES = ["nf4", "fp4"]
BLOCK_SIZES = [32, 64, 4096]
ABSMAX_COUNTS = [1, 2, 7, 8, 9, 100, 256, 257, 1000, 2049, 10007]


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Cut off, not rounded: the matrix is random either way."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def ties(quant_type: str) -> np.ndarray:
    """Rows of 64: the bounds between two codes in units of the row's absmax, and their neighbours on both sides."""
    order = np.sort(bnb.get_4bit_type(quant_type, device="cpu").numpy())
    bounds = (order[:-1] + order[1:]) / np.float32(2)
    rows = []
    for absmax in np.float32([1, 0.5, 2**-10, 2**20, 3, 0.02, 1.9999999, 6e-39]):
        middle = bounds * absmax
        row = np.concatenate([middle, np.nextafter(middle, np.float32(9)), np.nextafter(middle, np.float32(-9))])
        rows.append(np.concatenate([row, [absmax], -row[:18]]))
    return np.stack(rows).astype(np.float32)


def edges(rng: np.random.Generator) -> np.ndarray:
    """Rows of 128 on which a scale is zero, tiny, huge or that of one value."""
    noise, column = rng.standard_normal(128), np.arange(128)
    rows = [np.full(128, value) for value in (0, -0.0, 1, -1, 1e-38, 1e-40, -1e-45, 3e38, -3.4e38)]
    rows += [noise * 10.0**power for power in (-44, -42, -40, -39, -38, -37.5, -37, -36, -20, 0, 20, 37)]
    rows += [np.where(column == 77, 1e30, noise), np.where(column == 3, -1e30, 0), np.where(column % 64 == 5, 1e-45, 0)]
    rows += [np.where(column < 64, 0, noise), np.tile([1, -1], 64), rng.integers(-127, 128, 128) / 127]
    return np.stack(rows).astype(np.float32)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(40)
    heavy_tailed = (rng.standard_t(3, (19, 257)) * 0.02).astype(np.float32)  # an odd number of values
    cases = {
        "heavy_tailed": heavy_tailed,
        "heavy_tailed_f16": heavy_tailed.astype(np.float16),
        "heavy_tailed_bf16": bfloat16_bits(heavy_tailed),
        "two_blocks_of_4096": bfloat16_bits(rng.standard_normal((64, 128)).astype(np.float32)),
        "f16_subnormals": (rng.integers(-1000, 1000, (3, 65)) * 2.0**-24).astype(np.float16),
        "edges": edges(rng),
    }
    cases |= {f"ties_{quant_type}": ties(quant_type) for quant_type in TYPES}
    for cols in (1, 2, 31, 33, 63, 65):
        cases[f"short_{cols}"] = rng.standard_normal((1, cols)).astype(np.float32)
    cases |= {"short_zeros": np.zeros((1, 5), np.float32), "short_tiny": np.full((1, 37), 1e-40, np.float32)}
    for n in ABSMAX_COUNTS:
        cases[f"absmax.{n}"] = np.abs(rng.standard_normal(n) * 0.01 + 0.05).astype(np.float32)
    cases["absmax.equal"] = np.full(300, 0.1, np.float32)
    cases["absmax.outlier"] = np.where(np.arange(300) == 40, 100, rng.random(300) * 1e-3).astype(np.float32)
    cases["absmax.tiny"] = (rng.random(300) * 1e-40).astype(np.float32)
    return cases


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).view(torch.bfloat16) if values.dtype == np.uint16 else torch.from_numpy(values)


def digest(values: torch.Tensor) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(values.float().numpy().tobytes()).digest(), np.uint8)


def four_bits(values: torch.Tensor, quant_type: str, block_size: int) -> Iterator[tuple[str, np.ndarray]]:
    packed, state = bnb.quantize_4bit(values.clone(), blocksize=block_size, quant_type=quant_type)
    yield "packed", packed.numpy().reshape(-1)
    yield "absmax", state.absmax.numpy()
    state.dtype = torch.float32
    yield "decoded_sha256", digest(bnb.dequantize_4bit(packed, state))


def int8(values: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    codes, absmax, _ = bnb.int8_vectorwise_quant(values.clone())
    yield "codes", codes.numpy()
    yield "absmax", absmax.numpy()
    yield "decoded_sha256", digest(bnb.int8_vectorwise_dequant(codes, absmax))


def double_quantized(absmax: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """As quantize_4bit does it when compress_statistics is set."""
    offset = absmax.mean()
    codes, state = bnb.quantize_blockwise(absmax - offset, blocksize=256)
    yield "codes", codes.numpy()
    yield "nested", state.absmax.numpy()
    yield "offset", offset.numpy()
    yield "decoded_sha256", digest(bnb.dequantize_blockwise(codes, state) + offset)


def results(cases: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for case, values in cases.items():
        if case.startswith("absmax."):
            yield from ((f"{case}.{name}", array) for name, array in double_quantized(tensor(values)))
            continue
        yield from ((f"{case}.int8.{name}", array) for name, array in int8(tensor(values)))
        for quant_type in TYPES:
            for block_size in BLOCK_SIZES:
                made = four_bits(tensor(values), quant_type, block_size)
                yield from ((f"{case}.{quant_type}.{block_size}.{name}", array) for name, array in made)
    yield "quant_map.nf4", bnb.get_4bit_type("nf4", device="cpu").numpy()
    yield "quant_map.fp4", bnb.get_4bit_type("fp4", device="cpu").numpy()
    yield "dynamic_map", bnb.create_dynamic_map().numpy()


def main() -> None:
    torch.set_num_threads(1)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    cases = inputs()
    np.savez_compressed(GOLDEN / "inputs.npz", **cases)
    np.savez_compressed(GOLDEN / "results.npz", **dict(results(cases)))
    for name in ("inputs", "results"):
        print(f"{name}: {(GOLDEN / f'{name}.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
