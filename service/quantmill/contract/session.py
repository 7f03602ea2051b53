"""Session: what a running method is handed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

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
        """The units still to be done, in the plan's order; those that an earlier attempt finished are left out.

        Raises Canceled between units when the job has been canceled.
        """

    def tensor(self, name: str) -> SourceTensor:
        """One source tensor, memory-mapped, known to be finite.

        Raises NonFiniteTensor, naming the tensor and the first bad position.
        """
