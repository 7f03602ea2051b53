"""Shows how far a job has come: bars on a terminal, a line per phase elsewhere, nothing with --json."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Protocol

from quantmill.cli.output import note


class Watched(Protocol):
    """A job as the store or as the API shows it."""

    @property
    def state(self) -> Any: ...

    @property
    def phase(self) -> Any: ...

    @property
    def progress(self) -> Any: ...


class Watch:
    """A context in which `show` is called with every new look at a job."""

    def show(self, job: Watched) -> None:
        """Nothing is said."""

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lines(Watch):
    """A line on stderr whenever state or phase change."""

    def __init__(self) -> None:
        self._said = ""

    def show(self, job: Watched) -> None:
        line = f"{job.state}: {job.phase}" if job.phase else str(job.state)
        if line != self._said:
            note(line)
            self._said = line


class Bars(Watch):
    """A bar on stderr for each phase."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._phases: dict[str, Any] = {}

    def __enter__(self) -> Watch:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, job: Watched) -> None:
        if not job.phase:
            return
        phase = str(job.phase)
        if phase not in self._phases:
            self._finish_phases()
            self._phases[phase] = self._bars.add_task(phase, total=None)
        if job.progress and job.progress.total:
            self._bars.update(self._phases[phase], completed=job.progress.done, total=job.progress.total)

    def _finish_phases(self) -> None:
        for bar in self._phases.values():
            total = self._bars.tasks[bar].total or 1
            self._bars.update(bar, completed=total, total=total)
            self._bars.stop_task(bar)


def watch(as_json: bool) -> Watch:
    if as_json:
        return Watch()
    return Bars() if sys.stderr.isatty() else Lines()
