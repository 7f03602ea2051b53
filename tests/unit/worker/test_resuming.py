"""What a new attempt at a calibrated job can build on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.errors import ErrorKind, QuantmillError
from quantmill.contract.tensors import Plan, TensorPlan, Unit
from quantmill.files.blobs import BlobStore
from quantmill.worker.calibrated import find_worker_device, usable
from quantmill.worker.messages import Findings, FinishedUnit
from quantmill.worker.runner import explain

NAMES = ("block.0", "block.1", "block.2", "head")
ROWS = tuple(TensorPlan(name, (1, 32), "F32", "quantize", "Q8_0", name, 34) for name in NAMES)
WALKED = Plan(
    ROWS,
    tuple(Unit(name, (name,), number if number < 3 else None) for number, name in enumerate(NAMES)),
    0,
    calibration=CalibrationNeed(of_blocks=("hessian",)),
)
ON_CUDA = "cuda Tesla T9"


def finished(store: BlobStore, keys: tuple[str, ...], device: str) -> list[FinishedUnit]:
    findings = Findings(device=device)
    carries = {key: store.put_bytes(key.encode()).digest for key in keys if key.startswith("block")}
    return [
        FinishedUnit(key=key, digest=f"sha256:{0:064}", size=34, carry=carries.get(key), findings=findings)
        for key in keys
    ]


@pytest.mark.parametrize(
    ("on_cpu", "on_cuda", "here", "expected"),
    [
        (NAMES[:2], (), "cpu", NAMES[:2]),
        (NAMES[:2], (), ON_CUDA, ()),
        ((), NAMES, "cpu", ()),
        ((), NAMES[:2], "cuda Tesla T8", ()),
        (("block.0", "head"), ("block.1", "block.2"), "cpu", ("block.0", "head")),
        (("block.0", "head"), ("block.1", "block.2"), ON_CUDA, ()),
    ],
)
def test_units_that_were_calibrated_on_another_kind_of_device_are_done_anew(
    tmp_path: Path, on_cpu: tuple[str, ...], on_cuda: tuple[str, ...], here: str, expected: tuple[str, ...]
) -> None:
    store = BlobStore(tmp_path)
    known = finished(store, on_cpu, "cpu") + finished(store, on_cuda, ON_CUDA)

    assert tuple(unit.key for unit in usable(WALKED, known, tmp_path, here)) == expected


def test_a_worker_that_lacks_its_device_is_at_fault_and_not_the_request() -> None:
    with pytest.raises(QuantmillError, match="QUANTMILL_DEVICE: 'abacus' is not a device of this machine") as caught:
        find_worker_device("abacus")

    assert caught.value.kind is ErrorKind.INFRASTRUCTURE


def test_a_device_whose_memory_runs_out_is_said() -> None:
    error = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "gptq")

    assert error["kind"] == ErrorKind.RESOURCE
    assert "device's memory ran out" in str(error["detail"])
