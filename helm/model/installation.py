"""What holds for the whole release."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict

from helm.model.shapes import (
    Annotations,
    Labels,
    Name,
    Namespace,
    OptionalName,
    OptionalObjectName,
    OptionalRegistry,
    SecretKey,
    Section,
    text,
)

OptionalUrl = Annotated[str, text(r"^$|^https?://[^\s]+$")]


class Global(Section):
    """Shared by all charts of a release, so other keys than ours may stand here."""

    model_config = ConfigDict(extra="allow")

    image_registry: OptionalRegistry
    image_namespace: Namespace
    image_pull_secrets: list[Name]
    storage_class: OptionalObjectName
    openshift: Literal[True, False, "auto"]
    labels: Labels


class ServiceAccount(Section):
    create: bool
    name: OptionalName
    annotations: Annotations


class TrustedCA(Section):
    config_map: OptionalObjectName
    secret: OptionalObjectName
    key: SecretKey


class Proxy(Section):
    http_proxy: OptionalUrl
    https_proxy: OptionalUrl
    no_proxy: list[Annotated[str, text(r"^[^,\s]+$")]]


class Offline(Section):
    enabled: bool
    hub_endpoint: OptionalUrl
