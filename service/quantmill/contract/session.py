"""Session: what a running method is handed, and what it says of what it found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.calibration import CalibratedBlock, Statistics
from quantmill.contract.errors import PluginBroken
from quantmill.contract.tensors import ModelIndex, Plan, SourceTensor, Unit

Figure = int | float | str


@dataclass(frozen=True)
class Note:
    """What came of a tensor that its plan could not foresee.

    tensor   its name in the source
    found    what, in the same words for every tensor that it befell: "damping raised"
    figures  finite numbers and short texts that say how much, and why
    """

    tensor: str
    found: str
    figures: Mapping[str, Figure]


def checked_note(plan: Plan, tensor: str, found: str, figures: Mapping[str, Figure]) -> Note:
    """Raises PluginBroken for a tensor that is not the plan's, and for figures that are not finite numbers or texts."""
    if tensor not in plan.by_name:
        raise PluginBroken(f"{found!r} was noted of {tensor!r}, which the plan does not have", tensor=tensor)
    for name, value in figures.items():
        if not isinstance(value, Figure) or (isinstance(value, float) and not math.isfinite(value)):
            raise PluginBroken(f"{found!r} was noted of {tensor!r} with {name} = {value!r}", tensor=tensor)
    return Note(tensor, found, dict(figures))


class Session(Protocol):
    """The host's side of a running method. A method sees the source and the machine through it only."""

    @property
    def index(self) -> ModelIndex: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def threads(self) -> int:
        """How many threads the method may use; its results must not depend on it."""

    @property
    def device(self) -> str:
        """torch's name of the device that this worker calibrates on: "cpu", "cuda". A method whose heaviest work torch
        can do there does it there."""

    @property
    def seed(self) -> int: ...

    def units(self) -> Iterator[Unit]:
        """The units still to be done, in the plan's order; those that an earlier attempt finished are left out, and
        those that are blocks, which `blocks` gives.

        Raises Canceled between units when the job has been canceled.
        """

    def tensor(self, name: str) -> SourceTensor:
        """One source tensor, memory-mapped, known to be finite.

        Raises NonFiniteTensor, naming the tensor and the first bad position, Canceled when the job has been canceled.
        """

    def statistics(self, name: str) -> Statistics:
        """What the inputs of the Linear with this weight were in the source model, of the kinds that the plan asks for.

        Raises CalibrationMissing for a weight that the plan did not ask for, and where there is no calibration text.
        """

    def windows(self) -> Sequence[NDArray[np.int64]]:
        """The tokens of each calibration window, int64 (tokens,), in the order of the text; not all have one length.

        Raises CalibrationMissing where the plan did not ask for them, and where there is no calibration text.
        """

    def pause(self) -> None:
        """To be called now and then in work that is long between two tensors. Raises Canceled when the job has been
        canceled."""

    def progress(self, done: int, total: int) -> None:
        """To be called before each step of long work that gives no tensors: `done` steps, of `total` or fewer, are
        behind it. Raises Canceled when the job has been canceled."""

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep what long work between two tensors has come to, for an attempt that takes this one's place.

        It replaces what was kept under this name: lower-case letters, digits and hyphens. The job's end forgets it.
        """

    def kept(self, name: str) -> Mapping[str, NDArray[Any]] | None:
        """What this attempt or an earlier one has kept last under this name; None where that is nothing, or damaged."""

    def note(self, tensor: str, found: str, **figures: Figure) -> None:
        """Have it said in the artifact's quantmill.json: `found` of `tensor`, before its unit's last tensor is given.

        Said twice of a tensor, the later one stays. Notes of finished units outlive the attempt that made them. They
        must not depend on threads. Raises PluginBroken for a tensor that is not the plan's, and for figures that are
        not finite.
        """

    def blocks(self) -> Iterator[CalibratedBlock]:
        """The plan's blocks still to be done, in order, each fed by what the ones before have become.

        A method yields the tensors of the block's unit before it asks for the next one. What it replaces in the block
        it replaces before it yields the last of them: then the block is run for the next one.

        Raises Canceled between blocks when the job has been canceled, CalibrationMissing where there is no text.
        """
