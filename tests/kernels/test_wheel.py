"""The wheel that `pip wheel --no-deps .` builds, and its kernels where nothing else is installed but numpy."""

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOREIGN, OURS = ("neon", "avx512, avx2, scalar") if platform.machine() == "x86_64" else ("avx2", "neon, scalar")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built where the editable install was: what that one compiled is not compiled again."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def packages(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's kernels, and with numpy."""
    folder = tmp_path_factory.mktemp("packages")
    wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith("quantmill_kernels/")])
    (folder / "numpy").symlink_to(Path(np.__file__).parent)
    return folder


def run_with(packages: Path, code: str, isa: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(packages)!r}); {code}"]
    environment = os.environ | {"QUANTMILL_ISA": isa}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.timeout(1800)  # for whoever has no editable install
def test_the_wheel_has_the_module_its_types_and_the_licence(wheel: zipfile.ZipFile) -> None:
    kernels = [Path(name).name for name in wheel.namelist() if name.startswith("quantmill_kernels/")]

    assert {name.partition(".cpython")[0] for name in kernels} == {"__init__.py", "_native", "_native.pyi", "py.typed"}
    assert "quantmill-0.1.0.dist-info/licenses/LICENSE" in wheel.namelist()


def test_the_wheel_has_nothing_of_tests_benchmarks_and_sources(wheel: zipfile.ZipFile) -> None:
    folders = {part for name in wheel.namelist() for part in Path(name).parts[:-1]}
    files = [name for name in wheel.namelist() if Path(name).name.startswith(("test_", "conftest", "CMakeLists"))]

    assert folders & {"tests", "bench", "kernels", "src", "build"} == set()
    assert [*files, *(name for name in wheel.namelist() if name.endswith((".cpp", ".h", ".o", ".a")))] == []


def test_the_kernels_of_the_wheel_work_with_numpy_alone(packages: Path) -> None:
    code = "import numpy, quantmill_kernels as k; print(k.encode('F16', numpy.ones((1, 2), numpy.float32)).tolist())"

    process = run_with(packages, code, isa="")

    assert (process.stdout, process.stderr) == ("[[0, 60, 0, 60]]\n", "")


def test_the_wheel_has_every_instruction_set_of_its_architecture(packages: Path) -> None:
    process = run_with(packages, "import quantmill_kernels", isa=FOREIGN)

    assert process.stderr.strip().endswith(f"is not in this build of quantmill_kernels, which has: {OURS}")
