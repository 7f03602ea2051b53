"""A job may escalate by its worst blocks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("escalation", sa.Column("by", sa.String(), server_default="ladder", nullable=False))


def downgrade() -> None:
    op.drop_column("escalation", "by")
