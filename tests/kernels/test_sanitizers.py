"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer, without Python around it."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "kernels" / "src"
LAWS = ROOT / "tests" / "kernels" / "native"
COMPILER = os.environ.get("CXX", "c++")
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
FLAGS = ["-std=c++20", "-O0", "-g1", SANITIZERS, "-fno-sanitize-recover=all", "-ffp-contract=off", "-Wno-psabi"]


def units() -> list[tuple[Path, str, list[str]]]:
    """(source, name of the object, flags). The scalar column alone: the others are compiled from the same lines."""
    once = [*SOURCES.glob("*.cpp"), *LAWS.glob("*.cpp")]
    per_isa = [source for source in SOURCES.glob("*/*.cpp") if source.parent.name != "bindings"]
    return [(source, source.stem, ["-DQUANTMILL_UNIT=scalar"]) for source in (*once, *per_isa)]


def compiled(source: Path, name: str, flags: list[str], folder: Path) -> Path:
    unit = folder / f"{name}.o"
    subprocess.run([COMPILER, *FLAGS, *flags, f"-I{SOURCES}", f"-I{LAWS}", "-c", source, "-o", unit], check=True)
    return unit


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laws")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda unit: compiled(*unit, folder), units()))
    program = folder / "laws"
    subprocess.run([COMPILER, SANITIZERS, *objects, "-pthread", "-o", program], check=True)
    return program


def test_no_codec_leaves_its_buffers_or_the_defined_language(laws: Path) -> None:
    process = subprocess.run([laws], capture_output=True, text=True, check=False)

    assert (process.returncode, process.stdout, process.stderr) == (0, "0 laws broken\n", "")
