"""Runs revisions on the connection that `quantmill.store.migrate` hands in.

For developers, `alembic ...` in a checkout works as well: then the database is the one of the settings.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from quantmill.settings import Settings
from quantmill.store.database import Database
from quantmill.store.migrate import migrating
from quantmill.store.tables import metadata


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("migrations look at the database they change: there is no --sql mode")
if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    with migrating(Database.open(Settings().database)) as connection:
        run(connection)
