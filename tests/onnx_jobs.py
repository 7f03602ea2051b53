"""A job of the onnx method in this process: what its runner says."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.plugins import load_plugins
from quantmill.worker.messages import FinishedUnit, Message, Start
from quantmill.worker.pipeline import run

GIB = 1 << 30


def onnx_job(
    source: Path,
    work: Path,
    params: Mapping[str, Any],
    *,
    plan: Mapping[str, Any] | None = None,
    source_digest: str | None = None,
    finished: tuple[FinishedUnit, ...] = (),
    calibration: CalibrationOptions | None = None,
    text: Path | None = None,
    evaluation: EvaluationOptions | None = None,
    attempt: str = "1",
) -> list[Message]:
    """The messages of one attempt, whose artifact is `work`/`attempt`/artifact."""
    (work / attempt).mkdir(parents=True)
    said: list[Message] = []
    task = Start(
        source=source,
        method="onnx",
        params=dict(params),
        seed=0,
        threads=1,
        device="cpu",
        plan=dict(plan or {}),
        source_digest=source_digest,
        evaluation_text=text,
        evaluation=evaluation or EvaluationOptions(),
        calibration=calibration,
        statistics_cache=work / "statistics",
        statistics_cache_bytes=GIB,
        evaluation_cache=work / "evaluation",
        evaluation_cache_bytes=GIB,
        memory_bytes=None,
        unit_store=work / "units",
        export_folder=work / attempt / "artifact",
        finished=finished,
    )
    run(task, load_plugins(), said.append, threading.Event())
    return said


def of_kind(kind: type[Message], said: list[Message]) -> list[Any]:
    return [message for message in said if isinstance(message, kind)]
