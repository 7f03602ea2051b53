"""Jobs may be calibrated, and carry hidden states from one block to the next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    options = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.add_column("job", sa.Column("calibration", options, nullable=True))
    op.add_column("job_unit", sa.Column("carry_digest", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("job_unit", "carry_digest")
    op.drop_column("job", "calibration")
