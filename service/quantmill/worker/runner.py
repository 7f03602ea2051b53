"""The runner: the child process that runs a method. Started as `python -m quantmill.worker.runner FD`.

It has no database credentials and speaks only through the socket FD. When its supervisor goes away the socket closes,
and the runner ends itself and its process group at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback

from quantmill.contract.errors import PluginBroken, QuantmillError, ResourceExhausted, describe
from quantmill.files.atomic import FULL
from quantmill.plugins import load_plugins
from quantmill.worker.environment import peak_memory_bytes
from quantmill.worker.messages import TO_RUNNER, Cancel, Failed, Start, receive, send
from quantmill.worker.pipeline import run


def main(connection: socket.socket) -> int:
    frame = receive(connection)
    if frame is None:  # the supervisor died before it said anything
        return 1
    start = TO_RUNNER.validate_python(frame)
    assert isinstance(start, Start)
    canceled = threading.Event()
    threading.Thread(target=listen, args=(connection, canceled), daemon=True).start()
    try:
        run(start, load_plugins(), lambda message: send(connection, message), canceled)
    except Exception as error:
        send(connection, Failed(error=explain(error, start.method), peak_memory_bytes=peak_memory_bytes()))
        return 1
    return 0


def listen(connection: socket.socket, canceled: threading.Event) -> None:
    """Wait for Cancel; take the end of the stream as the supervisor's death."""
    while (frame := receive(connection)) is not None:
        if isinstance(TO_RUNNER.validate_python(frame), Cancel):
            canceled.set()
    os.killpg(0, signal.SIGKILL)


def explain(error: Exception, method: str) -> dict[str, object]:
    """Any exception as the typed error that the job's row keeps."""
    if isinstance(error, QuantmillError):
        return describe(error)
    traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        return describe(QuantmillError(f"this worker lacks {error.name}; install it with 'quantmill[worker]'"))
    if isinstance(error, MemoryError):
        return describe(ResourceExhausted("memory ran out; give the worker more, or choose a smaller unit"))
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for it
        return describe(ResourceExhausted("the device's memory ran out; use fewer threads or a smaller window"))
    if isinstance(error, OSError) and error.errno in FULL:
        return describe(ResourceExhausted(f"{FULL[error.errno]}; make room in the data folder and retry the job"))
    if isinstance(error, OSError):
        return describe(QuantmillError(f"{type(error).__name__}: {error}"))
    return describe(PluginBroken(f"method {method!r} raised {type(error).__name__}: {error}", method=method))


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
