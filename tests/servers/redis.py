"""Redis for the tests: one server a run, emptied for each test."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from servers.process import Server, program


class RedisServer(Server):
    def __init__(self) -> None:
        super().__init__("redis")
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": "", "appendonly": "no"}
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.start([program("redis-server"), *given], self._answers)

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def ask(self, command: str) -> bytes:
        """Send an inline command and give the one line that answers it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(1024)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    assert redis_server.ask("FLUSHALL") == b"+OK\r\n"
    return redis_server.url
