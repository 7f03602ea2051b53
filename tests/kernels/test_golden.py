"""Our bytes and values are GGML's own, on rows that tests/kernels/make_golden.py had libggml encode."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import quantmill_kernels as kernels

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "ggml"
FORMATS = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K"]
KNOW_IMATRIX = ["Q4_0", "Q4_K", "Q5_K", "Q6_K"]
CASES = ["edges", "heavy_tailed", "model_256", "model_768"]
THREADS = [1, 2, 4]


@cache
def load(name: str) -> dict[str, NDArray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def imatrix_for(values: NDArray) -> NDArray:
    return load("inputs")[f"imatrix.{values.shape[1]}"]


def differing_rows(case: str, ours: NDArray, golden: NDArray) -> list[str]:
    names = load("inputs").get(f"{case}.names", np.arange(len(golden)).astype(str))
    return [str(name) for name, equal in zip(names, (ours == golden).all(axis=1), strict=True) if not equal]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMATS)
def test_bytes_are_ggmls(name: str, case: str, threads: int) -> None:
    packed = kernels.encode(name, load("inputs")[case], threads=threads)

    assert differing_rows(case, packed, load(name)[case]) == []


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", KNOW_IMATRIX)
def test_bytes_are_ggmls_with_an_importance_matrix(name: str, case: str, threads: int) -> None:
    values = load("inputs")[case]

    packed = kernels.encode(name, values, imatrix=imatrix_for(values), threads=threads)

    assert differing_rows(case, packed, load(name)[f"{case}.imatrix"]) == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(KNOW_IMATRIX)))
def test_a_format_that_knows_no_importance_matrix_ignores_it(name: str, case: str) -> None:
    values = load("inputs")[case]

    packed = kernels.encode(name, values, imatrix=imatrix_for(values))

    assert differing_rows(case, packed, load(name)[case]) == []


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMATS)
def test_values_are_ggmls_to_the_bit(name: str, case: str, threads: int) -> None:
    cols = load("inputs")[case].shape[1]

    values = kernels.decode(name, load(name)[case], cols, threads=threads)

    digest = hashlib.sha256(values.tobytes()).digest()
    assert digest == load(name)[f"{case}.decoded_sha256"].tobytes()


def test_every_format_but_float32_has_golden_bytes() -> None:
    assert set(kernels.formats()) - {"F32"} == set(FORMATS)
    assert {path.stem for path in GOLDEN.glob("*.npz")} == {*FORMATS, "inputs"}
