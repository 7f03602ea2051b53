"""Write tests/data/golden/onnxruntime_int8.npz: what ONNX Runtime's quantizer makes of a few weights.

The file in the repository comes from onnxruntime 1.31.1 with onnx 1.23.2 and numpy 2.4.6:

    pip install onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
    python tests/kernels/make_golden_int8.py

`<input>` is float32 (rows, cols); results are `<input>.<dtype>.<symmetric|asymmetric>.<full|reduced>.<axis>.<what>`:
the axis is None for one scale, 0 for one per row, 1 for one per column.
"""

from itertools import product
from pathlib import Path

import numpy as np
from onnx import TensorProto
from onnxruntime.quantization.quant_utils import quantize_data

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "onnxruntime_int8.npz"
DTYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
AXES = {"None": None, "0": 0, "1": 1}


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(50)
    column = np.arange(40)
    edges = [
        np.zeros(40),
        np.full(40, -0.0),
        np.full(40, 0.25),
        np.linspace(1, 2, 40),
        -np.linspace(1, 2, 40),
        np.where(column == 3, 127, column - 20 + 0.5),  # halfway between codes where the scale is 1
        rng.integers(-50, 50, 40) * 2.0**-149,
        rng.standard_normal(40) * 1e-37,
        np.where(column % 2, 3e38, -3e38),
        np.where(column == 7, 1e30, rng.standard_normal(40)),
        np.where(column == 7, -3e-36, 1e-38),
    ]
    return {
        "heavy_tailed": (rng.standard_t(3, (17, 37)) * 0.02).astype(np.float32),
        "shifted": (rng.standard_t(3, (9, 16)) + 2).astype(np.float32),
        "edges": np.stack(edges).astype(np.float32),
    }


def quantize(values: np.ndarray, dtype: str, symmetric: bool, reduce_range: bool, axis: int | None) -> list[np.ndarray]:
    """Codes, scale, zero point."""
    channels = [values.ravel()] if axis is None else [values.take(i, axis) for i in range(values.shape[axis])]
    with np.errstate(all="ignore"):
        each = [quantize_data(channel, DTYPES[dtype], symmetric, reduce_range) for channel in channels]
    codes = [codes for _, _, codes in each]
    shaped = codes[0].reshape(values.shape) if axis is None else np.stack(codes, axis)
    zero_points = np.array([zero_point for zero_point, _, _ in each], dtype)
    return [shaped, np.array([scale for _, scale, _ in each], np.float32), zero_points]


def main() -> None:
    arrays = inputs()
    results = {}
    for case, dtype, symmetric, reduced, axis in product(arrays, DTYPES, (False, True), (False, True), AXES):
        kind, width = "symmetric" if symmetric else "asymmetric", "reduced" if reduced else "full"
        found = quantize(arrays[case], dtype, symmetric, reduced, AXES[axis])
        for what, array in zip(("codes", "scale", "zero_point"), found, strict=True):
            results[f"{case}.{dtype}.{kind}.{width}.{axis}.{what}"] = array
    np.savez_compressed(GOLDEN, **arrays, **results)
    print(f"{GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
