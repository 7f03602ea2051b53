"""A job whose weights decide its plan: it is settled once, and later attempts go by that."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from quantmill.contract.tensors import Plan
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.plugins import load_plugins
from quantmill.worker.messages import Finished, PlanSettled, SourceKnown, Start, UnitFinished
from quantmill.worker.pipeline import run

DATA = Path(__file__).parents[2] / "data"
ON_TEXT = CalibrationOptions(str(DATA / "text" / "calibration.txt"), samples=4, window=64)


def attempt(folder, plan, *, finished=(), source_digest=None, calibration=None, **params):
    """The messages of one attempt whose export goes to the new folder `artifact`."""
    said = []
    work = folder / f"{len(list(folder.iterdir()))}"
    work.mkdir()
    task = Start(
        source=DATA / "millstone-4m",
        method="gguf",
        params={"target_bpw": 4.5} | params,
        seed=0,
        threads=2,
        device="cpu",
        plan=plan,
        source_digest=source_digest,
        evaluation_text=None,
        evaluation=EvaluationOptions(),
        calibration=calibration,
        statistics_cache=folder / "statistics",
        statistics_cache_bytes=1 << 30,
        evaluation_cache=folder / "evaluation",
        evaluation_cache_bytes=1 << 30,
        memory_bytes=None,
        unit_store=folder / "units",
        export_folder=work / "artifact",
        finished=tuple(finished),
    )
    run(task, load_plugins(), said.append, threading.Event())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.export_folder.iterdir()}
    return said, files


def of_kind(kind, said):
    return [message for message in said if isinstance(message, kind)]


@pytest.mark.parametrize(
    ("params", "calibration"), [({}, None), ({"imatrix": "auto"}, ON_TEXT)], ids=["weights", "weights and text"]
)
def test_an_attempt_that_is_told_what_was_settled_measures_nothing_and_makes_the_same_bytes(
    tmp_path, params, calibration
):
    first, files = attempt(tmp_path, {}, calibration=calibration, **params)
    (settled,) = of_kind(PlanSettled, first)
    half = [message.unit for message in of_kind(UnitFinished, first)][:20]

    digest = of_kind(SourceKnown, first)[0].digest
    second, again = attempt(
        tmp_path, settled.plan, finished=half, source_digest=digest, calibration=calibration, **params
    )

    assert again == files
    assert of_kind(PlanSettled, second) == []
    assert len(of_kind(UnitFinished, second)) == len(of_kind(UnitFinished, first)) - 20
    assert of_kind(Finished, second)[0].plan == of_kind(Finished, first)[0].plan == settled.plan
    assert Plan.from_json(settled.plan).settled
