"""What a method reads and what it gives back: model index, source tensors, plans, quantized tensors.

Shapes are row-major as safetensors and torch write them: a Linear weight is (out_features, in_features).
Dtypes are safetensors' names (F32, F16, BF16, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.card import Card

if TYPE_CHECKING:
    from quantmill.contract.gguf import GgufSource
    from quantmill.contract.onnx import OnnxGraph


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as a checkpoint's header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def values(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class StoredWeight:
    """One weight of a quantized checkpoint.

    format     gptq, gptq_v2, awq, pack-quantized, nvfp4-pack-quantized, mxfp4-pack-quantized, fp8 (native) or
               float-quantized
    shape      (out_features, in_features)
    parts      what is stored, by its last word in the file: qweight, scales, weight_packed ...
    bits       of a code
    group_size inputs that share a scale; 0 where it is not by groups of a row
    symmetric  whether all zero points are the middle code
    """

    format: str
    shape: tuple[int, int]
    parts: Mapping[str, TensorInfo]
    bits: int
    group_size: int
    symmetric: bool

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())


@dataclass(frozen=True, eq=False)
class ModelIndex:
    """A checkpoint by its headers alone; no weight has been read. Two readings of one checkpoint are not equal.

    `tensors` are in the order of their names. `tied` maps a name that the architecture expects but the
    checkpoint does not store to the tensor that serves in its place. `files` are the other files that belong
    to the model (tokenizer, generation settings), by name; each path has been checked to lie in the folder.
    `stored` says how a quantized checkpoint holds a weight; such a weight is among `tensors` as what it stands for, in
    F32. `defects` is what was wrong with such a checkpoint's settings; `config` has them right. `digest` is
    `sha256:...` over all of the source's file digests, or empty where only headers were read.
    `graph` is the ONNX model that the tensors are the weights of, where the source is one. `gguf` is what a GGUF file
    says, where the source is one: its tensors have the file's names, those in blocks are F32 here, and `config` has the
    file's architecture and dimensions. `card` is what a model folder's README.md says of the model.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    tied: Mapping[str, str]
    files: Mapping[str, Path]
    digest: str = ""
    stored: Mapping[str, StoredWeight] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    graph: OnnxGraph | None = None
    gguf: GgufSource | None = None
    card: Card = field(default_factory=Card)

    @property
    def architecture(self) -> str:
        """The first of config.json's `architectures`, such as LlamaForCausalLM."""
        return str(self.config["architectures"][0])

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class SourceTensor:
    """A tensor's values, memory-mapped and read-only: touching them is what reads them.

    `values` has numpy's own float32 or float16, or ml_dtypes.bfloat16 for BF16. A weight of a quantized checkpoint has
    the values that it stands for, and `parts`: the arrays that are stored for it.
    """

    info: TensorInfo
    values: NDArray[Any]
    parts: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class PieceByPiece(Mapping[str, NDArray[Any]]):
    """Parts of a tensor that is too large to be made at once: a piece is made when a part of it is asked for.

    One piece is in memory at a time. Asked for in their order, each is made once; `make` may raise.
    """

    def __init__(
        self, pieces: Sequence[Sequence[str]], make: Callable[[int], Mapping[str, NDArray[Any]]], nbytes: int
    ) -> None:
        """`pieces` are the parts of each piece, `make` gives those of the piece of this number; all take `nbytes`."""
        self.nbytes = nbytes
        self._piece_of = {part: number for number, parts in enumerate(pieces) for part in parts}
        self._make = make
        self._made: tuple[int, Mapping[str, NDArray[Any]]] = (-1, {})

    def __getitem__(self, part: str) -> NDArray[Any]:
        number = self._piece_of[part]
        if self._made[0] != number:
            self._made = (-1, {})  # the one before goes first
            self._made = (number, self._make(number))
        return self._made[1][part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._piece_of)

    def __len__(self) -> int:
        return len(self._piece_of)


