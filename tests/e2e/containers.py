"""Builds the images and runs them here as Kubernetes would: PYTHONPATH=.:tests python tests/e2e/containers.py

Needs root, Debian's buildah, podman, runc and mmdebstrap, and the servers of the tests; says what is missing and stops
otherwise. The base is Debian's python3 in the place of the image that the Containerfiles name: no registry is asked.
Every container runs as a user without a name, in group 0, with a read-only root, no capabilities and no shell:
its /bin/sh is an empty file. A worker is told to stop in the middle of a job, and a second one has to go on. Prints a
row for each thing that was seen.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from images.wheelhouse import LOCKS, fill

from quantmill.api.schemas import JobView
from quantmill.client import Client
from servers.postgresql import PostgresqlServer
from servers.process import free_port
from servers.redis import RedisServer

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "containers"
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap")
BASE = "docker.io/library/python:3.11-slim-bookworm"
IMAGES = {"service": "localhost/quantmill:e2e", "worker": "localhost/quantmill-worker:e2e"}
TOKEN = "a token of this run"
SOMEBODY = "1000680000:0"
RESTRICTED = (
    *("--read-only", "--user", SOMEBODY, "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp:mode=1777", "--tmpfs", "/cache:mode=1777", "--volume", "/dev/null:/usr/bin/dash:ro"),
)
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096","nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
QUICK = {"LEASE_SECONDS": 5, "HEARTBEAT_SECONDS": 1, "SCHEDULER_SECONDS": 0.2, "MAX_ATTEMPTS": 1, "THREADS": 1}
STATUS = "print(*[line for line in open('/proc/1/status') if line[:4] in ('Uid:', 'Gid:', 'CapE', 'NoNe')])"
YOUNG = "import os, sys, time; sys.exit(time.time() - os.stat('/tmp/heartbeat').st_mtime > 120)"  # as the chart asks it


class Engine:
    """buildah and podman over a storage of their own, which is removed at the end."""

    def __init__(self, folder: Path) -> None:
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        self._env = os.environ | {"CONTAINERS_CONF": str(folder / "containers.conf"), "STORAGE_DRIVER": "overlay"}
        self._roots = ("--root", str(folder / "store"), "--runroot", str(folder / "run"))

    def buildah(self, *arguments: object) -> str:
        return self._run("buildah", *self._roots, *arguments)

    def buildah_alone(self, *arguments: object) -> str:
        return self._run("unshare", "--net", "buildah", *self._roots, *arguments)

    def podman(self, *arguments: object) -> str:
        return self._run("podman", *self._roots, *arguments)

    def _run(self, *arguments: object) -> str:
        command = [str(argument) for argument in arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def close(self) -> None:
        self.podman("rm", "--all", "--force", "--time", "1")
        self.buildah("rm", "--all")
        self.podman("rmi", "--all", "--force")


class Report:
    """Rows of what was seen, and how long each took."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        print("| seen | seconds |\n|---|---|", flush=True)

    def __call__(self, seen: str) -> None:
        now = time.monotonic()
        print(f"| {seen} | {now - self._since:.1f} |", flush=True)
        self._since = now


def missing() -> str | None:
    """Why this cannot run here."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        return "needs root: containers without an engine's service"
    return f"needs {', '.join(absent)}: apt-get install --no-install-recommends {' '.join(absent)}" if absent else None


# Images


def base(engine: Engine, folder: Path) -> None:
    """Debian with python3, under the name that the Containerfiles ask for; the archive is kept between runs."""
    archive = CACHE / "base.tar"
    if not archive.exists():
        made = folder / "base.tar"
        packages = "--include=python3,ca-certificates"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", made], check=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, archive)
    container = engine.buildah("from", "scratch")
    engine.buildah("add", "--quiet", container, archive, "/")
    engine.buildah("config", "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", container)
    engine.buildah("commit", "--quiet", "--rm", container, BASE)


def build(engine: Engine, name: str, wheelhouse: Path) -> None:
    """In a network of its own, which has nobody in it."""
    options = ("--quiet", "--pull-never", "--layers", "--isolation", "chroot", "--format", "oci")
    file = ROOT / "images" / f"{name}.Containerfile"
    engine.buildah_alone("bud", *options, "--tag", IMAGES[name], "--file", file, wheelhouse)


def sbom(engine: Engine, name: str) -> int:
    """How many components the image's SBOM names."""
    read = "print(open('/opt/quantmill/quantmill.cdx.json').read())"
    document = json.loads(
        engine.podman("run", "--rm", "--network", "none", "--entrypoint", "python3", IMAGES[name], "-c", read)
    )
    assert document["bomFormat"] == "CycloneDX"
    names = {component["name"] for component in document["components"]}
    assert {"quantmill", "numpy", "fastapi"} <= names, names
    assert "pip" not in names
    return len(names)


# The installation


