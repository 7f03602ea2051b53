"""The pool of threads as a Python program meets it, each in a process of its own. Its laws: native/thread_laws.cpp."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import quantmill_kernels as kernels

VALUES = (np.random.default_rng(5).standard_t(5, (64, 4096)) * 0.02).astype(np.float32)  # 16 ranges of rows
CPUS = len(os.sched_getaffinity(0))


def in_a_process(program: Callable[[], object]) -> object:
    """What one of this module's functions returns in a process that has called nothing before."""
    command = [sys.executable, __file__, program.__name__]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (process.returncode, process.stderr) == (0, "")
    return json.loads(process.stdout)


def helpers() -> list[Path]:
    """The threads of the pool in /proc."""
    tasks = Path("/proc/self/task").iterdir()
    return [task for task in tasks if (task / "comm").read_text() == "quantmill rows\n"]


def start_callers(n: int, encode: Callable[[], object]) -> list[threading.Thread]:
    callers = [threading.Thread(target=encode, daemon=True) for _ in range(n)]
    for caller in callers:
        caller.start()
    return callers


def encode_forever() -> None:
    while True:
        kernels.encode("Q8_0", VALUES, threads=2)


def packed_in_a_child_of_fork() -> bytes:
    """Q8_0 of VALUES by two threads of a forked child, which is killed when it hangs."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(kernels.encode("Q8_0", VALUES, threads=2).tobytes())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        packed = pipe.read()
    os.waitpid(child, 0)
    return packed


# ---- when threads start, and how many ----


def threads_started_by_one_and_by_many() -> tuple[int, int]:
    kernels.encode("Q8_0", VALUES)
    kernels.encode("Q8_0", VALUES[:4], threads=64)  # one range of rows
    alone = len(helpers())
    kernels.encode("Q8_0", VALUES, threads=64)
    return alone, len(helpers())


def test_no_thread_is_started_before_a_call_asks_for_two() -> None:
    alone, together = in_a_process(threads_started_by_one_and_by_many)

    assert alone == 0
    assert min(CPUS, 2) - 1 <= together <= CPUS - 1


def threads_started_by_eight_callers() -> int:
    for caller in start_callers(8, lambda: [kernels.encode("Q8_0", VALUES, threads=8) for _ in range(20)]):
        caller.join()
    return len(helpers())


def test_many_callers_start_fewer_threads_than_the_process_has_cpus() -> None:
    assert in_a_process(threads_started_by_eight_callers) <= CPUS - 1


# ---- fork and exit ----


def what_three_children_pack() -> list[bool]:
    expected = kernels.encode("Q8_0", VALUES, threads=2).tobytes()
    return [packed_in_a_child_of_fork() == expected for _ in range(3)]


def test_a_child_of_fork_has_threads_of_its_own() -> None:
    assert in_a_process(what_three_children_pack) == [True] * 3


def what_children_pack_that_were_forked_from_the_midst() -> list[bool]:
    expected = kernels.encode("Q8_0", VALUES).tobytes()
    start_callers(2, encode_forever)
    return [packed_in_a_child_of_fork() == expected for _ in range(20)]


def test_a_process_may_fork_while_other_threads_encode() -> None:
    assert in_a_process(what_children_pack_that_were_forked_from_the_midst) == [True] * 20


def end_while_threads_encode() -> None:
    start_callers(2, encode_forever)
    time.sleep(0.05)


def test_a_program_may_end_while_its_threads_encode() -> None:
    assert in_a_process(end_while_threads_encode) is None


def test_every_binding_lets_a_program_end_while_it_runs() -> None:
    bindings = Path(__file__).parents[2] / "kernels" / "src" / "bindings"

    assert [path.name for path in bindings.glob("*.cpp") if "gil_scoped_release" in path.read_text()] == [], (
        "GilReleased of arrays.h"
    )


# ---- threads without work ----


def processor_time_of_idle_threads() -> float:
    kernels.encode("Q8_0", VALUES, threads=2)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    return time.process_time() - before


def test_threads_without_work_use_no_processor_time() -> None:
    assert in_a_process(processor_time_of_idle_threads) < 0.1  # of the 0.2 s of each of two that would spin


def signals_that_a_helper_blocks() -> list[str]:
    kernels.encode("Q8_0", VALUES, threads=2)
    time.sleep(0.2)  # a thread that is being made blocks every signal
    (helper,) = helpers()
    status = (helper / "status").read_text().splitlines()
    blocked = next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk:"))
    return [
        one.name for one in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGSEGV) if blocked >> one - 1 & 1
    ]


@pytest.mark.skipif(CPUS == 1, reason="a process with one CPU has no helpers")
def test_signals_are_left_to_the_threads_of_the_program() -> None:
    assert in_a_process(signals_that_a_helper_blocks) == ["SIGTERM", "SIGINT", "SIGCHLD"]


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
