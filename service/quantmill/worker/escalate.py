"""What a job that missed its gates goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import structlog

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import QuantmillError
from quantmill.contract.method import Method
from quantmill.contract.tensors import ModelIndex
from quantmill.domain.escalation import Rung, more_may_help, most_bytes, next_rung
from quantmill.domain.gates import GateVerdict
from quantmill.domain.jobs import Job

log = structlog.get_logger()


def next_after(job: Job, method: Method, verdicts: tuple[GateVerdict, ...], current_bytes: int) -> Rung | None:
    """The next rung of the method's ladder above what has just missed its gates.

    None where the job may not escalate (any more), where a larger artifact would not meet what was missed, and where
    nothing larger lies within the budget.
    """
    escalation = job.request.escalation
    if escalation is None or len(job.steps) + 1 >= escalation.attempts or not more_may_help(verdicts):
        return None
    with open_checkpoint(Path(job.request.source)) as checkpoint:
        rungs = list(_rungs(job, method, checkpoint.index))
    return next_rung(rungs, current_bytes, most_bytes(escalation, job.request.gates))


def _rungs(job: Job, method: Method, index: ModelIndex) -> Iterator[Rung]:
    """The ladder for this job's model and other parameters; a rung that these do not go with is left out."""
    for change in method.ladder:
        try:
            params = method.params.model_validate({**job.request.params, **change})
            yield Rung(params.model_dump(mode="json"), method.plan.load()(index, params))
        except (QuantmillError, ValueError) as error:
            log.warning("rung_left_out", rung=dict(change), error=str(error))
