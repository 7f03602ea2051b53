"""Small quantized checkpoints, in the layouts that others write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantmill_kernels as kernels
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.linears import linears
from quantmill.contract.synthetic import SyntheticLlama

MODEL = SyntheticLlama(hidden=256, ffn=384, heads=4, kv_heads=2, blocks=1, vocab=301, dtype="F16")
GROUP = 64

Arrays = dict[str, np.ndarray]
Make = Callable[[tuple[int, ...], np.random.Generator], tuple[Arrays, np.ndarray]]


def integers(shape, bits, random, symmetric):
    """Codes, zeros, scales, and the values that they stand for."""
    out, cols = shape
    codes = random.integers(0, 1 << bits, shape, np.uint8)
    zeros = np.full((out, cols // GROUP), 1 << (bits - 1), np.uint8)
    if not symmetric:
        zeros = random.integers(1, 1 << bits, zeros.shape, np.uint8)
    scales = random.uniform(0.001, 0.01, zeros.shape).astype(np.float16)
    values = (codes.astype(np.float32) - np.repeat(zeros, GROUP, 1)) * np.repeat(scales.astype(np.float32), GROUP, 1)
    return codes, zeros, scales, values


def gptq(bits=4, symmetric=True, version="gptq"):
    def make(shape, random):
        codes, zeros, scales, values = integers(shape, bits, random, symmetric)
        arrays = {
            "qweight": kernels.pack_gptq(codes, bits),
            "qzeros": kernels.pack_gptq_zeros(zeros, bits, format=version),
            "scales": np.ascontiguousarray(scales.T),
            "g_idx": (np.arange(shape[1]) // GROUP).astype(np.int32),
        }
        return arrays, values

    settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": False, "sym": symmetric}
    return make, {**settings, "checkpoint_format": version}


def awq():
    def make(shape, random):
        codes, zeros, scales, values = integers(shape, 4, random, symmetric=False)
        arrays = {
            "qweight": kernels.pack_awq(codes),
            "qzeros": kernels.pack_awq(zeros),
            "scales": np.ascontiguousarray(scales.T),
        }
        return arrays, values

    return make, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}


def in_any_order(bits=4, version="gptq"):
    """GPTQ with activation order: inputs of a group are anywhere."""

    def make(shape, random):
        codes, zeros, scales, _ = integers(shape, bits, random, symmetric=True)
        groups = random.permutation(np.arange(shape[1]) // GROUP).astype(np.int32)
        arrays = {
            "qweight": kernels.pack_gptq(codes, bits),
            "qzeros": kernels.pack_gptq_zeros(zeros, bits, format=version),
            "scales": np.ascontiguousarray(scales.T),
            "g_idx": groups,
        }
        return arrays, (codes.astype(np.float32) - zeros[:, groups]) * scales.astype(np.float32)[:, groups]

    _, settings = gptq(bits, version=version)
    return make, {**settings, "desc_act": True}


def packed_in_any_order(symmetric=True):
    """pack-quantized with weight_g_idx, as compressed-tensors wrote it before 0.19."""

    def make(shape, random):
        codes, zeros, scales, _ = integers(shape, 4, random, symmetric)
        groups = random.permutation(np.arange(shape[1]) // GROUP).astype(np.int32)
        arrays = {
            "weight_packed": kernels.pack_quantized(codes, 4),
            "weight_scale": scales,
            "weight_shape": np.array(shape, np.int64),
            "weight_g_idx": groups,
        }
        if not symmetric:
            arrays["weight_zero_point"] = kernels.pack_quantized_zeros(zeros, 4)
        return arrays, (codes.astype(np.float32) - zeros[:, groups]) * scales.astype(np.float32)[:, groups]

    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": GROUP}
    group = {"targets": ["Linear"], "weights": {**weights, "actorder": "group"}}
    return make, {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}


@pytest.fixture(scope="session")
def unquantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("unquantized") / "model")


def write_quantized(
    plain: Path, folder: Path, layout: tuple[Make, dict[str, Any]], kept: str = ""
) -> dict[str, np.ndarray]:
    """Write `plain` with all Linears but `kept` quantized; gives what their arrays stand for."""
    make, settings = layout
    random = np.random.default_rng(0)
    arrays, values = {}, {}
    with open_checkpoint(plain) as source:
        found = [name for name in linears(source.index) if name not in ("lm_head.weight", f"{kept}.weight")]
        for name, info in source.index.tensors.items():
            if name in found:
                parts, values[name] = make(info.shape, random)
                arrays |= {f"{name.removesuffix('.weight')}.{part}": array for part, array in parts.items()}
            else:
                arrays[name] = np.array(source.tensor(name).values)
    folder.mkdir()
    for path in plain.iterdir():
        if path.suffix == ".json" and "safetensors" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return values


@pytest.fixture
def quantized(unquantized: Path, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, np.ndarray]]]:
    """Writes a checkpoint whose Linears but `kept` are quantized; gives its folder and what their arrays stand for."""

    def write(layout: tuple[Make, dict[str, Any]], kept: str = "") -> tuple[Path, dict[str, np.ndarray]]:
        return tmp_path / "source", write_quantized(unquantized, tmp_path / "source", layout, kept)

    return write
