"""What may be asked of the fp8 method."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quantmill.contract.linears import USUALLY_SKIPPED, ModulePattern

SchemeName = Literal[
    "FP8_DYNAMIC",
    "FP8",
    "FP8_BLOCK",
    "FP8_NATIVE",
    "FP8A16",
    "MXFP8",
    "MXFP8A16",
    "NVFP4A16",
    "MXFP4A16",
]


class Fp8Params(BaseModel):
    """Parameters of the fp8 method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: SchemeName = Field(
        default="FP8_DYNAMIC",
        description="compressed-tensors' name. FP8_DYNAMIC: E4M3 by rows, activations by tokens; FP8: E4M3, "
        "activations by the scale that calibration gives; FP8_BLOCK: E4M3 in "
        "128x128 blocks; FP8_NATIVE: the same as DeepSeek stores it (quant_method fp8); FP8A16: E4M3 by rows, "
        "activations as they are; MXFP8, NVFP4A16, MXFP4A16: 8 or 4 bits in groups of 32, 16 and 32.",
    )
    strategy: Literal["channel", "tensor"] = Field(
        default="channel",
        description="FP8: what shares a scale of weights. channel: a row; tensor: all, and the modules of one product.",
    )
    percentile: float = Field(
        default=100.0,
        ge=90,
        le=100,
        description="FP8 and kv_cache_scheme: percent of the magnitudes that a static scale covers; 100: up to the "
        "largest.",
    )
    kv_cache_scheme: Literal["FP8"] | None = Field(
        default=None,
        description="FP8: keys and values are cached in E4M3, by one scale each for an attention, which calibration "
        "gives.",
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
    def _only_static_scales_have_settings(self) -> Self:
        for name, idle in (
            ("strategy", self.strategy == "channel"),
            ("percentile", self.percentile == 100 or self.kv_cache_scheme is not None),
        ):
            if self.scheme != "FP8" and not idle:
                raise ValueError(f"{name} is for scheme=FP8; {self.scheme} has no static scales of activations")
        return self

    @model_validator(mode="after")
    def _the_native_layout_says_nothing_of_caches(self) -> Self:
        if self.scheme == "FP8_NATIVE" and self.kv_cache_scheme is not None:
            raise ValueError("kv_cache_scheme is compressed-tensors'; FP8_NATIVE has none, FP8_BLOCK has")
        return self
