"""Methods and workers."""

from __future__ import annotations

from fastapi import APIRouter

from quantmill.api.context import ServicesOf
from quantmill.api.schemas import MethodList, MethodView, WorkerList
from quantmill.jobs import installation, methods

router = APIRouter(prefix="/v1", tags=["methods"])


@router.get("/methods")
def list_methods(services: ServicesOf) -> MethodList:
    """The methods that jobs can name."""
    return MethodList(items=[MethodView(**description) for description in methods.list_methods(services)])


@router.get("/methods/{name}")
def get_method(name: str, services: ServicesOf) -> MethodView:
    """One method, with the JSON schema of its parameters."""
    return MethodView(**methods.get_method(services, name))


@router.get("/workers")
def list_workers(services: ServicesOf) -> WorkerList:
    """The workers, when each was last heard of, and plugins that failed to load."""
    return WorkerList.of(installation.list_workers(services), services.plugins)
