"""What `helm test` runs in its pods, against a service that works and against ones that do not."""

from __future__ import annotations

import json
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from quantmill.contract.errors import QuantmillError

SCRIPTS = Path(__file__).parents[3] / "helm" / "quantmill" / "files" / "tests"
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a script as its pod does; gives the exit code."""

    def script(name: str, *arguments: str, **environ: object) -> int:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        for variable, value in environ.items():
            monkeypatch.setenv(variable, str(value))
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        except SystemExit as end:
            return int(end.code) if isinstance(end.code, int) else 1
        return 0

    return script


@pytest.fixture
def degraded() -> Iterator[str]:
    """The URL of a service whose broker is away."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"status": "degraded"}).encode())

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_service_that_works_is_ready(service, run):
    assert run("ready.py", QUANTMILL_SERVER=service.url) == 0


def test_a_service_without_its_broker_is_not(degraded, run):
    assert run("ready.py", QUANTMILL_SERVER=degraded) == 1


def test_workers_are_waited_for_by_the_names_of_their_pods(service, client, run, capsys):
    [worker] = client.workers().items

    assert run("workers.py", "0", f"{worker.host[:3]}=1", QUANTMILL_SERVER=service.url) == 0
    assert capsys.readouterr().out == "1 workers of 1 pools have registered\n"
    assert run("workers.py", "0", f"{worker.host[:3]}=2", "another-=1", QUANTMILL_SERVER=service.url) == 1


def test_a_model_is_compressed_and_nothing_of_it_stays_among_the_sources(service, client, run, capsys):
    root = service.text.parent  # below a source root, as <data folder>/sources is

    code = run("compress.py", "120", QUANTMILL_SERVER=service.url, QUANTMILL_DATA_DIR=root)

    [job] = client.list(label="test=helm").items
    assert (code, job.state) == (0, "succeeded")
    assert capsys.readouterr().out.startswith(f"{client.get(job.id).artifact_digest}: ")
    assert list((root / "sources").iterdir()) == []


def test_a_model_that_is_not_there_fails_the_test(service, run):
    with pytest.raises(QuantmillError):
        run("compress.py", "120", "no-such-model", QUANTMILL_SERVER=service.url)
