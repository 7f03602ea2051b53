"""Idempotency keys: the same request sent twice makes one job."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, delete, select

from quantmill.contract.errors import IdempotencyMismatch
from quantmill.store.tables import idempotency_key
from quantmill.store.types import clock
from quantmill.store.upsert import upsert

FORGOTTEN_AT_ONCE = 100


def remember(tx: Connection, key: str, request_digest: str, job_id: UUID, keep_seconds: int) -> UUID:
    """Take the key for `job_id`, which is to be inserted in this transaction, or give the job that has it already.

    Where two transactions race for one key, the second waits for the first to end. Raises IdempotencyMismatch when
    the key belongs to another request.
    """
    _forget_expired(tx)
    values = {"request_digest": request_digest, "job_id": job_id, "expires_at": clock(keep_seconds)}
    taken = (
        upsert(tx, idempotency_key)
        .values(key=key, **values)
        .on_conflict_do_update(index_elements=["key"], set_=values, where=idempotency_key.c.expires_at <= clock())
        .returning(idempotency_key)
    )
    row = tx.execute(taken).one_or_none() or tx.execute(_by_key(key)).one()
    return _job_of(row, request_digest)


def recall(tx: Connection, key: str, request_digest: str) -> UUID | None:
    """The job that has this key, None while nobody has. Raises IdempotencyMismatch when it was another request's."""
    row = tx.execute(_by_key(key).where(idempotency_key.c.expires_at > clock())).one_or_none()
    return None if row is None else _job_of(row, request_digest)


def _by_key(key: str) -> Select[Any]:
    return select(idempotency_key).where(idempotency_key.c.key == key)


def _job_of(row: Row[Any], request_digest: str) -> UUID:
    if row.request_digest != request_digest:
        raise IdempotencyMismatch(
            "this Idempotency-Key was used with another request; send the same body, or take a new key",
            job_id=str(row.job_id),
        )
    job_id: UUID = row.job_id
    return job_id


def _forget_expired(tx: Connection) -> None:
    expired = (
        select(idempotency_key.c.key)
        .where(idempotency_key.c.expires_at <= clock())
        .limit(FORGOTTEN_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    tx.execute(delete(idempotency_key).where(idempotency_key.c.key.in_(expired)))
