"""A server program that lives as long as the test run, however that ends."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

INSTALL = Path(__file__).parent / "install.sh"
START_SECONDS = 30
STOP_SECONDS = 20

# Runs the server beside itself and waits for the end of its standard input, which the test run holds open: a run that
# is killed closes it as well. Then it stops the server and removes its folder.
WATCHDOG = """
folder=$1; signal=$2; shift 2
"$@" </dev/null >"$folder/log" 2>&1 &
server=$!
trap '' INT TERM HUP
while read -r _; do :; done
kill -"$signal" "$server" 2>/dev/null
( sleep 10; kill -KILL "$server" 2>/dev/null ) & impatient=$!
wait "$server"
kill "$impatient" 2>/dev/null
rm -rf "$folder"
"""


def program(name: str) -> str:
    """The newest installed `name`, from the PATH or from where Debian keeps PostgreSQL's server programs."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    found = shutil.which(name) or (str(debian[-1]) if debian else None)
    if found is None:
        pytest.fail(f"{name} is not installed; run {INSTALL} (or `make servers`)", pytrace=False)
    return found


def unprivileged() -> pwd.struct_passwd | None:
    """Whom servers run as: PostgreSQL refuses root. None for the user we are."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name: user for user in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def as_user(user: pwd.struct_passwd | None) -> dict[str, object]:
    """Arguments for subprocess that change to `user`."""
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A folder and a process in it, both owned by an unprivileged user and both gone after `stop`."""

    stop_signal = "INT"

    def __init__(self, name: str) -> None:
        self.user = unprivileged()
        self.folder = Path(tempfile.mkdtemp(prefix=f"quantmill-{name}-"))
        self.port = free_port()
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)

    def run(self, *command: str) -> None:
        """Run a command of the server's to its end, as its user."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, **as_user(self.user)
        )
        if done.returncode != 0:
            shutil.rmtree(self.folder)
            pytest.fail(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}", pytrace=False)

    def start(self, command: Sequence[str], answers: Callable[[], bool]) -> None:
        """Start the server and wait until it answers. It is in a session of its own: Ctrl-C is not meant for it."""
        self.watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self.folder), self.stop_signal, *command],
            stdin=subprocess.PIPE,
            cwd=self.folder,
            start_new_session=True,
            **as_user(self.user),
        )
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if time.monotonic() > deadline:
                log = (self.folder / "log").read_text()
                self.stop()
                pytest.fail(f"{command[0]} does not answer on port {self.port}; its log:\n{log}", pytrace=False)
            time.sleep(0.02)

    def stop(self) -> None:
        assert self.watchdog.stdin is not None
        self.watchdog.stdin.close()
        self.watchdog.wait(STOP_SECONDS)
