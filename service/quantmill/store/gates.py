"""A job's gates: asked for with the job, judged with its artifact."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import Connection, insert, select, update

from quantmill.domain.gates import GateVerdict
from quantmill.store.tables import gate


def insert_gates(tx: Connection, job_id: UUID, gates: Sequence[str]) -> None:
    if gates:
        rows = [{"job_id": job_id, "position": position, "gate": text} for position, text in enumerate(gates)]
        tx.execute(insert(gate), rows)


def record_verdicts(tx: Connection, job_id: UUID, verdicts: Sequence[GateVerdict]) -> None:
    """Write what was observed. The caller's transaction also ends the job, guarded by its epoch."""
    for position, verdict in enumerate(verdicts):
        tx.execute(
            update(gate)
            .where(gate.c.job_id == job_id, gate.c.position == position)
            .values(observed=verdict.observed, passed=verdict.passed)
        )


def gates_of(tx: Connection, job_ids: Collection[UUID]) -> dict[UUID, tuple[GateVerdict, ...]]:
    """By job, in the order of the request; a job without gates is left out."""
    found: dict[UUID, tuple[GateVerdict, ...]] = {}
    for row in tx.execute(select(gate).where(gate.c.job_id.in_(job_ids)).order_by(gate.c.job_id, gate.c.position)):
        found[row.job_id] = (*found.get(row.job_id, ()), GateVerdict(row.gate, row.observed, row.passed))
    return found
