"""Compares variants of one source: takes them in as jobs, all or none, and reports when they have ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any
from uuid import UUID

import rfc8785

from quantmill.checkpoints import open_checkpoint
from quantmill.checkpoints.uris import resolve
from quantmill.contract.errors import Conflict, QuantmillError, RequestRejected
from quantmill.domain.artifacts import Metric
from quantmill.domain.comparisons import Comparison, ComparisonRequest, Variant
from quantmill.domain.gates import metrics_in
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import FINAL, Job
from quantmill.evaluation.report import MeasuredVariant, Report
from quantmill.jobs.plan import find_text, pointing_at
from quantmill.jobs.submit import Accepted, accept
from quantmill.services import Services
from quantmill.store import artifacts
from quantmill.store import comparisons as rows
from quantmill.store.idempotency import recall, remember
from quantmill.store.jobs import insert_job

OF_A_VARIANT = ("/method", "/params")  # where a job's request differs from its neighbours'


def submit(services: Services, request: ComparisonRequest, *, idempotency_key: str | None = None) -> Comparison:
    """Queue a job for each variant, or give back the earlier comparison of the same idempotency key and body.

    All jobs, the comparison and the idempotency row (which names the first job) are one transaction. Raises what
    submitting one job raises, with pointers at the variants that are at fault, and then nothing is queued.
    """
    digest = request_digest(request)
    if idempotency_key is not None and (earlier := _recall(services, idempotency_key, digest)) is not None:
        return earlier
    source_bytes = _source_bytes(services, request)
    accepted = _accept_all(services, request)
    job_ids = [uuid7() for _ in accepted]
    with services.database.write() as tx:
        if idempotency_key is not None:
            first = remember(tx, idempotency_key, digest, job_ids[0], services.settings.idempotency_seconds)
            if first != job_ids[0] and (made := rows.comparison_of(tx, first)) is not None:
                return made  # by another request with this key, which committed since `_recall`
        for job_id, each in zip(job_ids, accepted, strict=True):
            insert_job(tx, each.request, **each.terms, job_id=job_id)
        return rows.insert_comparison(tx, request, job_ids, source_bytes=source_bytes)


def request_digest(request: ComparisonRequest) -> str:
    """sha256 over the RFC 8785 form of what was asked for; `variants` sets it apart from every single job's."""
    body = {**asdict(request), "evaluation": request.evaluation.asked()}
    body["escalation"] = request.escalation.asked() if request.escalation else None
    for name in ("evaluation", "calibration"):  # requests of before there were such options keep their digest
        if not body[name]:
            del body[name]
    return "sha256:" + hashlib.sha256(rfc8785.dumps(body)).hexdigest()


def _recall(services: Services, key: str, digest: str) -> Comparison | None:
    with services.database.read() as tx:
        job_id = recall(tx, key, digest)
        return None if job_id is None else rows.comparison_of(tx, job_id)


def _source_bytes(services: Services, request: ComparisonRequest) -> int:
    """What all variants share is checked once, so that a wrong source is one problem and not one of each variant."""
    with pointing_at("/source"), open_checkpoint(resolve(request.source, services.settings.source_roots)) as checkpoint:
        nbytes = checkpoint.index.nbytes
    find_text(services, request.evaluation_text)
    return nbytes


def _accept_all(services: Services, request: ComparisonRequest) -> list[Accepted]:
    """Each variant as it will run. Raises the first one's error, with the places of all that were found."""
    accepted: list[Accepted] = []
    refused: list[QuantmillError] = []
    for position, variant in enumerate(request.variants):
        try:
            with _pointing_into(position):
                accepted.append(accept(services, request.job(variant), shared_calibration=True))
        except QuantmillError as error:
            if "errors" not in error.fields:  # nothing about the request
                raise
            refused.append(error)
    if refused:
        first = refused[0]
        places = [place for error in refused for place in error.fields["errors"]]
        first.fields["errors"] = list({str(place): place for place in places}.values())
        raise first
    _refuse_repeats(accepted)
    if request.calibration is not None and all(each.request.calibration is None for each in accepted):
        with pointing_at("/calibration"):
            raise RequestRejected("none of the variants is calibrated; leave calibration out")
    return accepted


