"""What a job that missed its gates goes on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import QuantmillError
from quantmill.contract.method import Method
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill.domain.artifacts import Metric
from quantmill.domain.escalation import Rung, more_may_help, most_bytes, next_rung, worst_blocks
from quantmill.domain.gates import GateVerdict
from quantmill.domain.jobs import Job

log = structlog.get_logger()


def next_after(
    job: Job, method: Method, verdicts: Sequence[GateVerdict], plan: Plan, metrics: Sequence[Metric]
) -> Rung | None:
    """The next rung above what has just missed its gates: of the method's ladder, or more bits for the worst blocks.

    `plan` and `metrics` are those of the attempt that missed.

    None where the job may not escalate (any more), where a larger artifact would not meet what was missed, and where
    nothing larger lies within the budget.
    """
    escalation = job.request.escalation
    if escalation is None or len(job.steps) + 1 >= escalation.attempts or not more_may_help(verdicts):
        return None
    with open_checkpoint(Path(job.request.source)) as checkpoint:
        by_blocks = escalation.by == "blocks"
        changes = _promotions(job, method, checkpoint.index, plan, metrics) if by_blocks else method.ladder
        rungs = _rungs(job, method, checkpoint.index, changes)
        most = most_bytes(escalation, job.request.gates)
        if by_blocks:  # as many blocks as fit
            return next((rung for rung in rungs if plan.nbytes < rung.plan.nbytes <= most), None)
        return next_rung(list(rungs), plan.nbytes, most)


def _promotions(
    job: Job, method: Method, index: ModelIndex, plan: Plan, metrics: Sequence[Metric]
) -> Iterator[Mapping[str, Any]]:
    """More bits for the worst blocks: for all of them first, then for ever fewer."""
    if method.promote is None:
        return
    promote, params = method.promote.load(), method.params.model_validate(job.request.params)

    def change(*blocks: str) -> Mapping[str, Any]:
        beginnings = tuple(f"{block}." for block in blocks)
        return promote(index, plan, params, [row.name for row in plan.tensors if row.name.startswith(beginnings)])

    worst = worst_blocks(metrics, lambda block: bool(change(block)))
    for count in range(len(worst), 0, -1):
        yield change(*worst[:count])


def _rungs(job: Job, method: Method, index: ModelIndex, changes: Iterable[Mapping[str, Any]]) -> Iterator[Rung]:
    """The job with each of `changes` to its parameters; one that its model or other parameters rule out is left out."""
    for change in changes:
        try:
            params = method.params.model_validate({**job.request.params, **change})
            yield Rung(params.model_dump(mode="json"), method.plan.load()(index, params))
        except (QuantmillError, ValueError) as error:
            log.warning("rung_left_out", rung=dict(change), error=str(error))
