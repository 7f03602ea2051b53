"""Takes a job in: everything that can be refused is refused now."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

import rfc8785

from quantmill.checkpoints.uris import resolve
from quantmill.contract.calibration import require_calibration
from quantmill.contract.errors import RequestRejected
from quantmill.contract.graph_text import measured_on_text
from quantmill.domain.estimates import Estimate
from quantmill.domain.gates import parse
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import Job, JobRequest
from quantmill.jobs.estimates import estimate
from quantmill.jobs.memory import require_memory
from quantmill.jobs.methods import published_method
from quantmill.jobs.params import validate_by_schema
from quantmill.jobs.plan import Planned, find_inputs, find_text, make_plan, pointing_at
from quantmill.jobs.routing import worker_need
from quantmill.services import Services
from quantmill.store.idempotency import recall, remember
from quantmill.store.jobs import get_job, insert_job

WINDOW_LIMITS = ("max_position_embeddings", "n_positions")  # config.json's names for the tokens that a model takes


@dataclass(frozen=True)
class Accepted:
    """A request that can run: URIs resolved, defaults filled in, planned where the method is installed here."""

    request: JobRequest
    method_version: str
    plan: dict[str, Any]
    timeout_seconds: int
    need: str
    estimate: Estimate | None = None  # None where the method is on workers only

    @property
    def terms(self) -> dict[str, Any]:
        """What `insert_job` takes beside the request."""
        return {name: getattr(self, name) for name in ("method_version", "plan", "timeout_seconds", "need", "estimate")}


def submit(
    services: Services, request: JobRequest, *, idempotency_key: str | None = None, retry_of: UUID | None = None
) -> Job:
    """Queue a job, or give back the earlier one of the same idempotency key and body.

    Job, idempotency row, first event and outbox row are one transaction. Raises what `make_plan` raises, TextRejected,
    RequestRejected, and IdempotencyMismatch when the key was used with another body.
    """
    digest = request_digest(request, retry_of)
    if idempotency_key is not None and (earlier := _recall(services, idempotency_key, digest)) is not None:
        return earlier
    accepted = accept(services, request)
    job_id = uuid7()
    with services.database.write() as tx:
        if idempotency_key is not None:
            keep = services.settings.idempotency_seconds
            first = remember(tx, idempotency_key, digest, job_id, keep)
            if first != job_id:  # another request with this key committed since `_recall`
                return get_job(tx, first)
        return insert_job(tx, accepted.request, **accepted.terms, job_id=job_id, retry_of=retry_of)


def request_digest(request: JobRequest, retry_of: UUID | None = None) -> str:
    """sha256 over the RFC 8785 form of what was asked for, before anything is resolved or filled in."""
    body: dict[str, Any] = {**asdict(request), "retry_of": str(retry_of) if retry_of else None}
    body["evaluation"] = request.evaluation.asked()
    body["escalation"] = request.escalation.asked() if request.escalation else None
    # Requests of before there were such keep their digest
    for name in ("gates", "evaluation", "escalation", "calibration"):
        if not body[name]:
            del body[name]
    return "sha256:" + hashlib.sha256(rfc8785.dumps(body)).hexdigest()


def _recall(services: Services, key: str, digest: str) -> Job | None:
    """The job that this key and body made before; a repeated request succeeds though its source is gone since."""
    with services.database.read() as tx:
        job_id = recall(tx, key, digest)
        return None if job_id is None else get_job(tx, job_id)


def accept(services: Services, request: JobRequest, *, shared_calibration: bool = False) -> Accepted:
    """The request as it will run; nothing is written. Raises what `submit` raises, but for its idempotency key.

    A calibration that is shared with other jobs is left out where the method needs none; else it is refused.
    """
    timeout = _timeout(services, request)
    _check_gates(request)
    if request.evaluation_text is None and request.evaluation.asked():
        with pointing_at("/evaluation"):
            raise RequestRejected("what is measured, is measured on a text; give evaluation_text")
    if request.evaluation_text is not None:
        request = replace(request, evaluation_text=str(find_text(services, request.evaluation_text)))
    if request.calibration is not None:
        text = find_text(services, request.calibration.text, "/calibration/text")
        request = replace(request, calibration=replace(request.calibration, text=str(text)))
    with pointing_at("/source"):
        folder = resolve(request.source, services.settings.source_roots)
    if request.method in services.plugins.methods:
        planned = make_plan(services, request.source, request.method, request.params)
        installed = services.plugins.methods[request.method]
        _check_escalation(request, bool(installed.ladder), installed.promote is not None)
        _check_evaluation(request, planned)
        if shared_calibration and planned.plan.calibration is None:
            request = replace(request, calibration=None)
        _check_calibration(services, request, planned)
        resolved = replace(request, source=str(folder), params=planned.params.model_dump(mode="json"))
        expected = estimate(services, resolved, planned)
        need = worker_need(installed.describe(), expected).to_text()
        return Accepted(resolved, installed.version, planned.plan.to_json(), timeout, need, expected)
    with pointing_at("/method"):
        description = published_method(services, request.method)
    validate_by_schema(request.method, description["params_schema"], request.params)
    params = find_inputs(services, description["params_schema"], request.params)
    _check_escalation(request, bool(description.get("ladder")), bool(description.get("promotes")))
    located = replace(request, source=str(folder), params=params)
    need = worker_need(description, None).to_text()
    return Accepted(located, description["version"], {}, timeout, need)  # its worker plans it


def _check_gates(request: JobRequest) -> None:
    for position, text in enumerate(request.gates):
        with pointing_at(f"/gates/{position}"):
            gate = parse(text)
            if gate.measure.needs_text and request.evaluation_text is None:
                raise RequestRejected(f"{text!r} is measured on a text; give evaluation_text")


def _check_escalation(request: JobRequest, has_ladder: bool, promotes: bool) -> None:
    if request.escalation is None:
        return
    with pointing_at("/escalation"):
        if not request.gates:
            raise RequestRejected("escalation goes on until the gates are met; give gates")
        if request.escalation.by == "blocks":
            if not promotes:
                raise RequestRejected(f"method {request.method!r} cannot give single blocks more bits; leave `by` out")
            if request.evaluation_text is None:
                raise RequestRejected("the worst blocks are found on a text; give evaluation_text")
        elif not has_ladder:
            raise RequestRejected(f"method {request.method!r} has no ladder to escalate on; leave escalation out")


def _check_evaluation(request: JobRequest, planned: Planned) -> None:
    if request.evaluation_text is None:
        return
    with pointing_at("/evaluation_text"):
        if planned.index.graph is not None:
            measured_on_text(planned.index)
        if planned.index.gguf is not None:
            raise RequestRejected(
                "a GGUF file is not evaluated on a text, which transformers' model runs on a checkpoint; leave "
                "evaluation_text out, or give the checkpoint that the file was made from as the source"
            )


def _check_calibration(services: Services, request: JobRequest, planned: Planned) -> None:
    with pointing_at("/calibration"):
        require_calibration(planned.plan, request.method, given=request.calibration is not None)
        if request.calibration is not None and request.calibration.window is not None:
            limits = (planned.index.config.get(key) for key in WINDOW_LIMITS)
            limit = next((limit for limit in limits if isinstance(limit, int)), None)
            if limit is not None and request.calibration.window > limit:
                raise RequestRejected(f"a window of {request.calibration.window} tokens; the model takes {limit}")
        if request.calibration is not None:
            require_memory(services.settings, planned, request.calibration)


def _timeout(services: Services, request: JobRequest) -> int:
    limit = services.settings.job_timeout_seconds
    if request.timeout_seconds is not None and request.timeout_seconds > limit:
        with pointing_at("/timeout_seconds"):
            raise RequestRejected(f"timeout_seconds {request.timeout_seconds} is above this installation's {limit}")
    return request.timeout_seconds or limit
