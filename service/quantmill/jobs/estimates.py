"""What a planned job will take, by a formula that the history of such jobs corrects."""

from __future__ import annotations

from pathlib import Path

from quantmill.contract.calibration import CalibrationCost, calibration_cost
from quantmill.contract.tensors import ModelIndex
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.estimates import Estimate, Features, History, predict
from quantmill.domain.jobs import JobRequest
from quantmill.jobs.plan import Planned
from quantmill.services import Services
from quantmill.store.database import Database
from quantmill.store.estimates import history

# Of two cores of a Xeon (AVX-512), `python tests/benchmarks/streaming.py` and `calibration.py`; other machines and
# methods are what the history is for.
SECONDS_TO_START = 1.5
SECONDS_PER_SOURCE_BYTE = 1.2e-9  # digest
SECONDS_PER_VALUE = 8e-9  # quantize, write, verify
SECONDS_PER_ARTIFACT_BYTE = 1.5e-9  # digest, twice
SECONDS_TO_IMPORT_TORCH = 5.0
FLOPS = 60e9  # of torch in float32
FLOPS_PER_TOKEN_AND_VALUE = 2.0
CALIBRATION_PASSES = 3  # source statistics or Hessians, and the block as it has become
EVALUATION_PASSES = 2  # source and artifact
BYTES_PER_TOKEN = 4.0
USUAL_WINDOW = 512
BYTES_OF_A_RUNNER = 62 << 20  # Python, numpy, the kernels
BYTES_OF_TORCH = 350 << 20
BYTES_OF_ONNX_RUNTIME = 50 << 20
COPIES_IN_A_SESSION = 2  # of the weights, while a session is made: the file's and its own


def estimate(services: Services, request: JobRequest, planned: Planned) -> Estimate:
    """For a job that would be submitted now. Reads sizes of files and the database; no weight."""
    return estimate_from(history_of(services.database, request), request, planned)


def history_of(database: Database, request: JobRequest) -> History:
    calibrated, evaluated = request.calibration is not None, request.evaluation_text is not None
    with database.read() as tx:
        return history(tx, request.method, calibrated=calibrated, evaluated=evaluated)


def for_plan(source: str, method: str, planned: Planned) -> JobRequest:
    """A job that only quantizes, calibrated as it is by default where its method asks for that."""
    calibration = CalibrationOptions(text="") if planned.plan.calibration is not None else None
    return JobRequest(source, method, {}, calibration=calibration)


def estimate_from(known: History, request: JobRequest, planned: Planned) -> Estimate:
    features, runs = _features(request, planned), known.runs
    return Estimate(
        artifact_bytes=planned.plan.nbytes,
        memory_bytes=predict(features.memory_bytes, [(run.features.memory_bytes, run.memory_bytes) for run in runs]),
        scratch_bytes=_scratch(request, planned),
        seconds=predict(features.seconds, [(run.features.seconds, run.seconds) for run in runs]),
        features=features,
        runs=len(runs),
        hardware=known.hardware,
    )


def _features(request: JobRequest, planned: Planned) -> Features:
    plan, index = planned.plan, planned.index
    values = sum(row.values for row in plan.tensors)
    seconds = SECONDS_TO_START + SECONDS_PER_SOURCE_BYTE * index.nbytes + SECONDS_PER_VALUE * values
    seconds += SECONDS_PER_ARTIFACT_BYTE * plan.nbytes
    memory = BYTES_OF_A_RUNNER + max(plan.peak_memory_bytes, _session(index))
    tokens = 0.0
    if request.calibration is not None:
        tokens += CALIBRATION_PASSES * request.calibration.samples * _window(request.calibration)
        memory += _calibration(request.calibration, planned).memory
    if request.evaluation_text is not None:
        tokens += EVALUATION_PASSES * Path(request.evaluation_text).stat().st_size / BYTES_PER_TOKEN
    if tokens:
        seconds += SECONDS_TO_IMPORT_TORCH + FLOPS_PER_TOKEN_AND_VALUE * tokens * values / FLOPS
        memory += BYTES_OF_TORCH
    return Features(seconds, memory)


def _session(index: ModelIndex) -> int:
    """What verification takes of a graph beside its tensors: ONNX Runtime runs it whole."""
    return 0 if index.graph is None else BYTES_OF_ONNX_RUNTIME + COPIES_IN_A_SESSION * index.nbytes


def _calibration(asked: CalibrationOptions, planned: Planned) -> CalibrationCost:
    return calibration_cost(planned.index, planned.plan, windows=asked.samples, window=_window(asked))


def _window(asked: CalibrationOptions) -> int:
    return asked.window or USUAL_WINDOW


def _scratch(request: JobRequest, planned: Planned) -> int:
    """Units beside the artifact that is made of them, what calibration keeps, and what the source becomes first: that
    is no smaller than the artifact."""
    calibration = _calibration(request.calibration, planned).disk if request.calibration is not None else 0
    return planned.plan.nbytes * (2 if planned.plan.converts else 1) + calibration
