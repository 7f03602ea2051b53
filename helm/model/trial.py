"""Database and broker inside the release, to try the chart with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from helm.model.kubernetes import Affinity, Toleration
from helm.model.pods import PodSecurityContext
from helm.model.shapes import Image, Labels, OptionalObjectName, Quantity, Resources, Section


class Credentials(Section):
    existing_secret: OptionalObjectName


class Persistence(Section):
    enabled: bool
    size: Quantity
    storage_class: OptionalObjectName


class Redis(Section):
    # Helm puts the globals into the values of every subchart, before it looks at the schema
    global_: Annotated[Any, WithJsonSchema({})] = Field(default=None, alias="global")
    enabled: bool
    image: Image
    auth: Credentials
    resources: Resources
    pod_security_context: PodSecurityContext
    node_selector: Labels
    tolerations: list[Toleration]
    affinity: Affinity


class Postgresql(Redis):
    persistence: Persistence
