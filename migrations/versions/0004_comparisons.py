"""Jobs can be variants of a comparison."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "comparison",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("evaluation_text", sa.String(), nullable=False),
        sa.Column("source_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparison")),
    )
    op.create_table(
        "comparison_variant",
        sa.Column("comparison_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_comparison_variant_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_comparison_variant_job_id_job")),
        sa.PrimaryKeyConstraint("comparison_id", "position", name=op.f("pk_comparison_variant")),
        sa.UniqueConstraint("job_id", name=op.f("uq_comparison_variant_job_id")),
    )


def downgrade() -> None:
    op.drop_table("comparison_variant")
    op.drop_table("comparison")
