"""What may be asked of the hqq method."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quantmill.contract.linears import USUALLY_SKIPPED, ModulePattern

Bits = Literal[1, 2, 3, 4, 5, 6, 8]
GroupSize = Literal[8, 16, 32, 64, 128, 256, -1]
WHOLE = -1  # the group size that stands for whole rows, or columns with axis 0

COMPRESSED_BITS = (4, 8)  # vLLM's kernels for pack-quantized weights with zero points know no other


class ModuleSettings(BaseModel):
    """What a module gets instead of the settings of all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nbits: Bits | None = Field(default=None, description="Bits of a weight; None: as for all.")
    group_size: GroupSize | None = Field(default=None, description="Weights that share a scale; None: as for all.")


class HqqParams(BaseModel):
    """Parameters of the hqq method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nbits: Bits = Field(default=4, description="Bits of a weight; 5 and 6 are stored in 8.")
    group_size: GroupSize = Field(
        default=64, description="Weights that share a scale and a zero; -1: whole rows, or columns with axis 0."
    )
    axis: Literal[0, 1] = Field(
        default=1, description="1: groups run along the rows, as kernels need it; 0: along the columns."
    )
    format: Literal["hqq", "compressed-tensors"] = Field(
        default="hqq",
        description="hqq: for transformers 4 with hqq; compressed-tensors: pack-quantized with zero points, for vLLM "
        "and transformers, 4 or 8 bits.",
    )
    round_zero: bool | None = Field(
        default=None,
        strict=True,
        description="Zeros are whole numbers, at a larger error; only compressed-tensors does unless told to.",
    )
    lp_norm: float = Field(default=0.7, gt=0, le=1, description="p of sum |error|^p, which the solver lowers.")
    beta: float = Field(default=10.0, gt=0, le=1e6, description="How little an error is shrunk in the first round.")
    kappa: float = Field(default=1.01, ge=1, le=10, description="What beta grows by in each round.")
    iters: int = Field(default=20, ge=1, le=1000, description="Most rounds of the solver.")
    compute_dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        default=None, description="Dtype of scales, zeros and products; None: the source's."
    )
    overrides: Mapping[ModulePattern, ModuleSettings] = Field(
        default_factory=dict,
        max_length=256,
        description='Settings by pattern (* ? [abc]) of the module: {"*.down_proj": {"nbits": 8}}. A module that two '
        "patterns give different settings is refused.",
    )
    skip_modules: tuple[ModulePattern, ...] = Field(
        default=USUALLY_SKIPPED,
        max_length=256,
        description="Modules (* ? [abc]) that keep their weights: lm_head, *.down_proj.",
    )
    allow_requantize: bool = Field(
        default=False,
        description="take a source that is itself quantized to integers (gptq, awq, pack-quantized) by what its codes "
        "stand for; FP8 sources are always taken",
    )

    @model_validator(mode="after")
    def _compressed_tensors_has_whole_zeros_along_rows(self) -> Self:
        if self.format == "compressed-tensors":
            if self.axis == 0:
                raise ValueError("axis 0 cannot be stored as compressed-tensors, whose groups run along the rows")
            if self.round_zero is False:
                raise ValueError("compressed-tensors stores zero points as integers; leave round_zero out")
            if self.compute_dtype is not None:
                raise ValueError("compressed-tensors stores scales in the model's dtype; leave compute_dtype out")
            for nbits in (self.nbits, *(each.nbits or self.nbits for each in self.overrides.values())):
                if nbits not in COMPRESSED_BITS:
                    raise ValueError(f"compressed-tensors with zero points has 4 or 8 bits, not {nbits}")
        return self

    @property
    def whole_zeros(self) -> bool:
        """Whether zeros are whole numbers."""
        return self.format == "compressed-tensors" if self.round_zero is None else self.round_zero

    def settings_of(self, module: str) -> tuple[int, int]:
        """nbits and group_size of a module."""
        for pattern, settings in self.overrides.items():
            if fnmatchcase(module, pattern):
                return settings.nbits or self.nbits, settings.group_size or self.group_size
        return self.nbits, self.group_size
