"""The runner as its supervisor sees it: a process group, a socket and a way to end both."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
from pydantic import ValidationError

from quantmill.worker.messages import TO_SUPERVISOR, Message, receive, send

# What a runner inherits. No QUANTMILL_ setting but the instruction set: those carry credentials. The folders are where
# libraries keep their caches; by default they lie below HOME, which a container may have read-only or not at all.
INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "NUMBA_CACHE_DIR",
    "MPLCONFIGDIR",
    "CUDA_CACHE_PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CUDA_VISIBLE_DEVICES",
    "QUANTMILL_ISA",
)
FIXED = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # else CUDA's products may differ from run to run
    "OMP_WAIT_POLICY": "PASSIVE",  # torch's threads sleep while they wait: a spinning one starves its busy neighbours
}


@dataclass(frozen=True)
class Ended:
    """The runner's end of the conversation: it exited, or said something that is not in the protocol."""

    exit_code: int | None
    signal: int | None
    peak_memory_bytes: int
    broken: str = ""

    @property
    def reason(self) -> str:
        if self.broken:
            return f"the runner broke the protocol: {self.broken}"
        if self.signal is not None:
            hint = " (out of memory, perhaps)" if self.signal == signal.SIGKILL else ""
            return f"the runner was ended by {signal.Signals(self.signal).name}{hint}"
        return f"the runner exited with code {self.exit_code} without a result"


class Child:
    """A running runner. A thread of its own reads its frames, so that a silent runner never blocks the supervisor."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._inbox: queue.Queue[Message | Ended] = queue.Queue()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "quantmill.worker.runner", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={name: environ[name] for name in INHERITED if name in environ} | FIXED,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Message) -> None:
        """Tell the runner something; one that is already gone shows as Ended in the inbox instead."""
        try:
            send(self._socket, message)
        except OSError:
            return

    def receive(self, timeout: float) -> Message | Ended | None:
        """The next message, Ended once the runner has gone, or None when it said nothing for `timeout` seconds."""
        try:
            return self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None

    def resident_bytes(self) -> int:
        """Resident memory of the runner and its descendants."""
        try:
            family = [parent := psutil.Process(self.pid), *parent.children(recursive=True)]
            return sum(process.memory_info().rss for process in family)
        except psutil.Error:
            return 0

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole process group; harmless when it has gone."""
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return

    def close(self) -> None:
        """End the runner if it still lives, and wait for its end."""
        self.signal(signal.SIGKILL)
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        broken = ""
        try:
            while (frame := receive(self._socket)) is not None:
                self._inbox.put(TO_SUPERVISOR.validate_python(frame))
        except (ValueError, ValidationError, RecursionError) as error:
            broken = str(error).splitlines()[0]
            self.signal(signal.SIGKILL)
        except OSError:
            pass
        self._inbox.put(self._wait(broken))

    def _wait(self, broken: str) -> Ended:
        """Reap the runner; wait4 instead of Popen.wait because only it tells the peak memory of this one child."""
        _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        return Ended(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            peak_memory_bytes=usage.ru_maxrss * 1024,
            broken=broken,
        )
