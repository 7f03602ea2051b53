"""What may be asked of the repack method."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Target = Literal["pack-quantized", "gptq", "awq", "fp8", "float-quantized", "nvfp4-pack-quantized"]


class RepackParams(BaseModel):
    """Parameters of the repack method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Target = Field(
        description="layout of the result: compressed-tensors' pack-quantized, (blocks of FP8) float-quantized or "
        "(NVFP4, of a GGUF file too) nvfp4-pack-quantized, gptq, awq (GEMM), or fp8 as DeepSeek stores it",
    )
