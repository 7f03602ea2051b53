"""Write tests/data/golden/compressed_tensors.npz: what compressed-tensors makes of a few rows, for the kernel tests.

The file in the repository comes from compressed-tensors 0.19.0 and torch 2.13.0, in the environment of the comparison:

    pip install -r kernels/bench/peers/torch_fp8/requirements.txt
    python tests/kernels/make_golden_small_floats.py

Inputs are `heavy_tailed`, `ragged` (no multiple of 128 in either direction), `edges` and `extremes`, uint16 bits of
bfloat16, and `precise`, float32. Keys of results are `<input>.<dtype of the weights>.<scheme>.<what>`; codes of edges
and extremes stand in full, of the others as their SHA-256. Scales are computed as llm-compressor's minmax observer
does, from compressed-tensors' calculate_qparams and generate_gparam; a model that is quantized without calibration has
no zero points.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.utils import (
    calculate_qparams,
    generate_gparam,
    maybe_pad_tensor_for_block_quant,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "compressed_tensors.npz"
COLS = 288
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SCHEMES = {  # of this file: the preset and the compressor that writes it
    "tensor": ("FP8", "float-quantized"),
    "channel": ("FP8_DYNAMIC", "float-quantized"),
    "block": ("FP8_BLOCK", "float-quantized"),
    "nvfp4": ("NVFP4A16", "nvfp4-pack-quantized"),
    "mxfp4": ("MXFP4A16", "mxfp4-pack-quantized"),
    "mxfp8": ("MXFP8A16", "mxfp8-quantized"),
}


def halfway_e4m3() -> np.ndarray:
    """The midpoints between neighbours of E4M3, all magnitudes."""
    codes = np.arange(0x7F, dtype=np.uint8)
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    return (values[1:] + values[:-1]) / 2


def edge_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    noise = rng.standard_normal(COLS)
    column = np.arange(COLS)
    halfway = halfway_e4m3()
    fp4_ties = np.array([6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -0.0])
    return {
        "zeros": np.zeros(COLS),
        "negative zeros": np.full(COLS, -0.0),
        "halfway between E4M3 codes": np.concatenate([[448], halfway, -halfway, np.zeros(COLS - 1 - 2 * len(halfway))]),
        "halfway between E2M1 codes": np.tile(fp4_ties, COLS // 16),
        "exponents round at 1.75": np.repeat([1.74, 1.75, 1.76, 2, 3.49, 3.5, 3.51, 7, 448], 32),
        "constant": np.full(COLS, 0.1),
        "one outlier": np.where(column == 100, 3e4, noise * 0.01),
        "every second group zero": np.where(column // 16 % 2, noise, 0),
        "tiny negative": np.where(column % 32 == 0, 1, -1e-6 * np.abs(noise)),
        "small": noise * 1e-3,
        "magnitudes from e^-12 to e^10": np.exp(rng.uniform(-12, 10, COLS)) * rng.choice([-1, 1], COLS),
    }


def extreme_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows that float16 cannot hold."""
    noise = rng.standard_normal(COLS)
    return {
        "subnormals": rng.integers(-100, 100, COLS) * 2.0**-133,
        "smaller than scales": noise * 1e-37,
        "huge": noise / np.abs(noise).max() * 2e38,
        "magnitudes from 2^-120 to 2^120": 2.0 ** rng.uniform(-120, 120, COLS) * rng.choice([-1, 1], COLS),
    }


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(40)
    edges, extremes = edge_rows(rng), extreme_rows(rng)
    return {
        "heavy_tailed": bfloat16_bits(rng.standard_t(3, (20, COLS)) * 0.02),
        "ragged": bfloat16_bits(rng.standard_t(3, (140, COLS)) * 0.02),
        "edges": bfloat16_bits(np.stack(list(edges.values()))),
        "edges.names": np.array(list(edges)),
        "extremes": bfloat16_bits(np.stack(list(extremes.values()))),
        "extremes.names": np.array(list(extremes)),
        "precise": (rng.standard_t(3, (20, COLS)) * 0.02).astype(np.float32),
    }


