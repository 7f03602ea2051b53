"""Database, broker, artifacts and sources."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from helm.model.shapes import (
    Item,
    MountPath,
    ObjectName,
    OptionalObjectName,
    Quantity,
    SecretKey,
    Section,
    SubPath,
    text,
)


class ExternalDatabase(Section):
    existing_secret: OptionalObjectName
    url_key: SecretKey
    url: Annotated[str, text(r"^$|^postgresql(\+psycopg)?://.")]


class Database(Section):
    external: ExternalDatabase


class ExternalBroker(Section):
    existing_secret: OptionalObjectName
    url_key: SecretKey
    url: Annotated[str, text(r"^$|^(rediss?|sentinel)://.")]


class Broker(Section):
    external: ExternalBroker


class Claim(Section):
    existing_claim: OptionalObjectName
    size: Quantity
    access_modes: Annotated[list[Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]], Field(min_length=1)]
    storage_class: OptionalObjectName
    retain: bool


class Artifacts(Section):
    pvc: Claim


class Source(Item):
    """A claim with models and texts."""

    claim: ObjectName
    mount_path: MountPath
    sub_path: SubPath | None = None
