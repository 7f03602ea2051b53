"""What the last worker of each queue was, so that a job can wait for a queue that has no worker now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from quantmill.store.types import UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    described = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.create_table(
        "queue_profile",
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("machine", described, nullable=False),
        sa.Column("methods", described, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("awaited_since", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("queue", name="pk_queue_profile"),
    )


def downgrade() -> None:
    op.drop_table("queue_profile")