@contextmanager
def _pointing_into(position: int) -> Iterator[None]:
    """Lengthen the pointers of what a variant is at fault for by its place; a source that was readable is no fault of
    its own, but one that the variant's method does not take."""
    try:
        yield
    except QuantmillError as error:
        variant = f"/variants/{position}"
        for place in error.fields.get("errors", ()):
            if place["pointer"].startswith(OF_A_VARIANT):
                place["pointer"] = variant + place["pointer"]
            elif place["pointer"] == "/source":
                place["pointer"] = variant
        raise


def _refuse_repeats(accepted: list[Accepted]) -> None:
    wanted = [(each.request.method, each.request.params) for each in accepted]
    for position, each in enumerate(wanted):
        if (first := wanted.index(each)) < position:
            with pointing_at(f"/variants/{position}"):
                raise RequestRejected(f"variant {position} is the same as variant {first}; ask for it once")


# Looking


def get(services: Services, comparison_id: UUID) -> Comparison:
    """One comparison with its jobs as they stand. Raises NotFound."""
    with services.database.read() as tx:
        return rows.get_comparison(tx, comparison_id)


def page(services: Services, *, after: UUID | None, limit: int) -> list[Comparison]:
    """At most `limit` comparisons, newest first, that come after the comparison `after`."""
    with services.database.read() as tx:
        return rows.list_comparisons(tx, after=after, limit=limit)


def cancel(services: Services, comparison_id: UUID) -> Comparison:
    """Ask for the end of every job that has not ended; those that have keep their artifacts.

    Raises NotFound, and IllegalTransition when all have ended and none was canceled.
    """
    with services.database.write() as tx:
        return rows.cancel_jobs(tx, comparison_id)


# Reporting


def report(services: Services, comparison_id: UUID) -> Report:
    """What the variants have cost and lost, failed ones with their reason.

    It follows from rows that no longer change. Raises NotFound, and Conflict while a job has not ended.
    """
    with services.database.read() as tx:
        comparison = rows.get_comparison(tx, comparison_id)
        jobs = [variant.job for variant in comparison.variants]
        metrics = artifacts.metrics_of_jobs(tx, [job.id for job in jobs])
        sizes = artifacts.sizes(tx, [job.artifact_digest for job in jobs if job.artifact_digest])
    if comparison.state not in FINAL:
        raise Conflict(
            f"comparison {comparison_id} is {comparison.state}; its report is made when all jobs have ended",
            state=comparison.state.value,
        )
    asked = jobs[0].request  # what all have in common, as they resolved it: commands made from it can be run anywhere
    return Report(
        source=asked.source,
        source_bytes=comparison.source_bytes,
        text=asked.evaluation_text or "",
        seed=asked.seed,
        evaluation=asked.evaluation.asked(),
        variants=tuple(_measured(variant, metrics.get(variant.job.id, ()), sizes) for variant in comparison.variants),
        version=version("quantmill"),
    )


def _changed(job: Job) -> dict[str, Any]:
    """The parameters that escalation has changed, as they are now."""
    before = job.asked.params
    return {name: value for name, value in job.request.params.items() if value != before.get(name)}


def _measured(variant: Variant, metrics: Sequence[Metric], sizes: Mapping[str, int]) -> MeasuredVariant:
    """A variant that missed its gates published nothing, but its error holds what was measured."""
    job = variant.job
    seconds = (job.ended_at - job.started_at).total_seconds() if job.ended_at and job.started_at else None
    error: Mapping[str, Any] = job.error or {}
    found = tuple(metrics) or metrics_in(error)
    kept_back = next((int(each.value) for each in found if each.name == "size"), None)
    return MeasuredVariant(
        method=variant.asked.method,
        params=variant.asked.params,
        state=job.state.value,
        seconds=seconds,
        size=sizes.get(job.artifact_digest or "", kept_back),
        digest=job.artifact_digest,
        error=error.get("detail"),
        steps=job.steps,
        made_with=_changed(job),
        calibration=job.request.calibration.asked() if job.request.calibration else {},
        metrics=found,
    )
