"""Reading GPTQ and pack-quantized folders back, without the encoder's code: the formats' definitions in numpy.

GPTQ: `qweight` holds a stream of codes along the inputs of each output, `qzeros` along the outputs of each group; v1
stores a zero point one lower. pack-quantized: both streams hold a signed code plus 2^(bits-1). A stream is little
endian and without gaps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.model_folder import ModelFolder, read_kept
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import FloatArray

GPTQ_PARTS = ("qweight", "qzeros", "scales", "g_idx")
PACKED_PARTS = ("weight_packed", "weight_shape", "weight_scale", "weight_zero_point")
BITS = (2, 3, 4, 8)
CHUNK_VALUES = 1 << 19  # decoded at once
LARGEST_SIDE = 1 << 31


@dataclass(frozen=True)
class Settings:
    """What config.json says about the codes, by either format."""

    method: str
    bits: int
    group_size: int  # -1: a row
    sym: bool
    reordered: bool
    zero_offset: int  # added to a stored zero point

    @property
    def scheme(self) -> str:
        grain = "row" if self.group_size == -1 else f"g{self.group_size}"
        return f"INT{self.bits}-{grain}" + ("" if self.sym else "-asym")

    @property
    def middle(self) -> int:
        """The code that stands for 0 where the range is symmetric."""
        return 1 << (self.bits - 1)


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """Each stored tensor as float32, in the order of the names. Raises VerificationFailed for one that is not whole."""
    with ModelFolder(folder) as artifact:
        settings = _settings(artifact.config)
        for name in sorted(_sources(artifact)):
            if names is None or name in names:
                yield _read(artifact, settings, name)


def _settings(config: Mapping[str, Any]) -> Settings:
    found: Any = config.get("quantization_config")
    try:
        return READ_SETTINGS[found["quant_method"]](found)
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(f"quantization_config is not one of this method: {error!r}") from error


def _of_gptq(found: Mapping[str, Any]) -> Settings:
    offset = {"gptq": 1, "gptq_v2": 0}[found["checkpoint_format"]]
    return _checked("gptq", found["bits"], found["group_size"], found["sym"], found["desc_act"], offset)


def _of_compressed_tensors(found: Mapping[str, Any]) -> Settings:
    weights = found["config_groups"]["group_0"]["weights"]
    group_size = {"channel": -1, "group": weights["group_size"]}[weights["strategy"]]
    return _checked("compressed-tensors", weights["num_bits"], group_size, weights["symmetric"], False, 0)


READ_SETTINGS = {"gptq": _of_gptq, "compressed-tensors": _of_compressed_tensors}


def _checked(method: str, bits: Any, group_size: Any, sym: Any, reordered: Any, offset: int) -> Settings:
    known = type(bits) is int and bits in BITS and type(group_size) is int and (group_size == -1 or group_size > 0)
    if not (known and type(sym) is bool and type(reordered) is bool):
        raise VerificationFailed(f"quantization_config: {bits!r} bits, groups of {group_size!r}, symmetric {sym!r}")
    return Settings(method, bits, group_size, sym, reordered, offset)


def _sources(artifact: ModelFolder) -> set[str]:
    """The names of the source's tensors."""
    modules = set()
    for name in artifact.tensors:
        module, _, part = name.rpartition(".")
        if part in ("qweight", "weight_packed"):
            modules.add(module)
    companions = {f"{module}.{part}" for module in modules for part in (*GPTQ_PARTS, *PACKED_PARTS)}
    return (set(artifact.tensors) - companions) | {f"{module}.weight" for module in modules}


def _read(artifact: ModelFolder, settings: Settings, name: str) -> ReadTensor:
    module = name.removesuffix(".weight")
    stored = [part for part in (*GPTQ_PARTS, *PACKED_PARTS) if f"{module}.{part}" in artifact.tensors]
    if not stored or not name.endswith(".weight"):
        return read_kept(artifact, name)
    if name in artifact.tensors:
        raise VerificationFailed(f"{name} is stored as it is and quantized as well", tensor=name)
    expected = GPTQ_PARTS if settings.method == "gptq" else PACKED_PARTS[: 3 if settings.sym else 4]
    if tuple(stored) != expected:
        raise VerificationFailed(f"{name} is stored as {', '.join(stored)}, not {', '.join(expected)}", tensor=name)
    arrays = [artifact.values(f"{module}.{part}") for part in expected]
    values = (_gptq if settings.method == "gptq" else _packed)(name, settings, *arrays)
    return ReadTensor(name, settings.scheme, sum(array.nbytes for array in arrays), values)


