"""What was found of a unit beside its tensors outlives the attempt that made it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_unit", sa.Column("findings", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("job_unit", "findings")
