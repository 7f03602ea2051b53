"""What may be asked of the awq method."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quantmill.contract.linears import ModulePattern

Format = Literal["gemm", "compressed-tensors"]


class AwqParams(BaseModel):
    """Parameters of the awq method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: Literal[3, 4, 8] = Field(default=4, description="Bits of a code; 3 and 8 in compressed-tensors only.")
    group_size: Literal[-1, 32, 64, 128] = Field(
        default=128, description="Inputs that share a scale and a zero point; -1: a whole row."
    )
    zero_point: bool = Field(
        default=True,
        strict=True,
        description="Ranges from the least to the largest weight; without, as wide on both sides of 0, in "
        "compressed-tensors only.",
    )
    duo_scaling: bool | Literal["both"] = Field(
        default=True, description="Scale by activations over weights, or by activations alone, or try both."
    )
    n_grid: int = Field(default=20, ge=1, le=100, strict=True, description="Ratios of scales, and steps of clipping.")
    clip: bool = Field(
        default=True, strict=True, description="Try narrower ranges too, for all Linears but those of queries and keys."
    )
    predecessors: Literal["quantized", "source"] = Field(
        default="source",
        description="Calibrate blocks behind those of the source, whose statistics other jobs can use too, or behind "
        "quantized ones.",
    )
    format: Format = Field(default="gemm", description="AutoAWQ's GEMM layout, or compressed-tensors' pack-quantized.")
    skip_modules: tuple[ModulePattern, ...] = Field(
        default=(), max_length=256, description="Modules (* ? [abc]) that keep their weights: *.down_proj."
    )

    @model_validator(mode="after")
    def _a_consumer_can_load_it(self) -> Self:
        if self.format == "gemm" and self.bits != 4:
            raise ValueError(f"bits={self.bits}: format gemm holds 4 bits; use format=compressed-tensors")
        if self.format == "gemm" and not self.zero_point:
            raise ValueError(
                "zero_point=false: format gemm stores zero points always and its kernels read them, so nothing is "
                "gained; use format=compressed-tensors"
            )
        return self
