"""A method as data: what a plugin offers, with its heavy parts named instead of imported."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

from pydantic import BaseModel

from quantmill.contract.facts import HardwareNeed
from quantmill.contract.placement import Placement
from quantmill.contract.reading import BlockBound, Inspection, ReadTensor
from quantmill.contract.session import Figure, Session
from quantmill.contract.tensors import FloatArray, ModelIndex, Plan, QuantizedTensor

API_VERSION = 1

F = TypeVar("F")


class PlanFunction(Protocol):
    def __call__(self, index: ModelIndex, params: Any) -> Plan: ...


@dataclass(frozen=True)
class Conversion:
    """A source that has become one of another kind.

    observed  what was compared of the two and how far apart they are: finite numbers and short texts
    warnings  what of the source is not in it
    """

    observed: Mapping[str, Figure]
    warnings: tuple[str, ...] = ()


class ConvertFunction(Protocol):
    def __call__(self, session: Session, params: Any, folder: Path) -> Conversion: ...


class SettleFunction(Protocol):
    def __call__(self, session: Session, params: Any) -> Plan: ...


class QuantizeFunction(Protocol):
    def __call__(self, session: Session, params: Any) -> Iterator[QuantizedTensor]: ...


class PromoteFunction(Protocol):
    def __call__(self, index: ModelIndex, plan: Plan, params: Any, names: Collection[str]) -> Mapping[str, Any]: ...


class WriteFunction(Protocol):
    def __call__(
        self, tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: Any, folder: Path
    ) -> list[Path]: ...


class PlaceFunction(Protocol):
    def __call__(self, plan: Plan, index: ModelIndex, params: Any) -> Placement: ...


class ReadFunction(Protocol):
    def __call__(self, folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]: ...


class InspectFunction(Protocol):
    def __call__(self, folder: Path, plan: Plan, index: ModelIndex, params: Any) -> Inspection: ...


@dataclass(frozen=True)
class lazy(Generic[F]):  # noqa: N801  reads as a function where plugins use it
    """The promise of a function, as "module:function": nothing is imported until `load`."""

    target: str

    def load(self) -> F:
        module, _, function = self.target.partition(":")
        return cast(F, getattr(import_module(module), function))


@dataclass(frozen=True)
class Runtime:
    """A program that loads this method's artifacts as they are.

    `command` shows a user how; `{file}` stands for the artifact's main file and `{folder}` for the artifact. `unless`
    are parameters, by name, whose artifacts it does not load: one of them is enough.
    """

    name: str
    command: str
    unless: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A compression method, ready to be listed, validated and planned without importing anything heavy.

    plan      index, params -> Plan. Pure: the same answer for the same headers, no weight is read.
    convert   session, params, folder -> Conversion. Where a plan says what the source becomes first
              (`Plan.converts`), the host calls it at the beginning of an attempt, with that plan. What it writes into
              the empty folder is opened as any source is, planned, and takes the source's place: quantizing,
              verification and evaluation go by it. It must have been compared with what it was made from. The same
              bytes each time.
    settle    session, params -> Plan. Where a plan leaves schemes open (`candidates`), the host calls it once, before
              the first unit, with the weights and statistics at hand; its answer must be an outcome of `session.plan`
              (`Plan.settles`), the same each time. The host keeps it for later attempts.
    quantize  session, params -> QuantizedTensors, unit by unit in the order of `session.units()`. Bytes depend on
              the source, the parameters and the seed only, never on threads.
    write     tensors in the plan's order, plan, index, params, folder -> the files written. Streams: holds one tensor.
    place     plan, index, params -> where `write` puts each byte. With it the host writes each tensor to its place once
              it is made, several at a time, and keeps no second copy of it for a later attempt. A method that cannot
              say, or whose bytes are not the same each time, leaves it out.
    read      folder, names -> ReadTensors, one at a time and in the files' order; with `names` only those of them that
              are stored. Evaluation asks for one block after the other, so what is not asked for must not be decoded.
              Shares no code with `quantize`'s encoder: it is what verification and evaluation see.
    inspect   folder, plan, index, params -> the files that the artifact consists of, and observations of what the
              consumer reads there beside tensors: settings, tokenizer, layout. Shares no code with `write`.
              A method whose files hold tensors only may leave it out.

    `ladder` holds sets of parameters, smallest artifact first: a job that may escalate replaces its own parameters of
    the same names by one of them when it misses its gates; a rung that its other parameters do not go with is left
    out. A method without one cannot escalate by it.

    promote   index, plan, params, names -> the parameters to change so that the named tensors of the plan (sources'
              names) get the next larger scheme and all others stay; empty where none of them can have more. A method
              without it cannot escalate by blocks.

    `requires` is the hardware without which a worker cannot run the method; None where any processor will do.

    `error_bounds` gives, for each scheme that `plan` may choose, the largest relative RMSE
    (rms(read - source) / rms(source)) that verification accepts for a tensor; `block_bounds` the largest error of a
    single block.
    """

    name: str
    version: str
    summary: str
    params: type[BaseModel]
    plan: lazy[PlanFunction]
    quantize: lazy[QuantizeFunction]
    write: lazy[WriteFunction]
    read: lazy[ReadFunction]
    formats: tuple[str, ...]
    architectures: tuple[str, ...]
    error_bounds: Mapping[str, float]
    block_bounds: Mapping[str, BlockBound]
    runtimes: tuple[Runtime, ...]
    inspect: lazy[InspectFunction] | None = None
    place: lazy[PlaceFunction] | None = None
    convert: lazy[ConvertFunction] | None = None
    settle: lazy[SettleFunction] | None = None
    ladder: tuple[Mapping[str, Any], ...] = ()
    promote: lazy[PromoteFunction] | None = None
    requires: HardwareNeed | None = None
    bits: tuple[int, ...] = ()
    granularity: str = ""
    unit: Literal["tensor", "block", "graph"] = "tensor"
    determinism: Literal["bitwise", "seeded", "none"] = "bitwise"
    api_version: int = API_VERSION

    def runtimes_of(self, params: Mapping[str, Any]) -> tuple[Runtime, ...]:
        """The programs that load what is made with these parameters."""
        return tuple(
            runtime
            for runtime in self.runtimes
            if not any(name in params and params[name] == value for name, value in runtime.unless.items())
        )

    def weights(self, folder: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, FloatArray]]:
        """What `read` gives, as (source name, values) one at a time: what evaluation runs on."""
        for tensor in self.read.load()(folder, names):
            pair = (tensor.name, tensor.values)
            del tensor  # else it would stay while the next one is made
            yield pair
            del pair

    def describe(self) -> dict[str, Any]:
        """The method as plain JSON: what `GET /v1/methods` shows and what workers publish."""
        return {
            "name": self.name,
            "version": self.version,
            "api_version": self.api_version,
            "summary": self.summary,
            "params_schema": self.params.model_json_schema(),
            "formats": list(self.formats),
            "architectures": list(self.architectures),
            "ladder": [dict(rung) for rung in self.ladder],
            "promotes": self.promote is not None,
            "requires": asdict(self.requires) if self.requires else None,
            "bits": list(self.bits),
            "granularity": self.granularity,
            "unit": self.unit,
            "determinism": self.determinism,
            "runtimes": [{"name": runtime.name, "command": runtime.command} for runtime in self.runtimes],
        }
