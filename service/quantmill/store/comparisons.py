"""Comparisons: which jobs belong together, and under which names they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert, select

from quantmill.contract.errors import IllegalTransition, NotFound
from quantmill.domain.comparisons import Comparison, ComparisonRequest, Variant, VariantRequest
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import FINAL, Job, State
from quantmill.store import tables
from quantmill.store.jobs import find_jobs, request_cancel
from quantmill.store.types import clock


def insert_comparison(
    tx: Connection, request: ComparisonRequest, job_ids: Sequence[UUID], *, source_bytes: int
) -> Comparison:
    """Bind jobs of this transaction together; they stand in the order of the request's variants."""
    comparison_id = uuid7()
    tx.execute(
        insert(tables.comparison).values(
            id=comparison_id,
            source=request.source,
            evaluation_text=request.evaluation_text,
            source_bytes=source_bytes,
            created_at=clock(),
        )
    )
    rows = [
        {
            "comparison_id": comparison_id,
            "position": position,
            "job_id": job_id,
            "method": asked.method,
            "params": dict(asked.params),
        }
        for position, (asked, job_id) in enumerate(zip(request.variants, job_ids, strict=True))
    ]
    tx.execute(insert(tables.comparison_variant), rows)
    return get_comparison(tx, comparison_id)


def get_comparison(tx: Connection, comparison_id: UUID) -> Comparison:
    """The comparison with its jobs. Raises NotFound."""
    comparison = tables.comparison
    row = tx.execute(select(comparison).where(comparison.c.id == comparison_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no comparison {comparison_id}", comparison_id=str(comparison_id))
    return _with_variants(tx, [row])[0]


def comparison_of(tx: Connection, job_id: UUID) -> Comparison | None:
    """The comparison that this job is a variant of, None where it is a job of its own."""
    variant = tables.comparison_variant
    found = tx.execute(select(variant.c.comparison_id).where(variant.c.job_id == job_id)).scalar_one_or_none()
    return None if found is None else get_comparison(tx, found)


def list_comparisons(tx: Connection, *, after: UUID | None = None, limit: int) -> list[Comparison]:
    """Comparisons, newest first, from the one behind `after` on."""
    comparison = tables.comparison
    wanted = select(comparison).order_by(comparison.c.id.desc()).limit(limit)
    if after is not None:
        wanted = wanted.where(comparison.c.id < after)
    return _with_variants(tx, tx.execute(wanted).all())


def _with_variants(tx: Connection, rows: Sequence[Row[Any]]) -> list[Comparison]:
    variant = tables.comparison_variant
    wanted = (
        select(variant)
        .where(variant.c.comparison_id.in_([row.id for row in rows]))
        .order_by(variant.c.comparison_id, variant.c.position)
    )
    found = tx.execute(wanted).all()
    jobs = find_jobs(tx, [row.job_id for row in found])
    variants: dict[UUID, list[Variant]] = {}
    for row in found:
        variants.setdefault(row.comparison_id, []).append(_to_variant(row, jobs))
    return [
        Comparison(
            id=row.id,
            source=row.source,
            evaluation_text=row.evaluation_text,
            source_bytes=row.source_bytes,
            variants=tuple(variants[row.id]),
            created_at=row.created_at,
        )
        for row in rows
    ]


def _to_variant(row: Row[Any], jobs: dict[UUID, Job]) -> Variant:
    return Variant(VariantRequest(row.method, row.params), jobs[row.job_id])


def cancel_jobs(tx: Connection, comparison_id: UUID) -> Comparison:
    """Ask for the end of every job that has not ended.

    Repeating it is harmless. Raises IllegalTransition where all have ended and none was canceled, NotFound where there
    is no such comparison.
    """
    job = tables.job
    ids = sorted(variant.job.id for variant in get_comparison(tx, comparison_id).variants)
    # one order for everybody who locks several jobs
    tx.execute(select(job.c.id).where(job.c.id.in_(ids)).order_by(job.c.id).with_for_update())
    found = get_comparison(tx, comparison_id)
    if found.state in FINAL - {State.CANCELED}:
        raise IllegalTransition(
            f"comparison {comparison_id} has {found.state} and cannot be canceled",
            comparison_id=str(comparison_id),
            state=found.state.value,
        )
    for variant in found.variants:
        if variant.job.state not in FINAL:
            request_cancel(tx, variant.job.id)
    return get_comparison(tx, comparison_id)
