"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer, without Python around it."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "kernels" / "src"
LAWS = ROOT / "tests" / "kernels" / "native" / "laws.cpp"
COMPILER = os.environ.get("CXX", "c++")
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
FLAGS = ["-std=c++20", "-O1", "-g1", SANITIZERS, "-fno-sanitize-recover=all", "-ffp-contract=off", "-Wno-psabi"]


def compiled(source: Path, folder: Path) -> Path:
    unit = folder / f"{source.stem}.o"
    subprocess.run([COMPILER, *FLAGS, f"-I{SOURCES}", "-c", source, "-o", unit], check=True)
    return unit


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laws")
    sources = [*SOURCES.rglob("*.cpp"), LAWS]
    sources.remove(SOURCES / "bindings.cpp")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        units = list(pool.map(lambda source: compiled(source, folder), sources))
    program = folder / "laws"
    subprocess.run([COMPILER, SANITIZERS, *units, "-pthread", "-o", program], check=True)
    return program


def test_no_codec_leaves_its_buffers_or_the_defined_language(laws: Path) -> None:
    process = subprocess.run([laws], capture_output=True, text=True, check=False)

    assert (process.returncode, process.stdout, process.stderr) == (0, "0 laws broken\n", "")
