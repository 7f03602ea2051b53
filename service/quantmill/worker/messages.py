"""What the supervisor and its runner say to each other.

Each message is one frame: a length of four bytes, big-endian, and that many bytes of JSON. Both sides validate what
they read: the runner executes plugin code, so the supervisor trusts it no more than a client.
"""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, field_validator

from quantmill.contract.calibration import Statistic
from quantmill.contract.tensors import Plan
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.jobs import Phase

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 64 << 20


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoteTaken(Message):
    """A contract Note."""

    tensor: str
    found: str
    figures: dict[str, int | FiniteFloat | str]


class SensitivityFound(Message):
    """A contract Sensitivity."""

    by: Statistic
    losses: dict[int, FiniteFloat]


class Findings(Message):
    """What came of a unit beside its tensors.

    notes        what the method said of them
    device       the kind of device that it was calibrated on, "cpu" too where it was not calibrated
    routed       calibration tokens that each expert of the block was sent, by the module that holds the experts
    sensitivity  what its weights lose at each bit width, by name
    """

    notes: tuple[NoteTaken, ...] = ()
    routed: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    sensitivity: dict[str, SensitivityFound] = Field(default_factory=dict)
    device: str = "cpu"


class FinishedUnit(Message):
    """A unit that is done: `digest` is that of its tensors in the job's own unit store, sha256 of the blob that they
    are, or blake3 where they stand in the artifact's files. What a calibrated block hands to the next one is the blob
    `carry`."""

    key: str
    digest: str
    size: int
    carry: str | None = None
    findings: Findings = Findings()


def carry_store(unit_store: Path) -> Path:
    return unit_store / "carries"


class Start(Message):
    """Supervisor to runner, once: everything that one attempt needs to know."""

    type: Literal["start"] = "start"
    source: Path
    method: str
    params: dict[str, Any]
    seed: int
    threads: int
    device: str  # torch's name of what calibration runs on
    plan: dict[str, Any]  # empty: nobody has planned yet
    source_digest: str | None  # as an earlier attempt found it
    evaluation_text: Path | None
    evaluation: EvaluationOptions
    calibration: CalibrationOptions | None  # its text is a path
    statistics_cache: Path
    statistics_cache_bytes: int
    evaluation_cache: Path
    evaluation_cache_bytes: int
    memory_bytes: int | None  # that the runner may hold
    unit_store: Path
    export_folder: Path
    finished: tuple[FinishedUnit, ...]

    @property
    def carry_store(self) -> Path:
        """The blobs of hidden states behind calibrated blocks."""
        return carry_store(self.unit_store)


class Cancel(Message):
    """Supervisor to runner: stop at the next unit."""

    type: Literal["cancel"] = "cancel"


class Progressed(Message):
    """Runner to supervisor: where the work stands. The supervisor decides what of it is kept."""

    type: Literal["progress"] = "progress"
    phase: Phase
    done: int = 0
    total: int = 0
    message: str = ""


class SourceKnown(Message):
    type: Literal["source"] = "source"
    digest: str


class PlanSettled(Message):
    """Runner to supervisor: the weights have decided what the job's plan had left open."""

    type: Literal["plan"] = "plan"
    plan: dict[str, Any]

    @field_validator("plan")
    @classmethod
    def _is_a_plan(cls, plan: dict[str, Any]) -> dict[str, Any]:
        try:
            return Plan.from_json(plan).to_json()
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a plan: {error}") from error


class UnitFinished(Message):
    type: Literal["unit"] = "unit"
    unit: FinishedUnit


class MetricValue(Message):
    name: str
    value: float
    unit: str
    subject: str = "artifact"
    n: int | None = None
    higher_is_better: bool | None = None
    ci_low: float | None = None
    ci_high: float | None = None


class Finished(Message):
    """Runner to supervisor: the export folder is complete and verified."""

    type: Literal["finished"] = "finished"
    format: str
    plan: dict[str, Any]
    verification: dict[str, Any]
    metrics: tuple[MetricValue, ...]
    measured: dict[str, Any]  # on what, and what was left out
    calibration: dict[str, Any]  # on what, and what the experts saw of it
    notes: tuple[NoteTaken, ...]
    environment: dict[str, Any]
    peak_memory_bytes: int


class Failed(Message):
    """Runner to supervisor: the job cannot succeed; `error` is errors.describe()."""

    type: Literal["failed"] = "failed"
    error: dict[str, Any]
    peak_memory_bytes: int


ToRunner = Annotated[Start | Cancel, Field(discriminator="type")]
ToSupervisor = Annotated[
    Progressed | SourceKnown | PlanSettled | UnitFinished | Finished | Failed, Field(discriminator="type")
]
TO_RUNNER: TypeAdapter[Start | Cancel] = TypeAdapter(ToRunner)
TO_SUPERVISOR: TypeAdapter[Progressed | SourceKnown | PlanSettled | UnitFinished | Finished | Failed] = TypeAdapter(
    ToSupervisor
)


def send(connection: socket.socket, message: Message) -> None:
    body = message.model_dump_json().encode()
    connection.sendall(LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket) -> Any:
    """The next frame's JSON value, or None at the end of the stream. Raises ValueError for a broken frame."""
    head = _exactly(connection, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are allowed")
    body = _exactly(connection, length)
    return None if body is None else json.loads(body)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    """`count` bytes, or None when the other side has gone."""
    received = bytearray()
    while len(received) < count:
        piece = connection.recv(min(count - len(received), 1 << 20))
        if not piece:
            return None
        received += piece
    return bytes(received)
