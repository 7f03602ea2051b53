"""The tables. `migrations/` ends where this module stands; a test holds them together.

Times come from the database's clock. Digests are `sha256:<hex>`, or `blake3:<hex>` of a unit that
stands in its artifact's files. Texts have no length limits: every limit of that kind
has to be migrated away one day.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Named,
    String,
    Table,
    TypedColumns,
    UniqueConstraint,
    Uuid,
    text,
)

from quantmill.domain.jobs import FINAL, HELD, Outcome, State
from quantmill.store.types import FreeText, Json, OrderedJson, UtcDateTime, known

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _in(states: frozenset[State]) -> str:
    return "state IN ({})".format(", ".join(f"'{state}'" for state in sorted(states)))


def _where(condition: str) -> dict[str, Any]:
    """An index over some of the rows only, in both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


# Jobs


class JobColumns(TypedColumns):
    id: Named[UUID] = Column(Uuid, primary_key=True)  # version 7: sorts by age
    source: Named[str]
    method: Named[str]
    method_version: Named[str]
    params: Named[dict[str, Any]] = Column(Json, nullable=False)
    evaluation_text: Named[str | None]
    seed: Named[int] = Column(BigInteger)
    timeout_seconds: Named[int] = Column(BigInteger)
    retry_of: Named[UUID | None] = Column(Uuid, ForeignKey("job.id"), index=True)

    state: Named[State] = Column(known(State, "state"), nullable=False, server_default=State.QUEUED)
    epoch: Named[int] = Column(Integer, server_default="0")  # the fencing token: who holds an older one is refused
    row_version: Named[int] = Column(Integer, server_default="0")  # rises with every change a reader can see
    event_seq: Named[int] = Column(Integer, server_default="0")  # of the newest event
    queue: Named[str | None]
    dispatched_at: Named[datetime | None] = Column(UtcDateTime)
    not_before: Named[datetime | None] = Column(UtcDateTime)
    lease_owner: Named[str | None]
    lease_expires_at: Named[datetime | None] = Column(UtcDateTime)

    phase: Named[str | None]  # an open set, unlike the states: no CHECK
    progress_done: Named[int | None] = Column(BigInteger)
    progress_total: Named[int | None] = Column(BigInteger)
    progress_message: Named[str | None] = Column(FreeText)
    source_digest: Named[str | None]
    error: Named[dict[str, Any] | None] = Column(Json)
    artifact_digest: Named[str | None] = Column(String, ForeignKey("artifact.digest"), index=True)

    cancel_requested_at: Named[datetime | None] = Column(UtcDateTime)
    deadline_at: Named[datetime | None] = Column(UtcDateTime)
    created_at: Named[datetime] = Column(UtcDateTime)
    started_at: Named[datetime | None] = Column(UtcDateTime)
    ended_at: Named[datetime | None] = Column(UtcDateTime)

    evaluation: Named[dict[str, Any] | None] = Column(Json)  # options as asked for; null where all are defaults
    calibration: Named[dict[str, Any] | None] = Column(Json)  # as asked for; null where the job is not calibrated
    need: Named[str] = Column(String, server_default="{}")  # of a worker; equal needs are equal texts
    waiting: Named[str | None]  # why no worker was told of it, as JSON; null where there is nothing to say


job = Table(
    "job",
    metadata,
    JobColumns,
    CheckConstraint(f"({_in(FINAL)}) = (ended_at IS NOT NULL)", name="ended_when_final"),
    CheckConstraint(f"({_in(HELD)}) = (lease_owner IS NOT NULL)", name="owned_when_held"),
    CheckConstraint("(lease_owner IS NULL) = (lease_expires_at IS NULL)", name="lease_whole"),
    CheckConstraint(f"phase IS NULL OR {_in(HELD)}", name="phase_when_held"),
    CheckConstraint("(state = 'succeeded') = (artifact_digest IS NOT NULL)", name="artifact_when_succeeded"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="error_when_failed"),
    Index(None, "state", "id"),
    Index(None, "method", "id"),
    Index(None, "lease_expires_at", **_where("lease_owner IS NOT NULL")),
    Index(None, "deadline_at", **_where("ended_at IS NULL")),
)


class JobPlanColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    plan: Named[dict[str, Any]] = Column(OrderedJson, nullable=False)


# Beside the job, not in it: a plan has a row per tensor, and SQLite writes a whole row anew for every lease renewal.
job_plan = Table("job_plan", metadata, JobPlanColumns)


class JobEstimateColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    estimate: Named[dict[str, Any]] = Column(Json, nullable=False)  # Estimate.to_json(), from before the job ran


job_estimate = Table("job_estimate", metadata, JobEstimateColumns)


class JobLabelColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    key: Named[str] = Column(String, primary_key=True)
    value: Named[str]


job_label = Table("job_label", metadata, JobLabelColumns, Index(None, "key", "value", "job_id"))


class GateColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    position: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    gate: Named[str]
    observed: Named[float | None] = Column(Double)
    passed: Named[bool | None] = Column(Boolean)


gate = Table(
    "gate",
    metadata,
    GateColumns,
    CheckConstraint("observed IS NULL OR passed IS NOT NULL", name="judged_when_observed"),
)


class EscalationColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    attempts: Named[int] = Column(Integer)
    size_mb: Named[float | None] = Column(Double)
    by: Named[str] = Column(String, server_default="ladder")  # an open set: no CHECK


escalation = Table("escalation", metadata, EscalationColumns)


class EscalationStepColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("escalation.job_id"), primary_key=True)
    position: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    params: Named[dict[str, Any]] = Column(Json, nullable=False)  # the job's own are those of the step it is at
    size: Named[int] = Column(BigInteger)
    gates: Named[list[dict[str, Any]]] = Column(OrderedJson, nullable=False)
    ended_at: Named[datetime] = Column(UtcDateTime)


escalation_step = Table("escalation_step", metadata, EscalationStepColumns)


class AttemptColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    epoch: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    worker: Named[str]  # no foreign key: the attempt outlives the worker's row
    environment_digest: Named[str | None] = Column(String, ForeignKey("environment.digest"), index=True)
    started_at: Named[datetime] = Column(UtcDateTime)
    ended_at: Named[datetime | None] = Column(UtcDateTime)
    outcome: Named[Outcome | None] = Column(known(Outcome, "outcome"), nullable=True)
    exit_code: Named[int | None] = Column(Integer)
    signal: Named[int | None] = Column(Integer)
    peak_memory_bytes: Named[int | None] = Column(BigInteger)


attempt = Table(
    "attempt",
    metadata,
    AttemptColumns,
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="outcome_when_ended"),
)


class JobEventColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    seq: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    epoch: Named[int] = Column(Integer)
    at: Named[datetime] = Column(UtcDateTime)
    type: Named[str]
    payload: Named[dict[str, Any]] = Column(Json, nullable=False)


job_event = Table("job_event", metadata, JobEventColumns, CheckConstraint("seq > 0", name="seq_from_one"))


class OutboxColumns(TypedColumns):
    # SQLite counts by itself only in a column that is exactly INTEGER
    id: Named[int] = Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Named[UUID] = Column(Uuid)
    seq: Named[int] = Column(Integer)


outbox = Table(
    "outbox",
    metadata,
    OutboxColumns,
    UniqueConstraint("job_id", "seq"),
    ForeignKeyConstraint(["job_id", "seq"], ["job_event.job_id", "job_event.seq"]),
    sqlite_autoincrement=True,  # ids of delivered rows are not given out again
)


class JobUnitColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    key: Named[str] = Column(String, primary_key=True)
    epoch: Named[int] = Column(Integer)
    worker: Named[str]
    digest: Named[str] = Column(String, index=True)
    size: Named[int] = Column(BigInteger)
    finished_at: Named[datetime] = Column(UtcDateTime)
    carry_digest: Named[str | None]  # of the hidden states behind a calibrated block; the newest is kept
    findings: Named[dict[str, Any] | None] = Column(OrderedJson)  # notes of its tensors, what its experts saw


job_unit = Table("job_unit", metadata, JobUnitColumns)


class IdempotencyKeyColumns(TypedColumns):
    key: Named[str] = Column(String, primary_key=True)
    request_digest: Named[str]
    # The key is taken first, and the job inserted only by whoever got it: hence checked at the commit
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id", deferrable=True, initially="DEFERRED"), index=True)
    expires_at: Named[datetime] = Column(UtcDateTime, index=True)


idempotency_key = Table("idempotency_key", metadata, IdempotencyKeyColumns)


class ComparisonColumns(TypedColumns):
    id: Named[UUID] = Column(Uuid, primary_key=True)  # version 7: sorts by age
    source: Named[str]
    evaluation_text: Named[str]
    source_bytes: Named[int] = Column(BigInteger)
    created_at: Named[datetime] = Column(UtcDateTime)


# No state: that is its jobs'
comparison = Table("comparison", metadata, ComparisonColumns)


class ComparisonVariantColumns(TypedColumns):
    comparison_id: Named[UUID] = Column(Uuid, ForeignKey("comparison.id"), primary_key=True)
    position: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), unique=True)
    method: Named[str]
    params: Named[dict[str, Any]] = Column(OrderedJson, nullable=False)  # as asked for; the job's have the defaults


comparison_variant = Table("comparison_variant", metadata, ComparisonVariantColumns)


# Artifacts and how they came to be


class BlobColumns(TypedColumns):
    digest: Named[str] = Column(String, primary_key=True)
    size: Named[int] = Column(BigInteger)
    created_at: Named[datetime] = Column(UtcDateTime)


blob = Table("blob", metadata, BlobColumns)


class ArtifactColumns(TypedColumns):
    digest: Named[str] = Column(String, primary_key=True)
    kind: Named[str]
    format: Named[str]
    size: Named[int] = Column(BigInteger)
    file_count: Named[int] = Column(Integer)
    created_at: Named[datetime] = Column(UtcDateTime)


artifact = Table("artifact", metadata, ArtifactColumns, Index(None, "created_at", "digest"))


class ArtifactFileColumns(TypedColumns):
    artifact_digest: Named[str] = Column(String, ForeignKey("artifact.digest"), primary_key=True)
    path: Named[str] = Column(String, primary_key=True)
    blob_digest: Named[str] = Column(String, ForeignKey("blob.digest"), index=True)
    size: Named[int] = Column(BigInteger)
    media_type: Named[str]
    in_manifest: Named[bool] = Column(Boolean)  # false for the description, which the digest leaves out


artifact_file = Table("artifact_file", metadata, ArtifactFileColumns)


class ArtifactLocationColumns(TypedColumns):
    digest: Named[str] = Column(String, primary_key=True)  # of an artifact or of a source: no foreign key
    uri: Named[str] = Column(String, primary_key=True)
    verified_at: Named[datetime] = Column(UtcDateTime)


artifact_location = Table("artifact_location", metadata, ArtifactLocationColumns)


class JobInputColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    role: Named[str] = Column(String, primary_key=True)
    digest: Named[str] = Column(String, index=True)
    uri: Named[str]


job_input = Table("job_input", metadata, JobInputColumns)


class JobOutputColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    artifact_digest: Named[str] = Column(String, ForeignKey("artifact.digest"), index=True)
    # Each job describes what it made, also where another job had made the same bytes before
    description_digest: Named[str | None] = Column(String, ForeignKey("blob.digest"), index=True)
    verification: Named[dict[str, Any]] = Column(OrderedJson, nullable=False)


job_output = Table("job_output", metadata, JobOutputColumns)


