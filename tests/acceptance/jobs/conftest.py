"""Whole installations of quantmill as real processes, on either kind of database."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from uuid import UUID

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from quantmill.contract.safetensors import TensorFile
from quantmill.domain.jobs import FINAL, Event, Job, JobRequest
from quantmill.jobs.submit import submit
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import events, jobs, migrate
from servers.postgresql import MIGRATED

QUANTMILL = Path(sys.executable).with_name("quantmill")
DATA = Path(__file__).parents[2] / "data"
PLUGINS = Path(__file__).parents[2] / "plugins"
MODEL = DATA / "millstone-4m"

# Short times, so that what takes minutes in production takes seconds here; no attempt limit, because these tests kill.
QUICK = {
    "lease_seconds": 2.0,
    "heartbeat_seconds": 0.4,
    "scheduler_seconds": 0.1,
    "redispatch_seconds": 2.0,
    "retry_backoff_seconds": 0.05,
    "cancel_grace_seconds": 1.0,
    "max_attempts": 1000,
    "threads": 1,
    "slots": 3,
}

# Where no process is killed or sleeps, a busy machine must not take a lease away.
PATIENT = {"lease_seconds": 60.0}


class Installation:
    """Processes that share a database and a data folder; roles are started by name, and may be killed and restarted."""

    def __init__(self, settings: Settings, commands: dict[str, list[str]]) -> None:
        self.settings = settings
        self.commands = commands
        self.services = Services.open(settings)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.wrapper: list[str] = []  # a program that starts each process
        migrate.upgrade(self.services.database)

    def start(self, *roles: str, **environ: str) -> None:
        for role in roles or self.commands:
            log = (self.settings.data_dir / f"{role}.log").open("ab")
            with log:
                self.processes[role] = subprocess.Popen(
                    [*self.wrapper, QUANTMILL, *self.commands[role]],
                    env=self._environ() | environ,
                    stdout=log,
                    stderr=log,
                )

    def _environ(self) -> dict[str, str]:
        given = self.settings.model_dump(exclude_none=True, exclude={"database_url", "broker_url", "source_roots"})
        secrets = {"database_url": self.settings.database_url, "broker_url": self.settings.broker_url}
        values = {
            **{name: str(value) for name, value in given.items()},
            **{name: secret.get_secret_value() for name, secret in secrets.items() if secret},
            "source_roots": "[" + ",".join(f'"{root}"' for root in self.settings.source_roots) + "]",
        }
        path = {"PYTHONPATH": str(PLUGINS)}
        return {**os.environ, **path, **{f"QUANTMILL_{name.upper()}": value for name, value in values.items()}}

    def kill(self, role: str) -> None:
        self.processes[role].kill()
        self.processes[role].wait()

    def stop(self, role: str, timeout: float = 30) -> int:
        """SIGTERM, as Kubernetes sends it; the exit code."""
        self.processes[role].send_signal(signal.SIGTERM)
        return self.processes[role].wait(timeout)

    def runners(self) -> list[psutil.Process]:
        """Runner processes that work in this installation's data folder or belong to its processes."""
        found = []
        for process in self.processes.values():
            if process.poll() is None:
                found += [child for child in psutil.Process(process.pid).children(recursive=True) if _is_runner(child)]
        return found

    def submit(self, type_: str = "Q4_K_M", source: Path = MODEL, **request: object) -> Job:
        return submit(self.services, JobRequest(source=str(source), method="gguf", params={"type": type_}, **request))

    def submit_slow(self, hoarded_bytes: int = 0, **request: object) -> Job:
        """A job of four seconds, most of which it rests between two of its 38 units."""
        params = {"type": "Q4_K_M", "rest_seconds": 0.1, "hoarded_bytes": hoarded_bytes}
        return submit(self.services, JobRequest(source=str(MODEL), method="paced", params=params, **request))

    def job(self, job_id: UUID) -> Job:
        with self.services.database.read() as tx:
            return jobs.get_job(tx, job_id)

    def events(self, job_id: UUID) -> list[Event]:
        with self.services.database.read() as tx:
            return events.list_events(tx, job_id, after=0, limit=10_000)

    def wait(
        self, job_id: UUID, until: Callable[[Job], bool] = lambda job: job.state in FINAL, seconds: float = 60
    ) -> Job:
        deadline = time.monotonic() + seconds
        while not until(job := self.job(job_id)):
            assert time.monotonic() < deadline, f"still {job.state} {job.phase} after {seconds} s: {self.logs()}"
            time.sleep(0.05)
        return job

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in self.settings.data_dir.glob("*.log"))

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.services.close()


