"""Write tests/data/golden/ggml: what GGML's own code makes of a few rows, for the tests of the kernels.

The files in the repository come from llama-cpp-python 0.3.36 (its libggml-base is GGML 0.25.3), built by GCC 12.2 for
x86-64, which compiles it without fused multiply-add. The build takes several minutes:

    python3 -m venv /tmp/ggml && /tmp/ggml/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
    /tmp/ggml/bin/python tests/kernels/make_golden.py

`inputs.npz` holds one array per case, (rows, cols) float32 or, for rows of the shipped model, the uint16 bits of
bfloat16. `edges.names` says what each row of `edges` is, `imatrix.<cols>` is the importance matrix for that width.
`<format>.npz` holds GGML's bytes, `<case>` and `<case>.imatrix`, and the SHA-256 of the float32 values GGML decodes
`<case>` to. Where our own search is better than GGML's its bytes are what our error is measured against.
"""

import ctypes
import hashlib
import json
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests/data/millstone-4m/model.safetensors"
GOLDEN = ROOT / "tests/data/golden/ggml"

DECODERS = {
    "F16": "ggml_fp16_to_fp32_row",
    "BF16": "ggml_bf16_to_fp32_row",
    "Q8_0": "dequantize_row_q8_0",
    "Q4_0": "dequantize_row_q4_0",
    "Q4_1": "dequantize_row_q4_1",
    "Q5_0": "dequantize_row_q5_0",
    "Q5_1": "dequantize_row_q5_1",
    "Q2_K": "dequantize_row_q2_K",
    "Q3_K": "dequantize_row_q3_K",
    "Q4_K": "dequantize_row_q4_K",
    "Q5_K": "dequantize_row_q5_K",
    "Q6_K": "dequantize_row_q6_K",
    "IQ4_NL": "dequantize_row_iq4_nl",
    "IQ4_XS": "dequantize_row_iq4_xs",
    "TQ1_0": "dequantize_row_tq1_0",
    "TQ2_0": "dequantize_row_tq2_0",
    "MXFP4": "dequantize_row_mxfp4",
}
KNOW_IMATRIX = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"}

MODEL_ROWS = {
    "model_256": ["embed_tokens", "layers.0.self_attn.q_proj", "layers.1.mlp.gate_proj", "layers.3.self_attn.o_proj"],
    "model_768": ["layers.0.mlp.down_proj", "layers.2.mlp.down_proj"],
}
ROWS_PER_TENSOR = 3


