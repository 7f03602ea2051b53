"""What a job was thought to take is kept beside it, and what it took corrects the next estimate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    estimate = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.create_table(
        "job_estimate",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("estimate", estimate, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_estimate_job_id_job")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_estimate")),
    )


def downgrade() -> None:
    op.drop_table("job_estimate")
