"""The servers that the tests start: gone after the run, however it ended."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
KINDS = {
    "postgresql": "from servers.postgresql import PostgresqlServer as Server",
    "redis": "from servers.redis import RedisServer as Server",
}


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_gone(port: int, folder: Path) -> None:
    deadline = time.monotonic() + 20
    while (listening(port) or folder.exists()) and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_leaves_neither_server_nor_files(kind: str) -> None:
    code = (
        f"{KINDS[kind]}; import time; server = Server(); print(server.port, server.folder, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    port, folder = run.stdout.readline().split()
    assert listening(int(port))

    run.kill()
    run.wait()
    run.stdout.close()
    wait_until_gone(int(port), Path(folder))

    assert not listening(int(port))
    assert not Path(folder).exists()


def test_redis_is_empty_for_each_test(redis_url: str) -> None:
    host, port = redis_url.removeprefix("redis://").removesuffix("/0").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"DBSIZE\r\n")
        assert connection.recv(16) == b":0\r\n"
