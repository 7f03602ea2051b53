"""Jobs at any point of their life, and store functions called each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from quantmill.domain.artifacts import Artifact, ArtifactFile, Metric
from quantmill.domain.jobs import Job, JobRequest
from quantmill.store import artifacts, jobs, tables
from quantmill.store.database import Database

Call = Callable[..., Any]
OPTIONS = ("retry_of", "job_id", "plan", "timeout_seconds", "estimate", "need")  # of insert_job, beside the request


@pytest.fixture
def write(database: Database) -> Call:
    """Call a function of the store in a write transaction."""

    def call(function: Call, *args: Any, **kwargs: Any) -> Any:
        with database.write() as tx:
            return function(tx, *args, **kwargs)

    return call


@pytest.fixture
def read(database: Database) -> Call:
    """Call a function of the store in a read transaction."""

    def call(function: Call, *args: Any, **kwargs: Any) -> Any:
        with database.read() as tx:
            return function(tx, *args, **kwargs)

    return call


@pytest.fixture
def submit(write: Call) -> Callable[..., Job]:
    """A queued job; keywords are those of JobRequest, or of insert_job."""

    def make(**given: Any) -> Job:
        options = {name: given.pop(name) for name in OPTIONS if name in given}
        request = JobRequest(**({"source": "/models/any", "method": "gguf", "params": {"type": "Q4_0"}} | given))
        return write(
            jobs.insert_job, request, method_version="1.0", **({"plan": {}, "timeout_seconds": 3600} | options)
        )

    return make


@pytest.fixture
def start(submit: Callable[..., Job], write: Call) -> Callable[..., Job]:
    """A running job, claimed by `w1` at epoch 1."""

    def make(**given: Any) -> Job:
        job = submit(**given)
        epoch = write(jobs.mark_dispatched, job.id, 0, "cpu")
        return write(jobs.claim, job.id, epoch, "w1", 60)

    return make


@pytest.fixture
def let_pass(write: Call) -> Callable[..., None]:
    """Put a moment of a job (`lease_expires_at`, `deadline_at`, ...) far into the past."""

    def make(job_id: UUID, moment: str) -> None:
        long_ago = {moment: datetime(2020, 1, 1, tzinfo=UTC)}
        write(lambda tx: tx.execute(update(tables.job).where(tables.job.c.id == job_id).values(long_ago)))

    return make


@pytest.fixture
def publish(write: Call) -> Callable[..., Job]:
    """Publish an artifact for a held job."""

    def make(job: Job, digest: str = "sha256:a", source: str = "sha256:s", **given: Any) -> Job:
        made = Artifact(
            digest=digest,
            kind="model",
            format="gguf",
            files=(ArtifactFile("model.gguf", f"{digest}-file", 1000, "application/octet-stream"),),
            description=ArtifactFile("quantmill.json", f"{digest}-of-{job.id}", 10, "application/json"),
            created_at=job.created_at,
        )
        options: dict[str, Any] = {
            "source_uri": "/models/any",
            "metrics": [Metric("perplexity", 12.5, "", n=4096, higher_is_better=False)],
            "environment": {"python": "3.11"},
            "verification": {"tensors": 3},
        }
        return write(artifacts.publish, job.id, job.epoch, made, source_digest=source, **(options | given))

    return make
