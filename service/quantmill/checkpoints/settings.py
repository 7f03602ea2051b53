"""What a quantized checkpoint says of itself, brought into line with its tensors.

Old files leave settings out, keep them in a file of their own, or say what their tensors contradict: GPTQ's zero points
under the other version's label make every weight wrong by one step. Each defect is named; what is read, and what is
made of it, goes by the tensors. The first quantized module stands for all; the others are checked as they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.strictjson import parse_object, shown
from quantmill.contract.tensors import TensorInfo

QUANTIZATION = "quantization_config"
WORD = 32  # bits

# Files of their own that AutoGPTQ and AutoAWQ kept settings in: the method that they mean, and their names of its keys.
BESIDE: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "quantize_config.json": ("gptq", {}),
    "quant_config.json": ("awq", {"w_bit": "bits", "q_group_size": "group_size"}),
}
# What readers take where a key is missing.
USUAL: Mapping[str, Mapping[str, Any]] = {
    "gptq": {"desc_act": False, "sym": True, "checkpoint_format": "gptq"},
    "awq": {"zero_point": True, "version": "gemm"},
}

Values = Callable[[str], NDArray[Any]]
Mend = tuple[str, Any, str]  # a key, what it should say, the defect


@dataclass(frozen=True)
class First:
    """The first module that has codes: its settings and arrays by their last names. `values` reads one of them."""

    settings: Mapping[str, Any]
    parts: Mapping[str, TensorInfo]
    values: Values


def mended(
    config: Mapping[str, Any], beside: Mapping[str, bytes], tensors: Mapping[str, TensorInfo], values: Values
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """config.json with the settings that the tensors bear out, and what was wrong with those that were there.

    `beside` are the files of `BESIDE` that the folder has, `values` reads a stored array. Raises SourceRejected for
    such a file that cannot be read.
    """
    settings, defects = _settings(config, beside)
    parts = _first_module(tensors)
    method = settings.get("quant_method") if settings is not None else None
    if settings is None or parts is None or not isinstance(method, str) or method not in USUAL:
        return config, ()
    missing = {key: value for key, value in USUAL[method].items() if key not in settings}
    if missing:
        taken = ", ".join(f"{key} {value}" for key, value in missing.items())
        defects.append(f"the settings lack {', '.join(missing)}: taken as {taken}")
    settings |= missing
    for mend in MENDS[method]:
        for key, value, defect in mend(First(settings, parts, values)):
            settings[key] = value
            defects.append(defect)
    return {**config, QUANTIZATION: settings}, tuple(defects)


def _settings(config: Mapping[str, Any], beside: Mapping[str, bytes]) -> tuple[dict[str, Any] | None, list[str]]:
    """The settings of config.json, or of a file of their own where it has none."""
    own = config.get(QUANTIZATION)
    for name, data in beside.items():
        method, names = BESIDE[name]
        try:
            others = {names.get(key, key): value for key, value in parse_object(data).items()}
        except ValueError as error:
            raise SourceRejected(f"{name} cannot be read: {error}.", file=name) from error
        if not isinstance(own, Mapping):
            others.setdefault("quant_method", method)
            return others, [f"config.json has no {QUANTIZATION}: taken from {name}"]
        different = [key for key in ("bits", "group_size", "sym", "desc_act") if others.get(key) != own.get(key)]
        if different:
            return dict(own), [f"{name} says other things than config.json of {', '.join(different)}: not used"]
    return (dict(own), []) if isinstance(own, Mapping) else (None, [])


def _first_module(tensors: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo] | None:
    """Its arrays, where they are whole enough to say something."""
    name = min((name for name in tensors if name.endswith(".qweight")), default=None)
    if name is None:
        return None
    module = name.removesuffix("qweight")
    parts = {name.removeprefix(module): info for name, info in tensors.items() if name.startswith(module)}
    stored = [parts[part] for part in ("qweight", "qzeros", "scales") if part in parts]
    return parts if len(stored) == 3 and all(len(info.shape) == 2 and 0 not in info.shape for info in stored) else None


def _gptq_widths(first: First) -> Iterator[Mend]:
    """bits and group_size as the shapes have them."""
    words, groups = first.parts["qweight"].shape[0], first.parts["scales"].shape[0]
    size = first.settings.get("group_size")
    inputs = groups * size if isinstance(size, int) and size > 0 else 0
    if "g_idx" in first.parts and len(first.parts["g_idx"].shape) == 1:
        inputs = first.parts["g_idx"].shape[0]
    yield from _width(first, words * WORD, inputs)
    yield from _group(first, inputs, groups)


def _awq_widths(first: First) -> Iterator[Mend]:
    outputs, words = first.parts["scales"].shape[1], first.parts["qweight"].shape[1]
    yield from _width(first, words * WORD, outputs)
    yield from _group(first, first.parts["qweight"].shape[0], first.parts["scales"].shape[0])


def _width(first: First, total: int, count: int) -> Iterator[Mend]:
    if count and total % count == 0 and first.settings.get("bits") != total // count:
        yield "bits", total // count, _contradicted(first, "bits", total // count)


def _group(first: First, inputs: int, groups: int) -> Iterator[Mend]:
    if not inputs or inputs % groups:
        return
    size = first.settings.get("group_size")
    if size != inputs // groups and not (size == -1 and groups == 1):
        yield "group_size", inputs // groups, _contradicted(first, "group_size", inputs // groups)


def _contradicted(first: First, key: str, found: object) -> str:
    return f"the settings say {key} {shown(first.settings.get(key))}, the tensors {found}"


def _order(first: First) -> Iterator[Mend]:
    """`desc_act` where the groups of inputs follow each other all the same."""
    if first.settings["desc_act"] is not True or "g_idx" not in first.parts:
        return
    index, groups = first.values(first.parts["g_idx"].name), first.parts["scales"].shape[0]
    if len(index) % groups == 0 and np.array_equal(index, np.arange(len(index)) // (len(index) // groups)):
        yield "desc_act", False, "the settings say desc_act True, the groups of inputs follow each other"


def _zero_points(first: First) -> Iterator[Mend]:
    """The version that symmetric zero points are of: the middle code, or the middle code less one."""
    bits = first.settings.get("bits")
    if first.settings["sym"] is False or not isinstance(bits, int) or bits not in MIDDLES:
        return
    words = {int(word) & 0xFFFFFFFF for word in np.unique(first.values(first.parts["qzeros"].name)[0])}
    version = next((version for version, word in MIDDLES[bits].items() if words == {word}), None)
    if version is None and len(words) > 1:
        yield "sym", False, "the settings say that it is symmetric, its zero points differ: taken as they are"
    elif version is not None and version != first.settings["checkpoint_format"]:
        yield "checkpoint_format", version, _contradicted(first, "checkpoint_format", version)


# A word of zero points in the middle of the codes. Codes of 3 bits straddle words, so theirs are not told apart.
MIDDLES: Mapping[int, Mapping[str, int]] = {
    2: {"gptq": 0x55555555, "gptq_v2": 0xAAAAAAAA},
    4: {"gptq": 0x77777777, "gptq_v2": 0x88888888},
    8: {"gptq": 0x7F7F7F7F, "gptq_v2": 0x80808080},
}
MENDS: Mapping[str, tuple[Callable[[First], Iterator[Mend]], ...]] = {
    "gptq": (_gptq_widths, _order, _zero_points),
    "awq": (_awq_widths,),
}
