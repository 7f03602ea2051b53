"""The API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from helm.model.availability import Autoscaling, DisruptionBudget
from helm.model.network import PublicPaths
from helm.model.pods import Component
from helm.model.shapes import Annotations, AtLeastOne, OptionalObjectName, Port, SecretKey, Section


class ApiService(Section):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    port: Port
    annotations: Annotations


class Token(Section):
    existing_secret: OptionalObjectName
    key: SecretKey


class Api(Component):
    replicas: AtLeastOne
    autoscaling: Autoscaling
    pdb: DisruptionBudget
    public_paths: PublicPaths
    service: ApiService
    autoscaling_token: Token
    pre_stop_seconds: Annotated[int, Field(ge=0, le=300)]
    termination_grace_period_seconds: AtLeastOne
