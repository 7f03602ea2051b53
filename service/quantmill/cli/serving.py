"""Commands that run the parts of a service."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmill.cli import options
from quantmill.cli.logs import log_to_stderr
from quantmill.cli.output import say, show_json
from quantmill.contract.errors import ResourceExhausted

if TYPE_CHECKING:
    from quantmill.services import Services

GRACEFUL_SECONDS = 5

Host = Annotated[str | None, typer.Option(help="Address to listen on; anyone who reaches it can submit jobs.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")]
SourceRoot = Annotated[list[Path] | None, typer.Option(help="A folder that sources may be read from; may be repeated.")]
Queue = Annotated[str | None, typer.Option(help="The queue that this worker serves.")]
Slots = Annotated[int | None, typer.Option(min=1, help="Jobs that this worker runs at a time.")]
JobCount = Annotated[int | None, typer.Option("--jobs", min=1, help="End after so many jobs.")]
Idle = Annotated[float | None, typer.Option(min=0, help="End when there was no job for so many seconds.")]
Wait = Annotated[
    float | None, typer.Option(min=0, help="Change nothing: wait so many seconds for another process to do it.")
]


def serve(
    host: Host = None,
    port: Port = None,
    data_dir: options.DataDir = None,
    source_root: SourceRoot = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Serve the REST API; without a broker, jobs run in this process too."""
    import uvicorn

    from quantmill.api.app import create_app

    log_to_stderr(as_json=as_json)
    given = {"host": host, "port": port, "data_dir": data_dir, "source_roots": source_root or None, "threads": threads}
    with opened(given) as services:
        listener = listen(services.settings.host, services.settings.port)
        ready_database(services)
        url = "http://{}:{}".format(*_shown(listener))
        with working(services), listener:
            config = uvicorn.Config(
                create_app(services), log_config=None, access_log=False, timeout_graceful_shutdown=GRACEFUL_SECONDS
            )
            show_json({"url": url}, indent=None) if as_json else say(f"quantmill listens on {url}")
            with terminated_as_interrupt(), suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])


def worker(
    queue: Queue = None,
    slots: Slots = None,
    threads: options.Threads = None,
    jobs: JobCount = None,
    idle_seconds: Idle = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> int:
    """Run jobs that the scheduler sends through the broker, until SIGTERM or as many as asked for."""
    from quantmill.dispatch.celery_app import run_worker
    from quantmill.dispatch.retirement import Retirement

    log_to_stderr(as_json=as_json)
    given = {"queue": queue, "slots": slots, "threads": threads, "data_dir": data_dir}
    with terminated_as_interrupt(), opened(given) as services:
        ready_database(services)
        return run_worker(services, Retirement(jobs, idle_seconds))


def scheduler(data_dir: options.DataDir = None, as_json: options.Json = False) -> None:
    """Send queued jobs to workers and take back what lost its worker, until SIGTERM. Several may run."""
    from quantmill.dispatch.celery_app import CeleryDispatcher
    from quantmill.dispatch.scheduler import Scheduler

    log_to_stderr(as_json=as_json)
    stop = threading.Event()
    with terminated_as_interrupt(), opened({"data_dir": data_dir}) as services:
        ready_database(services)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        Scheduler(services, CeleryDispatcher(services.settings)).run(stop)


def migrate(wait: Wait = None, data_dir: options.DataDir = None, as_json: options.Json = False) -> None:
    """Bring the database to this version's schema. Run it before the new version serves."""
    from quantmill.cli.waiting import await_database, await_schema
    from quantmill.store.migrate import schema_of, upgrade

    log_to_stderr(as_json=as_json)
    with terminated_as_interrupt(), opened({"data_dir": data_dir}) as services:
        if wait is None:
            await_database(services.database, services.settings.schema_wait_seconds)
            upgrade(services.database)
        else:
            await_schema(services.database, wait)
        where = services.database.engine.url.render_as_string(hide_password=True)
        schema = schema_of(services.database).there
    show_json({"database": where, "current": True, "schema": schema}) if as_json else say(f"{where} is at {schema}")


@contextmanager
def opened(given: dict[str, Any]) -> Iterator[Services]:
    from quantmill.services import Services

    services = Services.open(options.settings(**given))
    try:
        yield services
    finally:
        services.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that the address is known to be ours before anything else starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ResourceExhausted(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error


def _shown(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return (f"[{host}]" if ":" in host else host), port


def ready_database(services: Services) -> None:
    """Migrate the embedded database; a shared one is migrated by `quantmill migrate`, once for all replicas, and waited
    for. Raises DatabaseUnavailable where that takes too long."""
    from quantmill.cli.waiting import await_schema
    from quantmill.store.migrate import upgrade

    if services.database.engine.dialect.name == "sqlite":
        upgrade(services.database)
    else:
        await_schema(services.database, services.settings.schema_wait_seconds)


def working(services: Services) -> AbstractContextManager[Any]:
    """Scheduler and worker in this process where no broker leads to others."""
    if services.settings.broker_url is not None:
        return nullcontext()
    from quantmill.dispatch.embedded import Embedded

    return Embedded(services)


@contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt. By default it would end us before we clean up (uvicorn raises the signal that
    stopped it once more), and the first process of a container would not even see it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
