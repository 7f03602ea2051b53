"""Jobs may escalate when they miss a gate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "escalation",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("size_mb", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_escalation_job_id_job")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_escalation")),
    )
    op.create_table(
        "escalation_step",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("params", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["escalation.job_id"], name=op.f("fk_escalation_step_job_id_escalation")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_escalation_step")),
    )


def downgrade() -> None:
    op.drop_table("escalation_step")
    op.drop_table("escalation")
