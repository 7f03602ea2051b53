"""How many pods of a component there are, and how many may be missing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from helm.model.kubernetes import ScalingBehavior
from helm.model.shapes import AtLeastOne, Section, text

Percentage = Annotated[str, text(r"^(100|[1-9]?[0-9])%$")]


class Autoscaling(Section):
    """A HorizontalPodAutoscaler."""

    enabled: bool
    min_replicas: AtLeastOne
    max_replicas: AtLeastOne
    cpu_utilization: Annotated[int, Field(ge=0, le=1000)]
    memory_utilization: Annotated[int, Field(ge=0, le=1000)]
    behavior: ScalingBehavior


class DisruptionBudget(Section):
    """A PodDisruptionBudget."""

    enabled: bool
    max_unavailable: AtLeastOne | Percentage
