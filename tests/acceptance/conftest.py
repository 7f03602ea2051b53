"""One running service for the tests that only look from outside: `quantmill serve` on SQLite, with its own worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantmill.api.schemas import ComparisonView, JobView
from quantmill.client import Client

QUANTMILL = Path(sys.executable).with_name("quantmill")
DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Service:
    """`text` is a short one below a source root of its own: evaluating on it takes a second."""

    url: str
    process: subprocess.Popen[str]
    text: Path


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    text = folder / "texts" / "short.txt"
    text.parent.mkdir()
    text.write_text((DATA / "text" / "evaluation.txt").read_text()[:4000])
    command = [
        QUANTMILL,
        "serve",
        "--port",
        "0",
        "--data-dir",
        folder,
        "--source-root",
        DATA,
        "--source-root",
        text.parent,
        "--threads",
        "2",
        "--json",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    yield Service(json.loads(process.stdout.readline())["url"], process, text)
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


@pytest.fixture(scope="session")
def compared(client: Client, service: Service) -> ComparisonView:
    """A comparison that has ended: a variant that succeeded, and one that missed a gate."""
    variants = [("gguf", {"type": "Q8_0"}), ("gguf", {"type": "Q4_0"})]
    made = client.compare("millstone-4m", str(service.text), variants, gates=["bpw >= 8"], idempotency_key="compared")
    return client.wait_for_comparison(made.id, 120)
