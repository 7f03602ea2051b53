"""Secrets made by the External Secrets operator, helm's own tests, and objects that the chart knows nothing of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema

from helm.model.pods import OwnAccount
from helm.model.shapes import AtLeastOne, OptionalObjectName, Resources, Section, text

Duration = Annotated[str, text(r"^([0-9]+(s|m|h))+$")]
ExtraObject = Annotated[dict[str, Any], WithJsonSchema({"type": ["object", "string", "null"]})]


class StoreRef(Section):
    name: OptionalObjectName
    kind: Literal["SecretStore", "ClusterSecretStore"]


class RemoteSecret(Section):
    """Where the store has a URL."""

    key: str
    property: str


class ExternalSecret(Section):
    enabled: bool
    store_ref: StoreRef
    refresh_interval: Duration
    database: RemoteSecret
    broker: RemoteSecret


class CompressionTest(Section):
    enabled: bool
    source: str
    timeout_seconds: AtLeastOne


class WorkersTest(Section):
    enabled: bool
    timeout_seconds: AtLeastOne


class Tests(Section):
    """Pods of `helm test`."""

    enabled: bool
    service_account: OwnAccount
    resources: Resources
    workers: WorkersTest
    compression: CompressionTest
