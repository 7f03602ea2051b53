"""What may be asked of the gptq method."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quantmill.contract.linears import ModulePattern

Format = Literal["gptq", "gptq_v2", "compressed-tensors"]


class GptqParams(BaseModel):
    """Parameters of the gptq method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: Literal[2, 3, 4, 8] = Field(default=4, description="Bits of a code.")
    group_size: Literal[-1, 32, 64, 128] = Field(
        default=128, description="Inputs that share a scale and a zero point; -1: a whole row."
    )
    sym: bool = Field(default=True, strict=True, description="Ranges as wide on both sides of 0; no zero points.")
    desc_act: bool = Field(
        default=False,
        strict=True,
        description="Solve the inputs with the largest activations first. Groups are formed in that order, which few "
        "programs still load, unless static_groups.",
    )
    static_groups: bool | None = Field(
        default=None,
        strict=True,
        description="Find the scales of all groups before the first code is chosen; then any order leaves groups where "
        "they are. On unless desc_act.",
    )
    act_group_aware: bool | None = Field(
        default=None,
        strict=True,
        description="Solve the largest activations first, as far as groups stay where they are: within groups, and "
        "groups by their largest one, unless static_groups. On unless desc_act.",
    )
    damp_percent: float = Field(
        default=0.05, gt=0, lt=1, strict=True, description="Share of the mean of diag(H) that is added to diag(H)."
    )
    damp_auto_increment: float = Field(
        default=0.01, gt=0, lt=1, strict=True, description="Added to damp_percent while H has no Cholesky factor."
    )
    mse: float = Field(
        default=2.4,
        ge=0,
        le=8,
        strict=True,
        description="Try narrower ranges than min to max for the least sum of |error|^mse; 0: no search.",
    )
    true_sequential: bool | None = Field(
        default=None,
        strict=True,
        description="Within a block, calibrate each layer behind the quantized layers before it. On unless "
        "predecessors=source.",
    )
    predecessors: Literal["quantized", "source"] = Field(
        default="quantized",
        description="Calibrate blocks behind quantized blocks, or behind the source's, whose statistics other jobs "
        "can use too.",
    )
    lm_head: bool = Field(default=False, strict=True, description="Quantize the output head, unless it is tied.")
    format: Format = Field(
        default="gptq",
        description="gptq: zero points stored one lower, what every program loads; gptq_v2: as they are; "
        "compressed-tensors: pack-quantized.",
    )
    skip_modules: tuple[ModulePattern, ...] = Field(
        default=(), max_length=256, description="Modules (* ? [abc]) that keep their weights: *.down_proj."
    )

    @model_validator(mode="after")
    def _a_consumer_can_load_it(self) -> Self:
        if self.format == "gptq" and not self.sym:
            raise ValueError(
                "sym=false: format gptq stores zero points one lower and cannot hold 0, the zero point of a group "
                "without negative weights; use format=gptq_v2 or compressed-tensors"
            )
        if self.format == "compressed-tensors" and self.reorders_groups:
            raise ValueError(
                "desc_act: compressed-tensors has no groups in another order than the inputs'; add static_groups=true, "
                "or use act_group_aware"
            )
        if self.desc_act and self.act_group_aware:
            raise ValueError("desc_act and act_group_aware are two orders; choose one")
        if self.predecessors == "source" and self.true_sequential:
            raise ValueError("true_sequential=true calibrates behind quantized layers; predecessors=source does not")
        return self

    @property
    def reorders_groups(self) -> bool:
        """Whether a group's inputs are not neighbours in the file. One group for a row has no order."""
        return self.desc_act and not self.finds_scales_first and self.group_size != -1

    @property
    def finds_scales_first(self) -> bool:
        """Whether the scales of all groups are found before the first code."""
        return not self.desc_act if self.static_groups is None else self.static_groups

    @property
    def sequential(self) -> bool:
        """Whether layers of a block are calibrated behind the quantized ones before."""
        return self.predecessors == "quantized" and self.true_sequential is not False

    @property
    def order(self) -> Literal["descending", "within_groups", "checkpoint"]:
        """The order in which inputs are solved."""
        if not self.desc_act and self.act_group_aware is False:
            return "checkpoint"
        return "descending" if self.desc_act or self.finds_scales_first else "within_groups"
