"""Jobs and artifacts: the first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATES = "'queued', 'running', 'canceling', 'succeeded', 'failed', 'canceled', 'expired'"
OUTCOMES = "'succeeded', 'failed', 'canceled', 'expired', 'lost', 'released'"
FINAL = "state IN ('canceled', 'expired', 'failed', 'succeeded')"
HELD = "state IN ('canceling', 'running')"

TABLES = (
    "blob",
    "artifact",
    "artifact_file",
    "artifact_location",
    "environment",
    "job",
    "job_plan",
    "job_label",
    "attempt",
    "job_event",
    "outbox",
    "job_unit",
    "idempotency_key",
    "job_input",
    "job_output",
    "derivation",
    "metric",
    "worker",
    "method",
    "leader",
)


def upgrade() -> None:
    _content()
    _jobs()
    _parts_of_jobs()
    _events()
    _provenance()
    _installation()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON().with_variant(JSONB(), "postgresql")


def _moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(), nullable=nullable)


def _refers(table: str, column: str, to: str, to_column: str, **options: Any) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.{to_column}"], name=f"fk_{table}_{column}_{to}", **options)


def _of_job(table: str) -> sa.ForeignKeyConstraint:
    return _refers(table, "job_id", "job", "id")


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(name))  # f: the name is whole, no convention adds to it


def _index(table: str, *columns: str, where: str | None = None) -> None:
    condition = {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)} if where else {}
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns), **condition)


def _content() -> None:
    op.create_table(
        "blob",
        _text("digest"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        _moment("created_at"),
        _key("blob", "digest"),
    )
    op.create_table(
        "artifact",
        _text("digest"),
        _text("kind"),
        _text("format"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        _moment("created_at"),
        _key("artifact", "digest"),
    )
    _index("artifact", "created_at", "digest")
    op.create_table(
        "artifact_file",
        _text("artifact_digest"),
        _text("path"),
        _text("blob_digest"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        _text("media_type"),
        sa.Column("in_manifest", sa.Boolean(), nullable=False),
        _key("artifact_file", "artifact_digest", "path"),
        _refers("artifact_file", "artifact_digest", "artifact", "digest"),
        _refers("artifact_file", "blob_digest", "blob", "digest"),
    )
    _index("artifact_file", "blob_digest")
    op.create_table(
        "artifact_location",
        _text("digest"),
        _text("uri"),
        _moment("verified_at"),
        _key("artifact_location", "digest", "uri"),
    )
    op.create_table(
        "environment",
        _text("digest"),
        sa.Column("description", _json(), nullable=False),
        _moment("created_at"),
        _key("environment", "digest"),
    )


def _jobs() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), nullable=False),
        _text("source"),
        _text("method"),
        _text("method_version"),
        sa.Column("params", _json(), nullable=False),
        _text("evaluation_text", nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("timeout_seconds", sa.BigInteger(), nullable=False),
        sa.Column("retry_of", sa.Uuid(), nullable=True),
        sa.Column("state", sa.String(32), server_default="queued", nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("row_version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("event_seq", sa.Integer(), server_default="0", nullable=False),
        _text("queue", nullable=True),
        _moment("dispatched_at", nullable=True),
        _moment("not_before", nullable=True),
        _text("lease_owner", nullable=True),
        _moment("lease_expires_at", nullable=True),
        _text("phase", nullable=True),
        sa.Column("progress_done", sa.BigInteger(), nullable=True),
        sa.Column("progress_total", sa.BigInteger(), nullable=True),
        _text("progress_message", nullable=True),
        _text("source_digest", nullable=True),
        sa.Column("error", _json(), nullable=True),
        _text("artifact_digest", nullable=True),
        _moment("cancel_requested_at", nullable=True),
        _moment("deadline_at", nullable=True),
        _moment("created_at"),
        _moment("started_at", nullable=True),
        _moment("ended_at", nullable=True),
        _key("job", "id"),
        _refers("job", "retry_of", "job", "id"),
        _refers("job", "artifact_digest", "artifact", "digest"),
        _check("ck_job_state", f"state IN ({STATES})"),
        _check("ck_job_ended_when_final", f"({FINAL}) = (ended_at IS NOT NULL)"),
        _check("ck_job_owned_when_held", f"({HELD}) = (lease_owner IS NOT NULL)"),
        _check("ck_job_lease_whole", "(lease_owner IS NULL) = (lease_expires_at IS NULL)"),
        _check("ck_job_phase_when_held", f"phase IS NULL OR {HELD}"),
        _check("ck_job_artifact_when_succeeded", "(state = 'succeeded') = (artifact_digest IS NOT NULL)"),
        _check("ck_job_error_when_failed", "state <> 'failed' OR error IS NOT NULL"),
    )
    _index("job", "state", "id")
    _index("job", "method", "id")
    _index("job", "lease_expires_at", where="lease_owner IS NOT NULL")
    _index("job", "deadline_at", where="ended_at IS NULL")
    _index("job", "retry_of")
    _index("job", "artifact_digest")


def _parts_of_jobs() -> None:
    op.create_table(
        "job_plan",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        _key("job_plan", "job_id"),
        _of_job("job_plan"),
    )
    op.create_table(
        "job_label",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        _text("key"),
        _text("value"),
        _key("job_label", "job_id", "key"),
        _of_job("job_label"),
    )
    _index("job_label", "key", "value", "job_id")
    op.create_table(
        "attempt",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        _text("worker"),
        _text("environment_digest", nullable=True),
        _moment("started_at"),
        _moment("ended_at", nullable=True),
        sa.Column("outcome", sa.String(32), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        _key("attempt", "job_id", "epoch"),
        _of_job("attempt"),
        _refers("attempt", "environment_digest", "environment", "digest"),
        _check("ck_attempt_outcome", f"outcome IN ({OUTCOMES})"),
        _check("ck_attempt_outcome_when_ended", "(ended_at IS NULL) = (outcome IS NULL)"),
    )
    _index("attempt", "environment_digest")
    op.create_table(
        "job_unit",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        _text("key"),
        sa.Column("epoch", sa.Integer(), nullable=False),
        _text("worker"),
        _text("digest"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        _moment("finished_at"),
        _key("job_unit", "job_id", "key"),
        _of_job("job_unit"),
    )
    _index("job_unit", "digest")
    op.create_table(
        "idempotency_key",
        _text("key"),
        _text("request_digest"),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        _moment("expires_at"),
        _key("idempotency_key", "key"),
        _refers("idempotency_key", "job_id", "job", "id", deferrable=True, initially="DEFERRED"),
    )
    _index("idempotency_key", "job_id")
    _index("idempotency_key", "expires_at")


def _events() -> None:
    op.create_table(
        "job_event",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        _moment("at"),
        _text("type"),
        sa.Column("payload", _json(), nullable=False),
        _key("job_event", "job_id", "seq"),
        _of_job("job_event"),
        _check("ck_job_event_seq_from_one", "seq > 0"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        _key("outbox", "id"),
        sa.UniqueConstraint("job_id", "seq", name="uq_outbox_job_id_seq"),
        sa.ForeignKeyConstraint(
            ["job_id", "seq"], ["job_event.job_id", "job_event.seq"], name="fk_outbox_job_id_seq_job_event"
        ),
        sqlite_autoincrement=True,
    )


def _provenance() -> None:
    op.create_table(
        "job_input",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        _text("role"),
        _text("digest"),
        _text("uri"),
        _key("job_input", "job_id", "role"),
        _of_job("job_input"),
    )
    _index("job_input", "digest")
    op.create_table(
        "job_output",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        _text("artifact_digest"),
        _text("description_digest", nullable=True),
        sa.Column("verification", sa.JSON(), nullable=False),
        _key("job_output", "job_id"),
        _of_job("job_output"),
        _refers("job_output", "artifact_digest", "artifact", "digest"),
        _refers("job_output", "description_digest", "blob", "digest"),
    )
    _index("job_output", "artifact_digest")
    _index("job_output", "description_digest")
    op.create_table(
        "derivation",
        _text("child_digest"),
        _text("parent_digest"),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        _text("relation"),
        _key("derivation", "child_digest", "parent_digest", "job_id"),
        _refers("derivation", "child_digest", "artifact", "digest"),
        _of_job("derivation"),
        _check("ck_derivation_not_of_itself", "child_digest <> parent_digest"),
    )
    _index("derivation", "parent_digest")
    _index("derivation", "job_id")
    op.create_table(
        "metric",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        _text("subject"),
        _text("name"),
        _text("artifact_digest"),
        sa.Column("value", sa.Double(), nullable=True),
        _text("unit"),
        sa.Column("n", sa.BigInteger(), nullable=True),
        sa.Column("higher_is_better", sa.Boolean(), nullable=True),
        _key("metric", "job_id", "subject", "name"),
        _of_job("metric"),
        _refers("metric", "artifact_digest", "artifact", "digest"),
    )
    _index("metric", "artifact_digest")


def _installation() -> None:
    op.create_table(
        "worker",
        _text("name"),
        _text("queue"),
        sa.Column("slots", sa.Integer(), nullable=False),
        _text("host"),
        sa.Column("versions", _json(), nullable=False),
        sa.Column("plugin_failures", _json(), nullable=False),
        _moment("started_at"),
        _moment("seen_at"),
        _key("worker", "name"),
    )
    op.create_table(
        "method",
        _text("name"),
        _text("version"),
        sa.Column("description", sa.JSON(), nullable=False),
        _text("published_by"),
        _moment("published_at"),
        _key("method", "name", "version"),
    )
    op.create_table(
        "leader",
        _text("name"),
        _text("owner"),
        _moment("expires_at"),
        _key("leader", "name"),
    )
