"""Jobs get gates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gate",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("gate", sa.String(), nullable=False),
        sa.Column("observed", sa.Double(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_gate_job_id_job")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_gate")),
        sa.CheckConstraint("observed IS NULL OR passed IS NOT NULL", name=op.f("ck_gate_judged_when_observed")),
    )


def downgrade() -> None:
    op.drop_table("gate")