def _gptq(
    name: str,
    settings: Settings,
    qweight: NDArray[Any],
    qzeros: NDArray[Any],
    scales: NDArray[Any],
    g_idx: NDArray[Any],
) -> FloatArray:
    _require(name, all(array.ndim == 2 for array in (qweight, qzeros, scales)) and g_idx.ndim == 1, "dimensions")
    _require(name, {qweight.dtype, qzeros.dtype, g_idx.dtype} == {np.dtype(np.int32)}, "words that are not int32")
    _require(name, scales.dtype == np.float16, f"scales of {scales.dtype}")
    inputs, outputs, groups = g_idx.size, scales.shape[1], _groups(name, settings, g_idx.size)
    _require(name, qweight.shape == (inputs * settings.bits // 32, outputs), f"qweight {qweight.shape}")
    _require(name, qzeros.shape == (groups, outputs * settings.bits // 32), f"qzeros {qzeros.shape}")
    _require(name, scales.shape == (groups, outputs), f"scales {scales.shape} for {groups} groups")
    _check_groups(name, settings, g_idx)
    zeros = (_codes(qzeros, settings.bits, outputs) + settings.zero_offset) & ((1 << settings.bits) - 1)
    _require(name, not settings.sym or bool(np.all(zeros == settings.middle)), "zero points of a symmetric range")
    return _decoded(qweight.T, settings.bits, zeros.T, scales.T, g_idx)


def _packed(
    name: str,
    settings: Settings,
    packed: NDArray[Any],
    shape: NDArray[Any],
    scale: NDArray[Any],
    zero_point: NDArray[Any] | None = None,
) -> FloatArray:
    _require(name, shape.shape == (2,) and shape.dtype == np.int64, f"weight_shape {shape.shape} of {shape.dtype}")
    outputs, inputs = (int(size) for size in shape)
    _require(name, 0 < outputs < LARGEST_SIDE and 0 < inputs < LARGEST_SIDE, f"weight_shape {outputs} x {inputs}")
    groups = _groups(name, settings, inputs)
    _require(name, packed.dtype == np.int32, f"weight_packed of {packed.dtype}")
    _require(name, packed.shape == (outputs, -(-inputs * settings.bits // 32)), f"weight_packed {packed.shape}")
    _require(name, scale.shape == (outputs, groups), f"weight_scale {scale.shape} for {groups} groups")
    zeros = np.full((outputs, groups), settings.middle)
    if zero_point is not None:
        words = (-(-outputs * settings.bits // 32), groups)
        _require(name, zero_point.dtype == np.int32, f"weight_zero_point of {zero_point.dtype}")
        _require(name, zero_point.shape == words, f"weight_zero_point {zero_point.shape}")
        zeros = _codes(zero_point.T, settings.bits, outputs).T
    g_idx = np.arange(inputs) // (inputs if settings.group_size == -1 else settings.group_size)
    return _decoded(packed, settings.bits, zeros, scale, g_idx)


def _groups(name: str, settings: Settings, inputs: int) -> int:
    size = inputs if settings.group_size == -1 else settings.group_size
    _require(name, inputs > 0 and inputs % size == 0, f"{inputs} inputs in groups of {settings.group_size}")
    return inputs // size


def _check_groups(name: str, settings: Settings, g_idx: NDArray[Any]) -> None:
    """Readers that are not told of another order take neighbours for a group and do not look at g_idx."""
    size = g_idx.size if settings.group_size == -1 else settings.group_size
    plain = np.arange(g_idx.size) // size
    found = np.sort(g_idx) if settings.reordered else g_idx
    _require(name, bool(np.array_equal(found, plain)), "a g_idx of other groups than config.json says")


def _codes(words: NDArray[Any], bits: int, count: int) -> NDArray[np.int64]:
    """`count` codes of each row of words, int32 (rows, ceil(count * bits / 32))."""
    first = np.arange(count) * bits
    padded = np.pad(np.ascontiguousarray(words).view(np.uint32), ((0, 0), (0, 1))).astype(np.int64)
    pairs = padded[:, first // 32] | padded[:, first // 32 + 1] << 32
    return (pairs >> first % 32) & ((1 << bits) - 1)


def _decoded(
    words: NDArray[Any], bits: int, zeros: NDArray[Any], scales: NDArray[Any], g_idx: NDArray[Any]
) -> FloatArray:
    """scale * (code - zero) of words (out, words), zeros and scales (out, groups); a few rows at a time."""
    values = np.empty((len(words), len(g_idx)), np.float32)
    step = max(1, CHUNK_VALUES // len(g_idx))
    for start in range(0, len(words), step):
        rows = slice(start, start + step)
        steps = _codes(words[rows], bits, len(g_idx)) - zeros[rows][:, g_idx]
        np.multiply(steps.astype(np.float32), scales[rows].astype(np.float32)[:, g_idx], out=values[rows])
    return values


def _require(name: str, holds: bool, found: str) -> None:
    if not holds:
        raise VerificationFailed(f"the arrays of {name} do not fit: {found}", tensor=name)
