"""What may be asked of the gguf method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from quantmill.contract.inputs import InputFile

FileType = Literal[
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
    "Q2_K_S",
    "TQ2_0",
    "TQ1_0",
    "MXFP4_MOE",
]

TypeName = Literal[
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K",
    "Q5_1",
    "Q5_0",
    "Q4_K",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
    "Q3_K",
    "Q2_K",
    "TQ2_0",
    "TQ1_0",
]

GeneralKey = Literal[
    "name",
    "author",
    "organization",
    "version",
    "description",
    "license",
    "license.name",
    "license.link",
    "source.url",
    "source.repo_url",
    "base_model.0.name",
    "base_model.0.organization",
    "base_model.0.repo_url",
]
GeneralText = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")]

Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*?\[\]!-]{1,200}$")]


BUDGET = "budget"
CODES_KEPT = "NVFP4"
TARGETS = ("target_bpw", "target_size_mb")


class GgufParams(BaseModel):
    """Parameters of the gguf method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal[FileType, "budget", "NVFP4"] = Field(
        default="Q4_K_M",
        description="File type, by llama-quantize's name: a mix of tensor types. budget, the default beside a target: "
        "the types of which the measured weights lose least. NVFP4 keeps the codes of a checkpoint that is in NVFP4.",
    )
    target_bpw: float | None = Field(
        default=None, gt=0, le=32, description="Budget: bits per weight over all tensors of the file, at most."
    )
    target_size_mb: float | None = Field(
        default=None, gt=0, le=1e7, description="Budget: MB (10^6 bytes) of the file, at most."
    )
    pure: bool = Field(default=False, strict=True, description="Every matrix gets the mix's main type.")
    imatrix: Literal["none", "auto"] | InputFile = Field(
        default="none",
        description="Importance matrix: a file of llama-imatrix (GGUF or .dat), none, or auto to compute one from the "
        "calibration text.",
    )
    awq: bool = Field(
        default=False,
        strict=True,
        description="Multiply columns by scales from the calibration text before they are quantized, and divide what "
        "stands before them (AWQ). The file is a plain GGUF.",
    )
    output_type: TypeName | None = Field(
        default=None, description="Type of the output matrix, or of the embedding where it serves as one."
    )
    token_embedding_type: TypeName | None = Field(default=None, description="Type of the token embedding.")
    overrides: Mapping[Pattern, TypeName] = Field(
        default_factory=dict,
        max_length=256,
        description="Tensor type by pattern (* ? [abc]) of the GGUF name or the source's: "
        '{"blk.*.ffn_down.weight": "Q6_K"}. A tensor that two patterns give different types is refused.',
    )
    allow_requantize: bool = Field(
        default=False,
        strict=True,
        description="Take a source that is itself quantized (gptq, awq, pack-quantized, GGUF below Q8_0) by what its "
        "codes stand for; FP8 and Q8_0 sources are always taken.",
    )
    split_max_size_mb: float | None = Field(
        default=None, gt=0, le=1e7, description="Files of at most so many MB (10^6 bytes) of tensors; else one file."
    )
    general: Mapping[GeneralKey, GeneralText] = Field(
        default_factory=dict,
        description="What the file says of the model under general.*: name, license, source.repo_url, ... What is not "
        "given here comes from the front matter of the checkpoint's README.md.",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_target_is_a_budget(cls, values: Any) -> Any:
        """A target without a type means the type that targets are for."""
        if not isinstance(values, dict) or "type" in values:
            return values
        asked = any(values.get(name) is not None for name in TARGETS)
        return {**values, "type": BUDGET} if asked else values

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        targets = [name for name in TARGETS if getattr(self, name) is not None]
        if self.type == BUDGET and len(targets) != 1:
            raise ValueError("type budget takes one of target_bpw and target_size_mb")
        if targets and self.type != BUDGET:
            raise ValueError(f"{targets[0]} goes with type budget, which chooses the types, not with {self.type}")
        if self.awq and self.type == BUDGET:
            raise ValueError("type budget measures weights as they are; awq goes with a file type")
        if self.pure and self.type == BUDGET:
            raise ValueError("pure gives every matrix one type, and type budget chooses a type for each")
        if self.type == CODES_KEPT and (self.pure or self.awq or self.imatrix != "none"):
            raise ValueError("type NVFP4 encodes no matrix: pure, awq and imatrix go with other types")
        return self

    @property
    def label(self) -> str:
        """What the files are called by: the file type, or the budget."""
        if self.type != BUDGET:
            return self.type
        return f"{self.target_bpw:g}bpw" if self.target_bpw is not None else f"{self.target_size_mb:g}MB"
