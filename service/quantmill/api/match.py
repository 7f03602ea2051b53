"""What runs where: the device catalogue and the matcher."""

from __future__ import annotations

from fastapi import APIRouter

from quantmill.api.context import ServicesOf
from quantmill.api.schemas import DeviceList, DeviceView, MatchView, SubmitMatch
from quantmill.jobs import match

router = APIRouter(prefix="/v1", tags=["match"])


@router.get("/devices")
def list_devices(services: ServicesOf) -> DeviceList:
    """The devices that the matcher knows, each with the source of its figures."""
    return DeviceList(items=[DeviceView.of(device) for device in match.list_devices(services)])


@router.post("/match")
def match_model(body: SubmitMatch, services: ServicesOf) -> MatchView:
    """Ranked plans for a model on a device: what to make, what runs it, what fits, and what does not, with reasons."""
    question = match.Question(body.objective, body.runtime, body.context, body.batch, body.kv_bits)
    found = match.answer_service(
        services,
        body.device,
        question,
        count=body.count,
        memory_gb=body.memory_gb,
        ram_gb=body.ram_gb,
        source=body.source,
        config=body.config,
    )
    return MatchView.of(found)