class Installation:
    """Containers of one installation, on the host's network as pods are on theirs."""

    def __init__(self, engine: Engine, folder: Path, database: str, broker: str) -> None:
        self._engine = engine
        self._data = folder / "data"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        secrets = folder / "secrets"
        for made in (self._data, secrets):
            made.mkdir()
        (secrets / "database").write_text(database)
        (secrets / "broker").write_text(broker)
        (secrets / "token").write_text(TOKEN)
        self._data.chmod(0o2770)  # as fsGroup makes it: group 0 may write
        settings = {
            "PORT": port,
            "QUEUE": "cpu",
            "SOURCE_ROOTS": '["/models"]',
            "HEARTBEAT_FILE": "/tmp/heartbeat",
            **QUICK,
        }
        settings |= {"DATABASE_URL_FILE": "/secrets/database", "BROKER_URL_FILE": "/secrets/broker"}
        settings["AUTOSCALING_TOKEN_FILE"] = "/secrets/token"
        self._options = [f"--env=QUANTMILL_{name}={value}" for name, value in settings.items()]
        self._options += ["--env=PYTHONPATH=/plugins", "--network=host", *RESTRICTED]
        shared = {self._data: "/var/lib/quantmill", secrets: "/secrets:ro", ROOT / "tests/plugins": "/plugins:ro"}
        shared[ROOT / "tests/data"] = "/models:ro"
        self._options += [f"--volume={source}:{place}" for source, place in shared.items()]

    def run(self, image: str, *command: str) -> str:
        """A container that ends by itself; what it printed."""
        return self._engine.podman("run", "--rm", *self._options, IMAGES[image], *command)

    def start(self, name: str, image: str, *command: str) -> None:
        self._engine.podman("run", "--detach", "--name", name, *self._options, IMAGES[image], *command)

    def inside(self, name: str, program: str) -> str:
        return self._engine.podman("exec", name, "python3", "-S", "-c", program)

    def stop(self, name: str) -> int:
        """SIGTERM to the first process; its exit code."""
        self._engine.podman("stop", "--time", "30", name)
        return int(self._engine.podman("inspect", "--format", "{{.State.ExitCode}}", name))

    def logs(self, name: str) -> str:
        return self._engine.podman("logs", "--tail", "20", name)


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """URLs of an empty PostgreSQL database and of Redis."""
    postgresql = PostgresqlServer()
    try:
        redis = RedisServer()
        try:
            yield postgresql.url(postgresql.create()), redis.url
        finally:
            redis.stop()
    finally:
        postgresql.stop()


def until(reached: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def one_job_over_two_workers(installation: Installation, client: Client, report: Report) -> JobView:
    """Stop the first worker in the middle of a job; the second one ends it."""
    params = {"type": "Q4_K_M", "rest_seconds": 0.3}
    job = client.submit("millstone-4m", "paced", params)
    installation.start("worker-1", "worker", "worker")
    until(lambda: (now := client.get(job.id)).progress is not None and now.progress.done > 5, 90, "a running job")
    report(f"worker-1: {' '.join(installation.inside('worker-1', STATUS).split())}")
    code = installation.stop("worker-1")
    handed_back = client.get(job.id)
    assert (code, handed_back.state) == (0, "queued"), (code, handed_back.state, installation.logs("worker-1"))
    report("worker-1 got SIGTERM in the middle, ended with 0, and the job is in the queue")
    told = httpx.get(
        f"{installation.url}/internal/autoscaling/cpu", headers={"Authorization": f"Bearer {TOKEN}"}
    ).json()
    assert told == {"queue": "cpu", "running": 0, "queued": 1, "jobs": 1}, told
    report("the queue has no worker, and an autoscaler is told of 1 job")
    installation.start("worker-2", "worker", "worker")
    ended = client.wait(job.id, 120)
    assert ended.state == "succeeded", ended.error
    return ended


def installed(engine: Engine, folder: Path, report: Report) -> None:
    with servers() as (database, broker):
        installation = Installation(engine, folder, database, broker)
        installation.start("api", "service", "serve")
        time.sleep(2)
        assert not is_ready(installation.url)
        migrated = [installation.run("service", "migrate").split()[-1] for _ in range(2)]
        until(lambda: is_ready(installation.url), 60, "an API that is ready")
        report(f"the API waited for its schema, {migrated[0]}; migrated twice")
        installation.start("scheduler", "service", "scheduler")
        with Client(installation.url) as client:
            job = one_job_over_two_workers(installation, client, report)
            resumed = [event.payload for event in client.events(job.id) if event.epoch == job.attempts[-1].epoch]
            done = next(payload["done"] for payload in resumed if payload.get("phase") == "quantize")
            outcomes = [attempt.outcome for attempt in job.attempts]
            assert outcomes == ["released", "succeeded"], outcomes
            report(
                f"worker-2 went on from unit {done}; attempts: {', '.join(outcomes)}; a loss would have failed the job"
            )
            client.download(job.artifact_digest or "", folder / "data" / "artifact")
        said = installation.run(
            "service", "verify", "/var/lib/quantmill/artifact", "--against", "/models/millstone-4m", "--json"
        )
        assert json.loads(said)["verification"], said
        report("the artifact is verified by another container against its source")
        installation.inside("worker-2", YOUNG)
        codes = {name: installation.stop(name) for name in ("worker-2", "scheduler", "api")}
        assert set(codes.values()) == {0}, codes
        report("the heartbeat file is young; worker, scheduler and API end with 0 at SIGTERM")


def main() -> int:
    if (reason := missing()) is not None:
        print(f"skipped: {reason}")
        return 0
    report = Report()
    with tempfile.TemporaryDirectory(prefix="quantmill-e2e-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        engine = Engine(folder)
        try:
            fill(folder / "wheelhouse", LOCKS / "service.txt")
            report(f"a wheelhouse of {len(list((folder / 'wheelhouse/wheels').iterdir()))} wheels, each with its hash")
            base(engine, folder)
            report("the base")
            for image in IMAGES:
                build(engine, image, folder / "wheelhouse")
                size = engine.podman("image", "inspect", "--format", "{{.Size}}", IMAGES[image])
                report(f"image {image}: {int(size) / 1e6:.0f} MB, built without network, SBOM of {sbom(engine, image)}")
            installed(engine, folder, report)
        finally:
            engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