def edge_rows(rng: np.random.Generator, cols: int = 512) -> dict[str, np.ndarray]:
    """Rows on which an encoder can go wrong, by what they are; all within float16."""
    noise = rng.standard_normal(cols)
    column = np.arange(cols)
    rows = {f"constant {value:g}": np.full(cols, value) for value in (1, -1, 0.1, -7e-6, 1e-15, -1e-20, 1e-42, 65504)}
    rows |= {f"noise of 1e{power}": noise * 10.0**power for power in (-44, -40, -37, -20, -15, -14, -8, -6, -4, 0, 3)}
    return rows | {
        "zeros": np.zeros(cols),
        "negative zeros": -np.zeros(cols),
        "one huge outlier": np.where(column == 300, 60000, noise * 0.01),
        "one huge negative outlier": np.where(column == 3, -60000, noise * 0.01),
        "subnormals": rng.integers(-1000, 1000, cols) * 2.0**-149,
        "negative only": -np.abs(noise),
        "positive only": np.abs(noise),
        "far below zero": -1 - 1e-6 * rng.random(cols),
        "far above zero": 1 + 1e-6 * rng.random(cols),
        "alternating": np.tile([0.5, -0.5], cols // 2),
        "four values": np.tile([1, -1, 0, 0.25], cols // 4),
        "integers": rng.integers(-8, 8, cols),
        "one value of 32 negative": np.where(column % 32 == 5, -1, 1e-3),
        "sparse": np.where(rng.random(cols) < 0.02, noise, 0),
        "every second sub-block zero": np.where(column // 32 % 2, noise, 0),
        "some sub-blocks tiny": np.where(column // 32 % 4, noise, noise * 1e-9),
        "some sub-blocks negligible": np.where(column // 16 % 4, noise, noise * 1e-17),
        "magnitudes from e^-80 to e^10": np.exp(rng.uniform(-80, 10, cols)) * rng.choice([-1, 1], cols),
    }


def model_rows(names: list[str]) -> np.ndarray:
    """The first rows of some tensors of the shipped model, as uint16 bits of bfloat16."""
    content = MODEL.read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    rows = []
    for name in names:
        entry = header[f"model.{name}.weight"]
        first = 8 + header_bytes + entry["data_offsets"][0]
        cols = entry["shape"][1]
        values = np.frombuffer(content, np.uint16, ROWS_PER_TENSOR * cols, first)
        rows.append(values.reshape(ROWS_PER_TENSOR, cols))
    return np.concatenate(rows)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    edges = edge_rows(rng)
    arrays = {name: model_rows(tensors) for name, tensors in MODEL_ROWS.items()}
    arrays["heavy_tailed"] = (rng.standard_t(3, (8, 1024)) * 0.02).astype(np.float32)
    arrays["edges"] = np.stack(list(edges.values())).astype(np.float32)
    arrays["edges.names"] = np.array(list(edges))
    for cols in (256, 512, 768, 1024):
        weights = rng.random(cols) ** 2 + 0.01
        arrays[f"imatrix.{cols}"] = np.where(rng.random(cols) < 0.05, 0, weights).astype(np.float32)
    return arrays


def as_float32(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.float32 else (values.astype(np.uint32) << 16).view(np.float32)


class Ggml:
    """libggml-base, as llama-cpp-python ships it."""

    def __init__(self) -> None:
        folder = Path(llama_cpp.__file__).parent / "lib"
        self.library = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        pointer = ctypes.c_void_p
        self.library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]

    def encode(self, name: str, values: np.ndarray, imatrix: np.ndarray | None) -> np.ndarray:
        kind = gguf.GGMLQuantizationType[name]
        block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        rows, cols = values.shape
        packed = np.zeros((rows, cols // block_values * block_bytes), np.uint8)
        weights = None if imatrix is None else imatrix.ctypes.data
        written = self.library.ggml_quantize_chunk(
            int(kind), values.ctypes.data, packed.ctypes.data, 0, rows, cols, weights
        )
        assert written == packed.nbytes, f"GGML wrote {written} bytes of {name}, {packed.nbytes} were expected"
        return packed

    def decode(self, name: str, packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        values = np.zeros(shape, np.float32)
        decoder = getattr(self.library, DECODERS[name])
        decoder.restype = None
        decoder.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        decoder(packed.ctypes.data, values.ctypes.data, values.size)
        return values


def golden(ggml: Ggml, name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    results = {}
    for case in (case for case in arrays if "." not in case):
        values = np.ascontiguousarray(as_float32(arrays[case]))
        results[case] = ggml.encode(name, values, None)
        decoded = ggml.decode(name, results[case], values.shape)
        results[f"{case}.decoded_sha256"] = np.frombuffer(hashlib.sha256(decoded.tobytes()).digest(), np.uint8)
        if name in KNOW_IMATRIX:
            results[f"{case}.imatrix"] = ggml.encode(name, values, arrays[f"imatrix.{values.shape[1]}"])
    return results


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    arrays = inputs()
    np.savez_compressed(GOLDEN / "inputs.npz", **arrays)
    ggml = Ggml()
    for name in DECODERS:
        ggml.library.ggml_quantize_init(int(gguf.GGMLQuantizationType[name]))
    for name in DECODERS:
        np.savez_compressed(GOLDEN / f"{name}.npz", **golden(ggml, name, arrays))
        print(f"{name}: {(GOLDEN / f'{name}.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
