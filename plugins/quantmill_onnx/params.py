"""What may be asked of the onnx method."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quantmill.contract import InputPath
from quantmill_onnx.versions import LATEST, RUNTIMES, RuntimeVersion

NodePattern = Annotated[str, Field(min_length=1, max_length=1024)]
BlockSize = Literal[16, 32, 64, 128, 256]


GATE = r"^(cosine|pooled)\.(mean|min) *>= *(0?\.[0-9]{1,9})$"  # measure, statistic, limit; as JSON Schema has patterns
GateText = Annotated[str, Field(pattern=GATE)]


def _named(version: Any) -> Any:
    """A version's name for its number, as which `--set runtime=1.20` is read: there is no 1.2."""
    return next((name for name in RUNTIMES if isinstance(version, float) and version == float(name)), version)


class OnnxParams(BaseModel):
    """Parameters of the onnx method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["dynamic", "static", "weight_only"] = Field(
        default="dynamic",
        description="dynamic: products of 8-bit integers, activations measured as the model runs; static: the same "
        "with ranges that samples have given; weight_only: blocks of 4 or 8 bits for ONNX Runtime's MatMulNBits.",
    )
    format: Literal["qdq", "qoperator"] = Field(
        default="qdq",
        description="static: qdq: float operators between QuantizeLinear and DequantizeLinear, which runtimes fuse; "
        "qoperator: MatMulInteger and QLinearConv, for runtimes that fuse nothing.",
    )
    samples: InputPath | None = Field(
        default=None,
        description="static, gptq, gates: an .npz file with an array for each input, whose leading axis is the "
        "samples; or a folder of PNG and JPEG images, prepared by the model's preprocessor_config.json. None: windows "
        "of the calibration text.",
    )
    calibration_method: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] = Field(
        default="minmax", description="static: how an activation's range follows from the values that samples gave it."
    )
    percentile: float = Field(
        default=99.999, gt=50, le=100, description="static: how many of the values percentile keeps, in percent."
    )
    activation_type: Literal["u8", "s8"] = Field(default="u8", description="static: the type of activations' codes.")
    weight_type: Literal["s8", "u8"] = Field(
        default="s8",
        description="dynamic, static: the type of codes of products' weights. u8: all 8 bits on processors without "
        "VNNI, whose products of unsigned codes do not overflow and are slower.",
    )
    weight_bits: Literal[4, 8] = Field(default=8, description="Bits of a weight; dynamic and static know 8 only.")
    symmetric: bool = Field(
        default=True, strict=True, description="Weights without zero points; false: zero points as well."
    )
    per_channel: bool = Field(
        default=True,
        strict=True,
        description="dynamic, static: a scale for each output; false: one for the whole weight.",
    )
    activations: Literal["row", "tensor"] = Field(
        default="row",
        description="dynamic: what is brought to one range before it is rounded. row: each token's values; tensor: "
        "all values of a batch, as ONNX Runtime's own tool has it.",
    )
    smoothing: bool | None = Field(
        default=None,
        strict=True,
        description="dynamic, static: SmoothQuant: activations' channels of unequal size are brought nearer to "
        "each other by what samples have shown, and weights take what they lose. None: in mode static.",
    )
    target: Literal["vnni", "avx2", "arm"] = Field(
        default="vnni",
        description="dynamic, static: the processor. avx2 (without VNNI) adds two products in 16 bits, which 8-bit "
        "weights can overflow.",
    )
    runtime: Annotated[RuntimeVersion, BeforeValidator(_named)] = Field(
        default=LATEST,
        description="The oldest ONNX Runtime that is to load the artifact: a graph of a later opset is refused, the IR "
        "version lowered to what it takes.",
    )
    reduce_range: bool | None = Field(
        default=None, strict=True, description="dynamic, static: weights in 7 bits; None: where the target needs it."
    )
    block_size: BlockSize = Field(default=32, description="weight_only: weights that share a scale.")
    algorithm: Literal["rtn", "hqq", "gptq"] = Field(
        default="rtn",
        description="weight_only: rtn rounds to the nearest code; hqq solves for scale and zero point; gptq for codes "
        "whose products on samples are nearest to the source's.",
    )
    damp_percent: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        strict=True,
        description="gptq: share of the mean of diag(H) that is added to diag(H).",
    )
    accuracy_level: Literal[0, 1, 2, 3, 4] = Field(
        default=4,
        description="weight_only: what is computed in. 4: 8-bit integers, 1: float32, 0: as the runtime likes.",
    )
    embeddings: Literal["int8", "keep"] = Field(
        default="int8", description="Tables that are looked up: int8 with a scale for each row, or as they are."
    )
    rest: Literal["source", "float16"] = Field(
        default="source",
        description="How float32 weights above 1 KiB are stored that stay float: as they are, or as float16, which the "
        "graph casts back. What float16 does not hold stays as it is.",
    )
    op_types: tuple[Literal["MatMul", "Gemm", "Gather", "Conv"], ...] = Field(
        default=("MatMul", "Gemm", "Gather", "Conv"),
        min_length=1,
        max_length=4,
        description="Operators whose weights are quantized; a weight that another one takes too stays as it is.",
    )
    exclude: tuple[NodePattern, ...] = Field(
        default=(), max_length=256, description="Nodes (* ? [abc]) that stay as they are: */output/dense/MatMul."
    )
    gates: tuple[GateText, ...] = Field(
        default=(),
        max_length=8,
        description="What outputs on samples must keep of the source's: cosine.mean >= 0.999, cosine.min, or "
        "pooled.mean and pooled.min of outputs averaged over their second axis. What costs most per byte stays "
        "float for it.",
    )
    external_data: Literal["auto", "always"] = Field(
        default="auto", description="Weights in a file beside the graph: where they take more than 256 MiB, or always."
    )
    least_cosine: float | None = Field(
        default=0.9,
        ge=-1,
        le=1,
        description="Of the outputs with the source's, as verification runs both in ONNX Runtime on random inputs, "
        "or on the first of samples that are read; null: they are not run.",
    )

    @model_validator(mode="after")
    def _fit_the_mode(self) -> Self:
        if self.mode != "weight_only" and self.weight_bits != 8:
            raise ValueError(f"{self.mode} has 8-bit weights; choose mode weight_only for 4 bits")
        if self.mode == "weight_only" and self.weight_bits not in RUNTIMES[self.runtime].block_bits:
            least = next(name for name, each in RUNTIMES.items() if self.weight_bits in each.block_bits)
            raise ValueError(
                f"ONNX Runtime has MatMulNBits of {self.weight_bits} bits from {least} on: name that runtime, or "
                "choose mode dynamic or static"
            )
        if self.weight_type == "u8" and (self.mode == "weight_only" or self.activation_type == "s8"):
            raise ValueError("weights in u8 are for products with activations in u8: choose mode dynamic or static")
        if self.weight_type == "u8" and self.reduce_range:
            raise ValueError("products of weights in u8 do not overflow: leave reduce_range out")
        if self.mode != "static" and self.format != "qdq":
            raise ValueError("operators of integers have fixed ranges: choose mode static for format qoperator")
        if self.mode == "weight_only" and self.smoothing:
            raise ValueError("smoothing is for activations in 8 bits: choose mode static or dynamic")
        if self.algorithm == "hqq" and (self.mode != "weight_only" or self.symmetric):
            raise ValueError("hqq finds zero points: it goes with mode weight_only and symmetric false")
        if self.solves and self.mode != "weight_only":
            raise ValueError("gptq is for blocks of weights: choose mode weight_only")
        return self

    @property
    def reads_samples(self) -> bool:
        return self.observes or self.solves or bool(self.gates)

    @property
    def runs_samples(self) -> bool:
        """Whether they are those that `samples` names, not a text's."""
        return self.reads_samples and self.samples is not None

    @property
    def solves(self) -> bool:
        """Whether codes are solved for by what samples have shown of the inputs."""
        return self.algorithm == "gptq"

    @property
    def observes(self) -> bool:
        """Whether activations have numbers in the graph that come from samples."""
        return self.mode == "static" or self.smooths

    @property
    def smooths(self) -> bool:
        return self.mode == "static" if self.smoothing is None else self.smoothing

    @property
    def reduced(self) -> bool:
        """Whether signed weights of integer products have 7 bits."""
        return self.target == "avx2" if self.reduce_range is None else self.reduce_range

    @property
    def unsigned(self) -> bool:
        """Whether products' matrices have codes without a sign; tables and filters have one."""
        return self.weight_type == "u8"
