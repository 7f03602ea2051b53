"""The one thing the scheduler needs of a broker."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID


class Dispatcher(Protocol):
    def send(self, queue: str, job_id: UUID, epoch: int) -> None:
        """Wake a worker of `queue` for (job, epoch).

        May raise when the broker is away: the scheduler sends again later. May be delivered late, twice or never: the
        worker's claim decides.
        """