@dataclass(frozen=True)
class QuantizedTensor:
    """One tensor as a method made it.

    `name` and `shape` are those of the source. `parts` are the arrays that the format stores for it, by the
    format's own part names: GGUF has one, `packed`, uint8 of shape (rows, row_bytes). They may come PieceByPiece.
    """

    name: str
    scheme: str
    shape: tuple[int, ...]
    parts: Mapping[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        if isinstance(self.parts, PieceByPiece):
            return self.parts.nbytes
        return sum(part.nbytes for part in self.parts.values())


Action = Literal["quantize", "keep", "drop"]


@dataclass(frozen=True)
class TensorPlan:
    """What will become of one source tensor.

    `keep` stores it unquantized (perhaps in another float dtype), `drop` leaves it out because the consumer
    rebuilds it. `reason` is empty only when the tensor gets the nominal scheme; every exception says why.
    `block_slack` is how many times its scheme's bound a single block may be off: more than 1 where columns of unequal
    importance are traded for each other. `candidates` are the schemes that measuring the weights will choose among,
    smallest first; until then `scheme` is a first guess. Empty where the scheme is decided. `beside` are bytes of its
    parts that stand in files beside the model, such as the statistics that it was made with; `nbytes` is without them.
    """

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    action: Action
    scheme: str
    output: str  # its name in the artifact; parts of one stored tensor have the same, and follow each other
    nbytes: int  # bytes in the artifact, without container overhead
    reason: str = ""
    block_slack: float = 1.0
    candidates: tuple[str, ...] = ()
    beside: int = 0

    @property
    def values(self) -> int:
        return prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        plain = {**vars(self), "shape": list(self.shape), "candidates": list(self.candidates)}
        return {name: value for name, value in plain.items() if value or name not in ("candidates", "beside")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorPlan:
        return cls(**{**data, "shape": tuple(data["shape"]), "candidates": tuple(data.get("candidates", ()))})


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work that is checkpointed: all of its tensors, or none of them.

    `block` is the number of the decoder block that a method walks with `Session.blocks` to make them; the head is one
    more. Such units are a plan's first, in their order. Others come from `Session.units`.
    """

    key: str
    tensors: tuple[str, ...]
    block: int | None = None


@dataclass(frozen=True)
class Fold:
    """Scales that a method moves from one weight into others: what the model computes stays the same.

    The channels that `producer` puts out are divided by positive numbers s, `bias` with them, and the columns of the
    `consumers`, which take those channels alone, are multiplied by s. How s is found is the method's business; it is
    recovered from the artifact (`quantmill.contract.folds`).

    producer   a norm's weight (n,), or a Linear's, whose rows from `first_row` on are the n channels
    consumers  weights (out, n)
    bias       the producer's bias, empty where it has none
    offset     a norm multiplies by its weight plus this: 1 in Gemma
    """

    producer: str
    consumers: tuple[str, ...]
    bias: str = ""
    first_row: int = 0
    offset: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a method will do, tensor by tensor, made from headers and parameters alone.

    Where schemes are chosen to fit a size, `limit_bytes` is what all tensors may take, and `predicted_loss` what the
    choice is thought to cost: nats per token of divergence from the source. Until the method has settled it by the
    weights, the rows that it chooses for have candidates.

    `converts` says what the source becomes before it is quantized, in words; then the rows are a forecast by the
    source's own names, and the plan of what it has become replaces this one.
    """

    tensors: tuple[TensorPlan, ...]
    units: tuple[Unit, ...]
    peak_memory_bytes: int  # the method's own working memory for its largest unit
    warnings: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)  # digests of the files that parameters name, by parameter
    calibration: CalibrationNeed | None = None
    limit_bytes: int | None = None
    predicted_loss: float | None = None
    folds: tuple[Fold, ...] = ()
    converts: str = ""
    by_name: Mapping[str, TensorPlan] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {tensor.name: tensor for tensor in self.tensors})

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors in the artifact."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def bits_per_weight(self) -> float:
        """Stored bits per weight over all stored tensors, scales included."""
        return _bits_per_weight(self.tensors)

    @cached_property
    def quantized_bits_per_weight(self) -> float:
        """Stored bits per weight over the quantized tensors only."""
        return _bits_per_weight(tuple(tensor for tensor in self.tensors if tensor.action == "quantize"))

    @cached_property
    def settled(self) -> bool:
        """Whether every tensor's scheme is decided."""
        return not self.converts and not any(tensor.candidates for tensor in self.tensors)

    def settles(self, open_plan: Plan) -> bool:
        """Whether this is one of the outcomes that `open_plan` leaves open."""
        if not self.settled or len(self.tensors) != len(open_plan.tensors):
            return False
        return (
            all(map(_is_outcome, self.tensors, open_plan.tensors))
            and (self.limit_bytes is None or self.nbytes <= self.limit_bytes)
            and self.peak_memory_bytes <= open_plan.peak_memory_bytes
            and (self.units, self.inputs, self.calibration, self.limit_bytes)
            == (open_plan.units, open_plan.inputs, open_plan.calibration, open_plan.limit_bytes)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        plain = {
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "units": [_without_none({**vars(unit), "tensors": list(unit.tensors)}) for unit in self.units],
            "peak_memory_bytes": self.peak_memory_bytes,
            "warnings": list(self.warnings),
            "inputs": dict(self.inputs),
            "calibration": self.calibration and self.calibration.to_json(),
            "limit_bytes": self.limit_bytes,
            "predicted_loss": self.predicted_loss,
            "folds": [{**vars(fold), "consumers": list(fold.consumers)} for fold in self.folds] or None,
            "converts": self.converts or None,
        }
        return _without_none(plain)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        return cls(
            tensors=tuple(map(TensorPlan.from_json, data["tensors"])),
            units=tuple(Unit(**{**row, "tensors": tuple(row["tensors"])}) for row in data["units"]),
            peak_memory_bytes=data["peak_memory_bytes"],
            warnings=tuple(data["warnings"]),
            inputs=data.get("inputs", {}),
            calibration=CalibrationNeed.from_json(data["calibration"]) if "calibration" in data else None,
            limit_bytes=data.get("limit_bytes"),
            predicted_loss=data.get("predicted_loss"),
            folds=tuple(Fold(**{**fold, "consumers": tuple(fold["consumers"])}) for fold in data.get("folds", ())),
            converts=data.get("converts", ""),
        )


def _is_outcome(row: TensorPlan, before: TensorPlan) -> bool:
    """Whether `row` is `before`, or one of its candidates."""
    if not before.candidates:
        return row == before
    same = (row.name, row.shape, row.source_dtype, row.output) == (
        before.name,
        before.shape,
        before.source_dtype,
        before.output,
    )
    return same and row.scheme in before.candidates


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _bits_per_weight(tensors: tuple[TensorPlan, ...]) -> float:
    stored = [tensor for tensor in tensors if tensor.action != "drop"]
    values = sum(tensor.values for tensor in stored)
    return 8 * sum(tensor.nbytes for tensor in stored) / values if values else 0.0


FloatArray = NDArray[np.float32]
