"""Metrics get a confidence interval."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = ("ci_low", "ci_high")


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("metric", sa.Column(column, sa.Double(), nullable=True))


def downgrade() -> None:
    for column in COLUMNS:
        op.drop_column("metric", column)
