"""`quantmill serve` as a process: ready with its first line, light, and gone when told."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

QUANTMILL = Path(sys.executable).with_name("quantmill")


@contextmanager
def serving(*options):
    process = subprocess.Popen(
        [QUANTMILL, "serve", "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_first_start_migrates_and_is_ready_when_it_says_where(tmp_path):
    with serving("--port", "0", "--data-dir", tmp_path) as process:
        url = json.loads(process.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/readyz") as response:
            assert response.status == 200


def test_the_api_imports_neither_torch_nor_transformers():
    program = (
        "import sys, quantmill.api.app, quantmill.cli, quantmill.client, quantmill.dispatch.embedded;"
        "from quantmill.plugins import load_plugins; load_plugins();"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )

    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_it_listens_on_loopback_unless_told_otherwise(tmp_path):
    with serving("--port", "0", "--data-dir", tmp_path) as process:
        assert json.loads(process.stdout.readline())["url"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_told(tmp_path, number):
    with serving("--port", "0", "--data-dir", tmp_path) as process:
        url = json.loads(process.stdout.readline())["url"]
        urllib.request.urlopen(f"{url}/livez").close()

        process.send_signal(number)

        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving("--port", str(port), "--data-dir", tmp_path) as process:
            _, told = process.communicate(timeout=60)

    assert process.returncode == 4
    assert str(port) in json.loads(told)["detail"]
