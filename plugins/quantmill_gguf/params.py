"""What may be asked of the gguf method."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FileType = Literal["F16", "Q8_0", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"]


class GgufParams(BaseModel):
    """Parameters of the gguf method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: FileType = Field(default="Q4_K_M", description="File type, by llama-quantize's name: a mix of tensor types.")
