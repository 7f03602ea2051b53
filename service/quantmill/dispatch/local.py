"""A dispatcher without a broker: threads of this process wait on a queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from uuid import UUID

import structlog

log = structlog.get_logger()

RunAttempt = Callable[[UUID, int], object]


class LocalDispatcher:
    """Sends to `slots` threads of its own process; all queues are one."""

    def __init__(self, run_attempt: RunAttempt, slots: int) -> None:
        self._run_attempt = run_attempt
        self._messages: queue.SimpleQueue[tuple[UUID, int] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"slot-{slot}") for slot in range(slots)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def send(self, queue: str, job_id: UUID, epoch: int) -> None:
        self._messages.put((job_id, epoch))

    def stop(self) -> None:
        """Let each thread finish what it is at, then end it."""
        for _ in self._threads:
            self._messages.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (message := self._messages.get()) is not None:
            try:
                self._run_attempt(*message)
            except Exception:  # the attempt's lease runs out and the job is sent again
                log.exception("attempt_failed", job_id=str(message[0]), epoch=message[1])
