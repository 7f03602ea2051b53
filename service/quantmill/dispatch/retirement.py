"""When a worker ends by itself: after so many jobs, or when it got none for so long."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType


def terminate() -> None:
    """As Kubernetes would end the process: what runs is handed back, and the worker leaves its queue."""
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class AtWork:
    claimed: bool = False


class Retirement:
    """Counts the jobs that were claimed, and watches the time without any while the context is open."""

    def __init__(
        self, jobs: int | None = None, idle_seconds: float | None = None, end: Callable[[], None] = terminate
    ) -> None:
        self._left = jobs
        self._idle_seconds = idle_seconds
        self._end = end
        self._busy = 0
        self._idle_since = time.monotonic()
        self._changed = threading.Condition()
        self._over = False

    def __enter__(self) -> Retirement:
        if self._idle_seconds is not None:
            self._idle_since = time.monotonic()
            threading.Thread(target=self._watch, args=(self._idle_seconds,), name="idle", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    @contextmanager
    def postponed(self) -> Iterator[AtWork]:
        """While a message is looked at; set `claimed` where it led to a job."""
        at_work = AtWork()
        with self._changed:
            self._busy += 1
        try:
            yield at_work
        finally:
            self._finish(at_work.claimed)

    def _finish(self, claimed: bool) -> None:
        with self._changed:
            self._busy -= 1
            if claimed:
                self._idle_since = time.monotonic()
                self._left = None if self._left is None else self._left - 1
            last = self._left == 0 and claimed
            self._changed.notify_all()
        if last:
            self._end()

    def _watch(self, idle_seconds: float) -> None:
        with self._changed:
            while not self._over:
                left = self._idle_since + idle_seconds - time.monotonic()
                if not self._busy and left <= 0:
                    break
                self._changed.wait(None if self._busy else left)
            over = self._over
        if not over:
            self._end()
