"""One running service for the tests that only look from outside: `quantmill serve` on SQLite, with its own worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantmill.api.schemas import JobView
from quantmill.client import Client

QUANTMILL = Path(sys.executable).with_name("quantmill")
DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Service:
    url: str
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    command = [
        QUANTMILL,
        "serve",
        "--port",
        "0",
        "--data-dir",
        folder,
        "--source-root",
        DATA,
        "--threads",
        "2",
        "--json",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    yield Service(json.loads(process.stdout.readline())["url"], process)
    process.terminate()
    assert process.wait(30) == 0, (folder / "log").read_text()


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as opened:
        yield opened


@pytest.fixture(scope="session")
def finished(client: Client) -> JobView:
    """A job that ran to success."""
    job = client.wait(client.submit("millstone-4m", "gguf", {"type": "Q4_0"}, labels={"made": "once"}).id, 120)
    assert job.state == "succeeded", job.error
    return job
