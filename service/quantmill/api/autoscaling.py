"""What an autoscaler asks: how much each queue has to do."""

from __future__ import annotations

from secrets import compare_digest
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Path

from quantmill.api.context import ServicesOf
from quantmill.api.schemas import QueueLoadView
from quantmill.contract.errors import PolicyRefused
from quantmill.jobs import autoscaling

Queue = Annotated[str, Path(min_length=1, max_length=200, description="as QUANTMILL_QUEUE names it")]


def authorized(services: ServicesOf, authorization: Annotated[str | None, Header()] = None) -> None:
    """Let through who shows the installation's token."""
    token = services.settings.autoscaling_token
    if token is None:
        raise PolicyRefused("this is off; set QUANTMILL_AUTOSCALING_TOKEN, and send it as a bearer token")
    shown = f"Bearer {token.get_secret_value()}"
    if not compare_digest((authorization or "").encode(), shown.encode()):
        raise HTTPException(401, "the bearer token is not the right one", headers={"WWW-Authenticate": "Bearer"})


router = APIRouter(prefix="/internal/autoscaling", tags=["autoscaling"], dependencies=[Depends(authorized)])


@router.get("/{queue}")
def queue_load(services: ServicesOf, queue: Queue) -> QueueLoadView:
    """How many jobs the queue's workers hold, and how many wait for them. Also of a queue that has no worker, so that
    its first one can be started when it is needed."""
    return QueueLoadView.of(queue, autoscaling.load_of(services, queue))
