"""The revisions of the database schema: one tree for SQLite and PostgreSQL, run by `quantmill.store.migrate`."""