def as_tensor(values: np.ndarray, dtype: str) -> torch.Tensor:
    if values.dtype == np.uint16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).to(DTYPES[dtype])
    return torch.from_numpy(values).to(DTYPES[dtype])


def observed(weight: torch.Tensor, scheme: QuantizationScheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest values in the shape of the scales."""
    args = scheme.weights
    if args.strategy == "tensor":
        tiles = weight.reshape(1, -1)
    elif args.strategy == "channel":
        tiles = weight.unsqueeze(-2)
    elif args.strategy == "block":
        height, width = args.block_structure
        padded = maybe_pad_tensor_for_block_quant(weight, args.block_structure)
        rows, cols = padded.shape
        tiles = padded.reshape(rows // height, height, cols // width, width).transpose(1, 2).flatten(-2, -1)
    else:
        tiles = weight.unflatten(-1, (-1, args.group_size))
    return tiles.amin(-1), tiles.amax(-1)


def compress(weight: torch.Tensor, name: str, global_scale: float | None = None) -> dict[str, np.ndarray]:
    preset, form = SCHEMES[name]
    scheme = QuantizationScheme(**preset_name_to_scheme(preset, ["Linear"]).model_dump())
    low, high = observed(weight, scheme)
    state = {"weight": weight}
    if name == "nvfp4":
        absmax = torch.max(high.max(), -low.min()).reshape(1)
        given = None if global_scale is None else torch.tensor([global_scale])
        state["weight_global_scale"] = generate_gparam(-absmax, absmax) if given is None else given
    scale, _ = calculate_qparams(low, high, scheme.weights, global_scale=state.get("weight_global_scale"))
    state["weight_scale"] = scale.to(weight.dtype)
    compressed = BaseCompressor.get_value_from_registry(form).compress(state, scheme)
    codes = compressed.get("weight_packed", compressed.get("weight"))
    stored = compressed["weight_scale"]
    results = {
        "codes": codes.view(torch.uint8).numpy(),
        "scale": stored.view(torch.uint8).numpy() if stored.element_size() == 1 else stored.float().numpy(),
    }
    if name == "nvfp4":
        results["global_scale"] = compressed["weight_global_scale"].numpy()
    return results


def torch_fp8(weight: torch.Tensor) -> dict[str, np.ndarray]:
    """A float32 scale per channel for 16-bit weights, which no preset has: plain torch."""
    scale = weight.abs().amax(-1, keepdim=True).float() / 448
    scale = torch.where(scale == 0, torch.finfo(torch.float32).eps, scale)
    codes = (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"codes": codes.view(torch.uint8).numpy(), "scale": scale.numpy()}


def fits(case: str, dtype: str, scheme: str) -> bool:
    """Where float16 has no room for what compressed-tensors computes, there is nothing to compare with."""
    if dtype == "float16":
        return case != "extremes" and (case != "edges" or scheme in ("tensor", "channel", "block"))
    return True


def results(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(key: str, what: dict[str, np.ndarray]) -> None:
        for name, array in what.items():
            full = name != "codes" or key.startswith(("edges", "extremes"))
            digest = np.frombuffer(hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest(), np.uint8)
            found[f"{key}.{name}"] = array if full else digest

    for case in (case for case in arrays if "." not in case):
        for dtype in ["float32"] if case == "precise" else DTYPES:
            weight = as_tensor(arrays[case], dtype)
            for scheme in SCHEMES:
                if fits(case, dtype, scheme):
                    keep(f"{case}.{dtype}.{scheme}", compress(weight, scheme))
            if fits(case, dtype, "channel"):
                keep(f"{case}.{dtype}.float32 scale", torch_fp8(weight))
    for dtype in ("float32", "bfloat16"):  # a scale of 1 for the group of ties
        keep(f"edges.{dtype}.nvfp4 given", compress(as_tensor(arrays["edges"], dtype), "nvfp4", 448.0))
    return found


def main() -> None:
    arrays = inputs()
    np.savez_compressed(GOLDEN, **arrays, **results(arrays))
    print(f"{GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
