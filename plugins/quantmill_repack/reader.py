"""Reading repacked folders: the formats' definitions in numpy, and nothing of the packers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from quantmill.contract.model_folder import ModelFolder, read_kept
from quantmill.contract.reading import ReadTensor
from quantmill.contract.stored import stored_weights, values_of

NVFP4 = "nvfp4-pack-quantized"
BY_BLOCKS = ("fp8", "float-quantized")


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """Each stored tensor as float32, in the order of the names. Raises SourceRejected for one that is not whole."""
    with ModelFolder(folder) as artifact:
        weights = stored_weights(artifact.config, artifact.tensors)
        parts = {info.name for weight in weights.values() for info in weight.parts.values()}
        for name in sorted({*weights, *(set(artifact.tensors) - parts)}):
            if names is not None and name not in names:
                continue
            weight = weights.get(name)
            if weight is None:
                yield read_kept(artifact, name)
                continue
            arrays = {part: artifact.values(info.name) for part, info in weight.parts.items()}
            label = "NVFP4" if weight.format == NVFP4 else f"W{weight.bits}{'' if weight.symmetric else '-ASYM'}"
            scheme = "FP8-128x128" if weight.format in BY_BLOCKS and weight.group_size == 0 else label
            yield ReadTensor(name, scheme, weight.nbytes, values_of(weight, arrays))
