"""What is written is read back to the bit, and artifacts that are not whole are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantmill.contract.errors import VerificationFailed
from quantmill_gptq.reader import read

Written = Callable[..., tuple[Path, dict[str, np.ndarray]]]
Q = "model.layers.0.self_attn.q_proj"

VARIANTS: tuple[dict[str, Any], ...] = (
    *({"bits": bits, "group_size": 32} for bits in (2, 3, 4, 8)),
    *({"bits": bits, "group_size": 32, "sym": False, "format": "gptq_v2"} for bits in (2, 3, 4, 8)),
    *({"bits": bits, "group_size": -1, "format": "compressed-tensors"} for bits in (2, 3, 4, 8)),
    *({"bits": bits, "group_size": 32, "sym": False, "format": "compressed-tensors"} for bits in (2, 3, 4, 8)),
    {"group_size": 32, "desc_act": True},
    {"group_size": 32, "lm_head": True, "skip_modules": ("*.o_proj",)},
)


@pytest.mark.parametrize("asked", VARIANTS, ids=lambda asked: "-".join(f"{value}" for value in asked.values()))
def test_what_is_written_is_read_back_to_the_bit(written: Written, asked: dict[str, Any]) -> None:
    folder, expected = written(**asked)

    found = {tensor.name: tensor.values for tensor in read(folder)}

    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_pack_quantized_scales_have_the_model_s_dtype(written: Written, dtype: str) -> None:
    folder, expected = written(dtype, group_size=32, format="compressed-tensors")

    found = {tensor.name: tensor.values for tensor in read(folder)}

    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def change(folder: Path, name: str, to: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = load_file(folder / "model.safetensors")
    arrays[name] = np.ascontiguousarray(to(arrays[name]))
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("part", "to", "found"),
    [
        ("g_idx", lambda each: each[::-1], "other groups"),
        ("g_idx", lambda each: each + 10**6, "other groups"),
        ("g_idx", lambda each: each.astype(np.int64), "not int32"),
        ("g_idx", lambda each: each[:40], "40 inputs in groups of 32"),
        ("qzeros", lambda each: each ^ 1, "zero points of a symmetric range"),
        ("qzeros", lambda each: each[:, :3], "qzeros"),
        ("qweight", lambda each: each[:-1], "qweight"),
        ("scales", lambda each: each[:1], "scales"),
        ("scales", lambda each: each.astype(np.float32), "scales of float32"),
    ],
)
def test_gptq_arrays_that_do_not_fit_are_refused_by_name(
    written: Written, part: str, to: Callable[[np.ndarray], np.ndarray], found: str
) -> None:
    folder, _ = written("F16", group_size=32)
    change(folder, f"{Q}.{part}", to)

    with pytest.raises(VerificationFailed, match=f"{re.escape(Q)}.*{found}"):
        list(read(folder))


@pytest.mark.parametrize(
    ("part", "to", "found"),
    [
        ("weight_shape", lambda each: each * 10**9, "weight_shape"),
        ("weight_shape", lambda each: -each, "weight_shape"),
        ("weight_packed", lambda each: each[:-1], "weight_packed"),
        ("weight_scale", lambda each: each[:, :1], "weight_scale"),
        ("weight_zero_point", lambda each: each[:1], "weight_zero_point"),
    ],
)
def test_packed_arrays_that_do_not_fit_are_refused_by_name(
    written: Written, part: str, to: Callable[[np.ndarray], np.ndarray], found: str
) -> None:
    folder, _ = written("F16", group_size=32, sym=False, format="compressed-tensors")
    change(folder, f"{Q}.{part}", to)

    with pytest.raises(VerificationFailed, match=f"{re.escape(Q)}.*{found}"):
        list(read(folder))


@pytest.mark.parametrize(
    "changed",
    [
        {"quant_method": "awq"},
        {"quant_method": ["gptq"]},
        {"bits": 5},
        {"bits": True},
        {"bits": 10**9},
        {"group_size": 0},
        {"group_size": None},
        {"sym": "yes"},
        {"checkpoint_format": "marlin"},
        {"desc_act": None},
    ],
)
def test_settings_of_no_gptq_are_refused(written: Written, changed: dict[str, Any]) -> None:
    folder, _ = written(group_size=32)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changed
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(VerificationFailed, match="quantization_config"):
        list(read(folder))


def test_a_part_that_is_missing_is_named(written: Written) -> None:
    folder, _ = written("F16", group_size=32)
    arrays = load_file(folder / "model.safetensors")
    del arrays[f"{Q}.scales"]
    save_file(arrays, folder / "model.safetensors")

    with pytest.raises(VerificationFailed, match="qweight, qzeros, g_idx, not qweight, qzeros, scales, g_idx"):
        list(read(folder))
