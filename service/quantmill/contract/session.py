"""Session: what a running method is handed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from quantmill.contract.calibration import CalibratedBlock, Statistics
from quantmill.contract.tensors import ModelIndex, Plan, SourceTensor, Unit


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
    def seed(self) -> int: ...

    def units(self) -> Iterator[Unit]:
        """The units still to be done, in the plan's order; those that an earlier attempt finished are left out, and
        those that are blocks, which `blocks` gives.

        Raises Canceled between units when the job has been canceled.
        """

    def tensor(self, name: str) -> SourceTensor:
        """One source tensor, memory-mapped, known to be finite.

        Raises NonFiniteTensor, naming the tensor and the first bad position.
        """

    def statistics(self, name: str) -> Statistics:
        """What the inputs of the Linear with this weight were in the source model, of the kinds that the plan asks for.

        Raises CalibrationMissing for a weight that the plan did not ask for, and where there is no calibration text.
        """

    def blocks(self) -> Iterator[CalibratedBlock]:
        """The plan's blocks still to be done, in order, each fed by what the ones before have become.

        A method yields the tensors of the block's unit before it asks for the next one. What it replaces in the block
        it replaces before it yields the last of them: then the block is run for the next one.

        Raises Canceled between blocks when the job has been canceled, CalibrationMissing where there is no text.
        """
