"""What a job needs of a worker and what each worker has, so that a job is sent only where it can run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

FIGURES = ("memory_bytes", "free_memory_bytes", "free_disk_bytes")


def upgrade() -> None:
    op.add_column("job", sa.Column("need", sa.String(), server_default="{}", nullable=False))
    op.add_column("job", sa.Column("waiting", sa.String(), nullable=True))
    op.execute(  # both are names without quotes; jobs that ended are never sent again
        """UPDATE job SET need = '{"method":"' || method || '","version":"' || method_version || '"}'
        WHERE ended_at IS NULL"""
    )
    for name in ("machine", "methods"):
        described = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
        op.add_column("worker", sa.Column(name, described, server_default="{}", nullable=False))
    for name in FIGURES:
        op.add_column("worker", sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in ("machine", "methods", *FIGURES):
        op.drop_column("worker", name)
    for name in ("need", "waiting"):
        op.drop_column("job", name)
