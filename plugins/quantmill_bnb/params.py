"""What may be asked of the bnb method."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quantmill.contract.linears import USUALLY_SKIPPED, ModulePattern

FloatType = Literal["bfloat16", "float16", "float32"]


class BnbParams(BaseModel):
    """Parameters of the bnb method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quant_type: Literal["nf4", "fp4", "int8"] = Field(
        default="nf4", description="nf4 and fp4: 4 bits in blocks; int8: LLM.int8, one scale per row."
    )
    double_quant: bool | None = Field(
        default=None,
        strict=True,
        description="Store the absmax in 8 bits (0.37 bits per weight less); nf4 and fp4 do unless told not to.",
    )
    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = Field(
        default=64, description="Values that share an absmax; nf4 and fp4 only."
    )
    compute_dtype: FloatType = Field(default="bfloat16", description="What bitsandbytes multiplies in.")
    quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] = Field(
        default="uint8",
        description="Dtype that the 4-bit codes are stored under; other than uint8 for FSDP, which shards floats only.",
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
    def _int8_has_no_blocks(self) -> Self:
        if self.quant_type == "int8":
            for name, idle in (("double_quant", not self.double_quant), ("block_size", self.block_size == 64)):
                if not idle:
                    raise ValueError(f"{name} is for nf4 and fp4; int8 has one scale per row, stored as float32")
            if self.quant_storage != "uint8":
                raise ValueError("quant_storage is for nf4 and fp4; int8 is stored as int8")
            if self.compute_dtype == "float32":
                raise ValueError(
                    "compute_dtype float32 is for nf4 and fp4; LLM.int8 casts what it multiplies to float16"
                )
        return self

    @property
    def doubles(self) -> bool:
        """Whether the absmax of the blocks are stored in 8 bits."""
        return self.quant_type != "int8" and self.double_quant is not False
