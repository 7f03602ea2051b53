"""The laws of the native code under sanitizers, without Python around them."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# -O0 compiles in the least time, and every instruction set gives the bytes that -O3 gives.
MEMORY = ("laws", "-O0", "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all")
THREADS = ("thread_laws", "-O1", "-fsanitize=thread")


def built(program: str, optimization: str, sanitizers: str) -> Path:
    """The program of tests/kernels/native; what has not changed since the last run is not compiled again."""
    folder = ROOT / "build" / f"sanitized_{program}"
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "QUANTMILL_LAWS": "ON",
        "QUANTMILL_OPTIMIZATION": optimization,
        "CMAKE_CXX_FLAGS": f"-g1 {sanitizers}",
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_MAKE_PROGRAM": BIN / "ninja",
    }
    defines = [f"-D{name}={value}" for name, value in options.items()]
    configure = [BIN / "cmake", "-G", "Ninja", "-S", ROOT / "kernels", "-B", folder, *defines]
    build = [BIN / "cmake", "--build", folder, "--target", program, "--parallel", str(len(os.sched_getaffinity(0)))]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (configure, build):
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            assert process.returncode == 0, process.stdout + process.stderr
    return folder / "laws" / program


@pytest.mark.timeout(1800)  # on a busy machine; 45 s on two cores
@pytest.mark.parametrize(("program", "optimization", "sanitizers"), [MEMORY, THREADS], ids=["memory", "threads"])
def test_the_laws_hold_under_sanitizers(program: str, optimization: str, sanitizers: str) -> None:
    laws = built(program, optimization, sanitizers)

    process = subprocess.run([laws], capture_output=True, text=True, check=False)

    assert (process.returncode, process.stdout, process.stderr) == (0, "0 laws broken\n", "")