class DerivationColumns(TypedColumns):
    child_digest: Named[str] = Column(String, ForeignKey("artifact.digest"), primary_key=True)
    parent_digest: Named[str] = Column(String, primary_key=True)  # an artifact, or a source from outside
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    relation: Named[str]


derivation = Table(
    "derivation",
    metadata,
    DerivationColumns,
    CheckConstraint("child_digest <> parent_digest", name="not_of_itself"),
    Index(None, "parent_digest"),
    Index(None, "job_id"),
)


class MetricColumns(TypedColumns):
    job_id: Named[UUID] = Column(Uuid, ForeignKey("job.id"), primary_key=True)
    subject: Named[str] = Column(String, primary_key=True)
    name: Named[str] = Column(String, primary_key=True)
    artifact_digest: Named[str] = Column(String, ForeignKey("artifact.digest"), index=True)
    value: Named[float | None] = Column(Double)  # NULL stands for NaN, which SQLite cannot hold
    unit: Named[str]
    n: Named[int | None] = Column(BigInteger)
    higher_is_better: Named[bool | None] = Column(Boolean)
    ci_low: Named[float | None] = Column(Double)  # the ends of the 95 % confidence interval
    ci_high: Named[float | None] = Column(Double)


metric = Table("metric", metadata, MetricColumns)


class EnvironmentColumns(TypedColumns):
    digest: Named[str] = Column(String, primary_key=True)  # of the description as RFC 8785 writes it
    description: Named[dict[str, Any]] = Column(Json, nullable=False)
    created_at: Named[datetime] = Column(UtcDateTime)


environment = Table("environment", metadata, EnvironmentColumns)


# Workers


class WorkerColumns(TypedColumns):
    name: Named[str] = Column(String, primary_key=True)
    queue: Named[str]
    slots: Named[int] = Column(Integer)
    host: Named[str]
    versions: Named[dict[str, Any]] = Column(Json, nullable=False)
    plugin_failures: Named[list[dict[str, str]]] = Column(Json, nullable=False)
    started_at: Named[datetime] = Column(UtcDateTime)
    seen_at: Named[datetime] = Column(UtcDateTime)
    machine: Named[dict[str, Any]] = Column(Json, nullable=False, server_default="{}")
    methods: Named[dict[str, str]] = Column(Json, nullable=False, server_default="{}")  # versions by name
    memory_bytes: Named[int | None] = Column(BigInteger)  # that one job may take
    free_memory_bytes: Named[int | None] = Column(BigInteger)
    free_disk_bytes: Named[int | None] = Column(BigInteger)


worker = Table("worker", metadata, WorkerColumns)


class QueueProfileColumns(TypedColumns):
    queue: Named[str] = Column(String, primary_key=True)
    slots: Named[int] = Column(Integer)
    machine: Named[dict[str, Any]] = Column(Json, nullable=False)
    methods: Named[dict[str, str]] = Column(Json, nullable=False)  # versions by name
    memory_bytes: Named[int | None] = Column(BigInteger)  # that one job may take
    seen_at: Named[datetime] = Column(UtcDateTime)
    awaited_since: Named[datetime | None] = Column(UtcDateTime)  # since when jobs have waited for a first worker


queue_profile = Table("queue_profile", metadata, QueueProfileColumns)


class MethodColumns(TypedColumns):
    name: Named[str] = Column(String, primary_key=True)
    version: Named[str] = Column(String, primary_key=True)
    description: Named[dict[str, Any]] = Column(OrderedJson, nullable=False)
    published_by: Named[str]  # a worker; no foreign key: the method can be asked for while no worker runs
    published_at: Named[datetime] = Column(UtcDateTime)


method = Table("method", metadata, MethodColumns)


class LeaderColumns(TypedColumns):
    name: Named[str] = Column(String, primary_key=True)
    owner: Named[str]
    expires_at: Named[datetime] = Column(UtcDateTime)


leader = Table("leader", metadata, LeaderColumns)
