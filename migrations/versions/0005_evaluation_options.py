"""Jobs say how their artifact is measured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    options = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.add_column("job", sa.Column("evaluation", options, nullable=True))


def downgrade() -> None:
    op.drop_column("job", "evaluation")
