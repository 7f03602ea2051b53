"""A registry of images and charts for the tests that have one: Debian's docker-registry, otherwise they are skipped."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.process import Server

CONFIGURATION = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class RegistryServer(Server):
    stop_signal = "TERM"  # an interrupt is ignored where a shell started the server in the background

    def __init__(self, program: str) -> None:
        super().__init__("registry")
        configuration = self.folder / "registry.yml"
        configuration.write_text(CONFIGURATION.format(folder=self.folder, port=self.port))
        configuration.chmod(0o644)
        self.start([program, "serve", str(configuration)], self._answers)

    def _answers(self) -> bool:
        try:
            return self.ask("") == {}
        except OSError:
            return False

    def ask(self, path: str) -> object:
        """The answer to a GET of /v2/`path`."""
        with urllib.request.urlopen(f"http://{self.host}/v2/{path}", timeout=10) as answer:
            return json.load(answer)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None or not Path(program).is_file():
        pytest.skip("docker-registry is not installed (Debian: apt-get install docker-registry)")
    server = RegistryServer(program)
    yield server
    server.stop()
