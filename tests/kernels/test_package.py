import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import quantmill_kernels as kernels

FOREIGN, OURS = ("neon", "avx512, avx2, scalar") if platform.machine() == "x86_64" else ("avx2", "neon, scalar")
KERNELS = Path(__file__).parents[2] / "kernels"


def isa_in_a_process(forced: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import quantmill_kernels; print(quantmill_kernels.isa())"],
        env=os.environ | {"QUANTMILL_ISA": forced},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("forced", ["scalar", ""])
def test_quantmill_isa_forces_an_instruction_set(forced: str) -> None:
    process = isa_in_a_process(forced)

    assert (process.returncode, process.stdout.strip()) == (0, forced or kernels.isa())


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        (FOREIGN, f"QUANTMILL_ISA={FOREIGN} is not in this build of quantmill_kernels, which has: {OURS}"),
        ("sse9", "QUANTMILL_ISA=sse9 is none of scalar, avx2, avx512, neon"),
    ],
)
def test_an_instruction_set_that_cannot_run_stops_the_import(forced: str, message: str) -> None:
    process = isa_in_a_process(forced)

    assert process.returncode != 0
    assert process.stderr.strip().splitlines()[-1] == f"ImportError: {message}"


def test_a_format_says_its_size() -> None:
    q4_k = kernels.formats()["Q4_K"]

    assert (q4_k.name, q4_k.block_values, q4_k.block_bytes, q4_k.bits_per_weight) == ("Q4_K", 256, 144, 4.5)


@pytest.mark.parametrize("name", kernels.formats())
def test_the_readme_states_the_size_of_every_format(name: str) -> None:
    form = kernels.formats()[name]
    block = f"{form.block_values} value{'s' * (form.block_values > 1)}, {form.block_bytes} bytes"

    assert f"| {name} | {form.bits_per_weight:g} | {block} |" in (KERNELS / "README.md").read_text()


def test_the_committed_stubs_are_current(tmp_path: Path) -> None:
    generated = tmp_path / "_native.pyi"

    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "quantmill_kernels._native", "-o", generated]
    subprocess.run(command, check=True)

    assert (KERNELS / "quantmill_kernels" / "_native.pyi").read_text() == generated.read_text(), (
        "cmake --build <folder> --target stubs"
    )


def test_importing_the_package_imports_numpy_at_most() -> None:
    code = "import sys, quantmill_kernels; print([name for name in sys.argv[1:] if name in sys.modules])"
    foreign = ["torch", "ml_dtypes", "quantmill", "gguf", "transformers"]

    output = subprocess.run([sys.executable, "-c", code, *foreign], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "[]"