def _is_runner(process: psutil.Process) -> bool:
    try:
        return "quantmill.worker.runner" in process.cmdline()
    except psutil.Error:
        return False


Kind = str
COMMANDS = {
    "embedded": {"serve": ["serve"]},
    "celery": {"scheduler": ["scheduler"], "worker-1": ["worker"], "worker-2": ["worker"]},
}


@pytest.fixture
def install(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Installation]]:
    """Make an installation of a kind: `embedded` is one process on SQLite, `celery` a scheduler and two workers on
    PostgreSQL and Redis. Its processes are not started yet."""
    made: list[Installation] = []
    monkeypatch.syspath_prepend(PLUGINS)

    def make(kind: Kind, data_dir: Path | None = None, **settings: object) -> Installation:
        data_dir = data_dir or tmp_path / f"{kind}-{len(made)}"
        if kind == "celery":
            settings["database_url"] = request.getfixturevalue("postgres_url")
            settings["broker_url"] = request.getfixturevalue("redis_url")
        made.append(installed(kind, data_dir, tmp_path_factory.getbasetemp(), **settings))
        return made[-1]

    yield make
    for installation in made:
        installation.close()


def installed(kind: Kind, data_dir: Path, sources: Path, **settings: object) -> Installation:
    data_dir.mkdir()
    values = {**QUICK, "data_dir": data_dir, "source_roots": (DATA, sources), "port": free_port(), **settings}
    return Installation(Settings(**values), deepcopy(COMMANDS[kind]))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Installation]]:
    """Start an installation of a kind for all tests of a module."""
    made: list[Installation] = []

    def start(kind: Kind, **settings: object) -> Installation:
        data_dir = tmp_path_factory.mktemp("shared") / kind
        made.append(installed(kind, data_dir, tmp_path_factory.getbasetemp(), **PATIENT, **settings))
        made[-1].start()
        return made[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(PLUGINS)
        yield start
        for installation in made:
            installation.close()


@pytest.fixture(scope="module")
def service(shared: Callable[..., Installation]) -> Installation:
    """One running `quantmill serve` for tests whose subject is not how jobs are dispatched."""
    return shared("embedded")


@pytest.fixture(scope="module", params=COMMANDS)
def installation(shared: Callable[..., Installation], request: pytest.FixtureRequest) -> Iterator[Installation]:
    """A running installation of either kind, for tests that leave all its processes alone."""
    if request.param == "embedded":
        yield shared("embedded")
        return
    postgresql, redis_server = (request.getfixturevalue(name) for name in ("postgresql", "redis_server"))
    name = postgresql.create(MIGRATED)
    made = shared("celery", database_url=postgresql.url(name), broker_url=redis_server.url)
    yield made
    made.close()
    postgresql.drop(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def model_with_nan(tmp_path: Path) -> Path:
    """The shipped model with one NaN in one tensor."""

    def poison(name: str, values: np.ndarray) -> np.ndarray:
        if name == "model.layers.2.mlp.up_proj.weight":
            values[5, 3] = np.nan
        return values

    return rewritten(tmp_path / "with-nan", poison)


@pytest.fixture
def model_in_f32(tmp_path: Path) -> Path:
    """The shipped model with other headers: its tensors in float32."""
    return rewritten(tmp_path / "f32", lambda name, values: values.astype(np.float32))


def rewritten(folder: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> Path:
    save(folder, {name: change(name, values.copy()) for name, values in tensors_of(MODEL).items()})
    return folder


def tensors_of(model: Path) -> dict[str, np.ndarray]:
    with TensorFile(model / "model.safetensors") as file:
        return {name: np.array(file.values(name)) for name in file.tensors}


def save(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
