"""Reading AWQ and pack-quantized folders back: the formats' definitions in numpy, and nothing of the packers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.model_folder import ModelFolder, read_kept
from quantmill.contract.reading import ReadTensor
from quantmill.contract.stored import stored_weights, values_of
from quantmill.contract.tensors import StoredWeight


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """Each stored tensor as float32, in the order of the names: norms and Linears as folds have changed them.

    Raises SourceRejected or VerificationFailed for one that is not whole.
    """
    with ModelFolder(folder) as artifact:
        weights = stored_weights(artifact.config, artifact.tensors)
        group_size = _group_size(artifact.config)
        parts = {info.name for weight in weights.values() for info in weight.parts.values()}
        _check_alone(set(artifact.tensors) - parts, weights)
        for name in sorted({*weights, *(set(artifact.tensors) - parts)}):
            if names is not None and name not in names:
                continue
            if name not in weights:
                yield read_kept(artifact, name)
                continue
            weight = weights[name]
            arrays = {part: artifact.values(info.name) for part, info in weight.parts.items()}
            yield ReadTensor(name, _scheme(name, weight, group_size), weight.nbytes, values_of(weight, arrays))


def _group_size(config: Mapping[str, Any]) -> int:
    """What config.json says it is; -1 for whole rows."""
    found: Any = config.get("quantization_config")
    try:
        if found["quant_method"] == "awq":
            return int(found["group_size"])
        weights = found["config_groups"]["group_0"]["weights"]
        return int({"channel": -1, "group": weights["group_size"]}[weights["strategy"]])
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationFailed(f"quantization_config is not one of this method: {error!r}") from error


def _check_alone(others: Collection[str], weights: Mapping[str, StoredWeight]) -> None:
    """A module's arrays are all of one layout."""
    for name in others:
        module, _, part = name.rpartition(".")
        if f"{module}.weight" in weights and part != "bias":
            raise VerificationFailed(f"{name} is stored beside the quantized arrays of {module}", tensor=name)


def _scheme(name: str, weight: StoredWeight, group_size: int) -> str:
    stored = weight.shape[1] if group_size == -1 else group_size
    if stored != weight.group_size:
        raise VerificationFailed(
            f"{name} is stored in groups of {weight.group_size}, config.json says {group_size}", tensor=name
        )
    grain = "row" if group_size == -1 else f"g{group_size}"
    return f"INT{weight.bits}-{grain}{'' if weight.symmetric else '-asym'}"
