"""Write tests/data/golden/words.npz: what the packers of three formats make of a few codes.

The file in the repository comes from gptqmodel 7.7.0, autoawq 0.2.9 and compressed-tensors 0.19.0 with torch 2.13.0.
gptqmodel and autoawq want a GPU's libraries when they are imported, so their packing functions alone are taken from
their source distributions:

    python3 -m venv /tmp/packers && /tmp/packers/bin/pip install torch==2.13.0 compressed-tensors==0.19.0 numpy==2.4.6
    /tmp/packers/bin/pip download --no-deps --no-build-isolation -d /tmp/packers/sdists gptqmodel==7.7.0 autoawq==0.2.9
    for file in /tmp/packers/sdists/*.tar.gz; do tar xzf $file -C /tmp/packers/sdists; done
    /tmp/packers/bin/python tests/kernels/make_golden_words.py /tmp/packers/sdists

`codes.<bits>` is (out, in) uint8, `zeros.<bits>` (out, groups). `gptq.<bits>.qweight`, `.qzeros` (v1), `.qzeros_v2`;
`awq.qweight`, `awq.qzeros`; `quantized.<bits>.weight_packed`, `.weight_zero_point`, of codes - 2^(bits-1) with an odd
number of columns.
"""

import ast
import contextlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "words.npz"
OUT, IN, GROUP = 64, 96, 32
ODD = 77  # columns that fill no whole words


def cut_functions(source: Path, names: list[str], scope: dict[str, object]) -> SimpleNamespace:
    """The functions and methods `names` of a file, defined in `scope` and nothing else of that file."""
    tree = ast.parse(source.read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in found:
        node.decorator_list = []
    exec(compile(ast.Module(found, []), str(source), "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


class Layer(SimpleNamespace):
    """What the packers store their tensors in."""

    def register_buffer(self, name: str, tensor: torch.Tensor) -> None:
        setattr(self, name, tensor)


def linear_of(codes: np.ndarray, zeros: np.ndarray) -> SimpleNamespace:
    """A layer whose weight has these codes at scale 1."""
    weight = codes.astype(np.float32) - np.repeat(zeros.astype(np.float32), GROUP, axis=1)
    data = SimpleNamespace(data=torch.from_numpy(weight), device=torch.device("cpu"))
    return SimpleNamespace(weight=data, bias=None, in_features=codes.shape[1], out_features=codes.shape[0])


class Gptqmodel:
    def __init__(self, folder: Path) -> None:
        never = type("Never", (), {})
        scope: dict[str, object] = {
            "t": torch, "torch": torch, "np": np, "math": math, "Optional": list, "PLANAR_BITS": (),
            "nn": SimpleNamespace(Module=object, Embedding=never), "_ConvNd": never, "BaseQuantLinear": Layer,
            "QuantizeConfig": SimpleNamespace, "log": SimpleNamespace(info=SimpleNamespace(once=lambda _: None)),
            "transformers": SimpleNamespace(pytorch_utils=SimpleNamespace(Conv1D=never)),
            "THREADPOOLCTL": SimpleNamespace(threadpool_limits=lambda _: contextlib.nullcontext()),
        }  # fmt: skip
        package = folder / "gptqmodel"
        three_bits = ["_require_int32_words_for_3bit", "_unpack_cols_3bit", "_pack_cols_3bit"]
        shifts = ["unpack_cols", "pack_cols", "_shift_gptq_qzeros", "_revert_gptq_v1_qzeros_correction"]
        cut_functions(package / "utils/model_dequant.py", three_bits + shifts, scope)
        self.to_v1 = cut_functions(package / "utils/model.py", ["convert_gptq_v2_to_v1_format_module"], scope)
        self.packer = cut_functions(package / "nn_modules/qlinear/__init__.py", ["pack_original"], scope)

    def pack(self, codes: np.ndarray, zeros: np.ndarray, bits: int) -> dict[str, np.ndarray]:
        layer = Layer(
            bits=bits, maxq=2**bits - 1, planar=False, pack_dtype_bits=32, pack_factor=32 // bits,
            pack_np_math_dtype=np.uint32, pack_np_dtype=np.int32, pack_dtype=torch.int32,
            g_idx=torch.arange(codes.shape[1]) // GROUP, bias=None, qzero_format=lambda **_: None,
        )  # fmt: skip
        offsets = torch.from_numpy(zeros.astype(np.float32))
        self.packer.pack_original(layer, linear_of(codes, zeros), torch.ones_like(offsets), offsets)
        packed = {"qweight": layer.qweight.numpy(), "qzeros_v2": layer.qzeros.numpy().copy()}
        self.to_v1.convert_gptq_v2_to_v1_format_module(layer, SimpleNamespace(bits=bits, pack_dtype=torch.int32))
        return packed | {"qzeros": layer.qzeros.numpy()}


class Autoawq:
    def __init__(self, folder: Path) -> None:
        scope = {"torch": torch, "get_best_device": lambda: "cpu"}
        self.gemm = cut_functions(folder / "awq/modules/linear/gemm.py", ["from_linear"], scope)

    def pack(self, codes: np.ndarray, zeros: np.ndarray) -> dict[str, np.ndarray]:
        def layer(w_bit: int, group_size: int, in_features: int, *_: object) -> Layer:
            return Layer(w_bit=w_bit, group_size=group_size, in_features=in_features)

        offsets = torch.from_numpy(zeros.astype(np.float32)).T.contiguous()  # (groups, out)
        packed = self.gemm.from_linear(
            layer, linear_of(codes, zeros), 4, GROUP, scales=torch.ones_like(offsets), zeros=offsets
        )
        return {"qweight": packed.qweight.numpy(), "qzeros": packed.qzeros.numpy()}


def quantized(codes: np.ndarray, zeros: np.ndarray, bits: int) -> dict[str, np.ndarray]:
    signed_codes, signed_zeros = (
        torch.from_numpy((unsigned.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)) for unsigned in (codes, zeros)
    )
    return {
        "weight_packed": pack_to_int32(signed_codes[:, :ODD], bits).numpy(),
        "weight_zero_point": pack_to_int32(signed_zeros[:ODD], bits, packed_dim=0).contiguous().numpy(),
    }


def main() -> None:
    sdists = Path(sys.argv[1])
    gptqmodel, autoawq = Gptqmodel(sdists / "gptqmodel-7.7.0"), Autoawq(sdists / "autoawq-0.2.9")
    rng = np.random.default_rng(41)
    arrays: dict[str, np.ndarray] = {}
    for bits in range(1, 9):
        codes = rng.integers(0, 2**bits, (OUT, IN), dtype=np.uint8)
        zeros = rng.integers(1, 2**bits, (OUT, IN // GROUP), dtype=np.uint8)  # gptqmodel's v1 borrows at 0
        arrays |= {f"codes.{bits}": codes, f"zeros.{bits}": zeros}
        arrays |= {f"quantized.{bits}.{name}": words for name, words in quantized(codes, zeros, bits).items()}
        if bits in (2, 3, 4, 8):
            arrays |= {f"gptq.{bits}.{name}": words for name, words in gptqmodel.pack(codes, zeros, bits).items()}
        if bits == 4:
            arrays |= {f"awq.{name}": words for name, words in autoawq.pack(codes, zeros).items()}
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
