"""The registered texts."""

from __future__ import annotations

from fastapi import APIRouter

from quantmill.api.context import ServicesOf
from quantmill.api.schemas import TextList
from quantmill.jobs.texts import list_texts

router = APIRouter(prefix="/v1", tags=["texts"])


@router.get("/texts")
def get_texts(services: ServicesOf) -> TextList:
    """Texts that a texts.json at or directly below a source root registers, by name. `digest` is of their content."""
    return TextList.of(list_texts(services))
