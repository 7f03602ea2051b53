"""One leader at a time, by a lease that runs out."""

from __future__ import annotations

from sqlalchemy import Connection, delete, exists, or_, select

from quantmill.store.tables import leader
from quantmill.store.types import clock
from quantmill.store.upsert import upsert

SCHEDULER = "scheduler"


def hold(tx: Connection, name: str, owner: str, seconds: float) -> bool:
    """Become or stay the leader for `seconds` from now; False while somebody else is."""
    values = {"owner": owner, "expires_at": clock(seconds)}
    taken = (
        upsert(tx, leader)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=["name"], set_=values, where=or_(leader.c.owner == owner, leader.c.expires_at <= clock())
        )
        .returning(leader.c.owner)
    )
    return tx.execute(taken).one_or_none() is not None


def is_held(tx: Connection, name: str) -> bool:
    """Whether somebody's lease has not run out."""
    held = exists().where(leader.c.name == name, leader.c.expires_at > clock())
    return bool(tx.execute(select(held)).scalar_one())


def release(tx: Connection, name: str, owner: str) -> None:
    """Stop being the leader; does nothing for somebody who is not."""
    tx.execute(delete(leader).where(leader.c.name == name, leader.c.owner == owner))
