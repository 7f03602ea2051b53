"""What `inspect` states of a model folder beside its weights: settings, what is listed as kept, the model's own files.

It shares no code with what writes them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from quantmill.contract.model_folder import PLACES, QUANTIZATION, ModelFolder
from quantmill.contract.reading import Observation
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan

Value = str | int | float | bool | None

BEYOND_WEIGHTS = ("kv_cache_scheme", "sparsity_config", "transform_config")  # would make the consumer expect more


def keys_observed(
    found: Mapping[str, Any], expected: Mapping[str, Value], check: str = QUANTIZATION, prefix: str = ""
) -> Iterator[Observation]:
    """Each of the keys has its value; an observation is called `prefix` and the key."""
    for key, value in expected.items():
        yield Observation(check, f"{prefix}{key}", found.get(key), value)


def compressed_tensors_observed(
    found: Mapping[str, Any], format_: str, absent: Collection[str] = BEYOND_WEIGHTS
) -> Iterator[Observation]:
    """What a compressed-tensors folder's settings say of all modules."""
    head = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "format": format_}
    yield from keys_observed(found, head)
    for key in absent:
        yield Observation(QUANTIZATION, key, str(found.get(key) or None), "None")


def one_group_observed(found: Mapping[str, Any], format_: str, weights: Mapping[str, Value]) -> Iterator[Observation]:
    """One group of settings for all Linears, whose weights have the values of `weights` and whose inputs none."""
    yield from all_linears_observed(found)
    yield from group_observed(found.get("config_groups", {}).get("group_0", {}), format_, weights)


def all_linears_observed(found: Mapping[str, Any]) -> Iterator[Observation]:
    """There is one group of settings, and it is for all Linears."""
    groups = found.get("config_groups", {})
    yield Observation(QUANTIZATION, "config_groups", len(groups), 1)
    yield Observation(QUANTIZATION, "targets", str(groups.get("group_0", {}).get("targets")), "['Linear']")


def group_observed(
    group: Mapping[str, Any],
    format_: str,
    weights: Mapping[str, Value],
    check: str = QUANTIZATION,
    prefix: str = "",
) -> Iterator[Observation]:
    """A group's weights have the values of `weights`, and activations have none."""
    yield from keys_observed(group.get("weights", {}), weights, check, f"{prefix}weights.")
    yield Observation(check, f"{prefix}the group's format", group.get("format", format_), format_)
    for key in ("input_activations", "output_activations"):
        yield Observation(check, f"{prefix}{key}", str(group.get(key)), "None")


def integers_expected(
    bits: int, group_size: int | None, *, symmetric: bool, actorder: str | None = None
) -> Mapping[str, Value]:
    """compressed-tensors' arguments of integers in groups along the rows, or (None) with a scale for each row."""
    return {
        "num_bits": bits,
        "type": "int",
        "strategy": "channel" if group_size is None else "group",
        "group_size": group_size,
        "symmetric": symmetric,
        "dynamic": False,
        "actorder": actorder,
    }


def scales_observed(
    artifact: ModelFolder, plan: Plan, part: str = "weight_scale", dtype: str | None = None
) -> Iterator[Observation]:
    """Scales are in `dtype`, or in the source's, in which consumers compute; shapes are the reader's business."""
    for row in plan.tensors:
        if row.action == "quantize":
            name = f"{row.name.removesuffix('.weight')}.{part}"
            stored = artifact.tensors[name].dtype if name in artifact.tensors else None
            yield Observation("stored_arrays", name, stored, dtype or row.source_dtype)


def kept_observed(
    listed: Collection[str] | None,
    plan: Plan,
    index: ModelIndex,
    called: Callable[[TensorPlan], str] = lambda row: row.name,
) -> Iterator[Observation]:
    """Each matrix that is not quantized must be listed, or the consumer would look for its codes and scales.

    `called` says what a tensor's name is in the files.
    """
    for row in plan.tensors:
        if row.name.endswith(".weight") and len(row.shape) == 2:
            yield kept_module_observed(called(row).removesuffix(".weight"), listed, row.action == "keep")
    for name in index.tied:
        yield kept_module_observed(name.removesuffix(".weight"), listed, True)


def kept_module_observed(module: str, listed: Collection[str] | None, kept: bool) -> Observation:
    """A module is in the list where it is `kept`, and only there."""
    return Observation("kept_modules", module, module in (listed or ()), kept)


def excluded_observed(settings: Mapping[str, Any], plan: Plan, *, listed: bool) -> Iterator[Observation]:
    """Each matrix of a block must be told apart by GPTQ's or AWQ's settings, or a consumer would look for the wrong
    arrays: the kept ones in `dynamic`, and with `listed` the others in `modules_in_block_to_quantize`."""
    dynamic = settings.get("dynamic") or {}
    patterns = [key[2:] for key in dynamic if key.startswith("-:")]
    for key in sorted(key for key in dynamic if not key.startswith("-:")):  # settings of its own for a module
        yield Observation("dynamic", key, str(dynamic[key]), None)
    names = settings.get("modules_in_block_to_quantize")
    quantized = None if names is None else {name for group in names for name in group}
    for row in plan.tensors:
        module = row.name.removesuffix(".weight")
        if module == row.name or len(row.shape) != 2 or not re.search(r"\.\d+\.", module):
            continue
        kept = row.action == "keep"
        yield Observation("dynamic", module, any(re.match(pattern, module) for pattern in patterns), kept)
        if listed and (kept or quantized is not None):
            yield Observation("modules_in_block_to_quantize", module, module in (quantized or ()), not kept)


def config_observed(artifact: ModelFolder, index: ModelIndex) -> Iterator[Observation]:
    """Each of the model's own settings, compared as JSON; the quantization's are the method's business."""
    keys = {*artifact.config, *index.config} - {QUANTIZATION, *PLACES}
    for key in sorted(keys):
        yield Observation("config", key, _text(artifact.config, key), _text(index.config, key))
    for key in PLACES:
        yield Observation("config", key, _text(artifact.config, key), None)


def carried_observed(folder: Path, index: ModelIndex) -> Iterator[Observation]:
    """Each file that belongs to the model, the tokenizer's among them: the source's bytes, by their sha256."""
    for name, source in index.files.items():
        found = _sha256(folder / name) if (folder / name).is_file() else None
        yield Observation("carried_files", name, found, _sha256(source))


def _text(config: Mapping[str, Any], key: str) -> str | None:
    return json.dumps(config[key], sort_keys=True) if key in config else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
