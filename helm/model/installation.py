"""What holds for the whole release."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from helm.model.shapes import Annotations, Name, OptionalName, OptionalRegistry, Section


class Global(Section):
    """Shared by all charts of a release, so other keys than ours may stand here."""

    model_config = ConfigDict(extra="allow")

    image_registry: OptionalRegistry
    image_pull_secrets: list[Name]
    openshift: Literal[True, False, "auto"]


class ServiceAccount(Section):
    create: bool
    name: OptionalName
    annotations: Annotations
