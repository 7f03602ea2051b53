"""What a worker has for jobs: its machine, its methods, and what its running jobs leave."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quantmill.hardware.probes import free_memory, this_machine
from quantmill.hardware.routing import Worker, WorkerNeed, fits_not_now, never_fits, queue_name
from quantmill.services import Services
from quantmill.store import workers


class Capacity:
    """Of one worker; its slots are threads that may ask at the same time."""

    def __init__(self, services: Services, name: str) -> None:
        self._settings, self._database = services.settings, services.database
        self.name = name
        self._machine = this_machine()
        self._methods = {method.name: method.version for method in services.plugins.methods.values()}
        self._promised: list[WorkerNeed] = []
        self._lock = threading.Lock()

    @property
    def worker(self) -> Worker:
        """As it is now."""
        ram = self._machine.processor.memory_bytes if self._machine.processor else None
        limits = [limit for limit in (ram, self._settings.runner_memory_bytes) if limit is not None]
        return Worker(
            name=self.name,
            queue=self._settings.queue or queue_name(self._machine, self._methods),
            slots=self._settings.slots,
            machine=self._machine,
            methods=self._methods,
            memory_bytes=min(limits, default=None),
            free_memory_bytes=self._free_memory(ram),
            free_disk_bytes=shutil.disk_usage(self._settings.data_dir).free,
        )

    def _free_memory(self, ram: int | None) -> int:
        """What no process holds, less what running jobs were promised and may still take."""
        free = free_memory()
        promised = sum(need.memory_bytes for need in self._promised)
        return free if ram is None else max(0, min(free, ram - promised))

    @contextmanager
    def promised(self, need: WorkerNeed) -> Iterator[tuple[str, ...]]:
        """Keep what a job needs from other jobs for as long as the context is open; gives what there is not, as
        sentences, and keeps nothing then."""
        with self._lock:
            now = self.worker
            unmet = (*never_fits(need, now), *fits_not_now(need, now))
            kept = [] if unmet else [need]
            self._promised += kept
        try:
            yield unmet
        finally:
            with self._lock:
                for each in kept:
                    self._promised.remove(each)

    def beat(self) -> None:
        """Write that the worker lives, and what is free here now."""
        now = self.worker
        with self._database.write() as tx:
            workers.beat(tx, self.name, now.free_memory_bytes, now.free_disk_bytes)

    def to_row(self) -> dict[str, Any]:
        """The worker in the columns of its row."""
        now = self.worker
        return {**{name: getattr(now, name) for name in now.__dataclass_fields__}, "machine": now.machine.to_json()}
