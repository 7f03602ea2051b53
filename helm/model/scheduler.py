"""The scheduler and the migration of the database."""

from __future__ import annotations

from typing import Literal

from helm.model.availability import DisruptionBudget
from helm.model.pods import Component, JobExtras, Placement
from helm.model.shapes import Annotations, AtLeastOne, Count, Image


class Scheduler(Component):
    replicas: AtLeastOne
    pdb: DisruptionBudget
    termination_grace_period_seconds: AtLeastOne


class Migrations(Placement, JobExtras):
    mode: Literal["job", "hook", "initContainer", "none"]
    wait_init: bool
    wait_timeout_seconds: AtLeastOne
    image: Image
    annotations: Annotations
    backoff_limit: Count
    active_deadline_seconds: AtLeastOne
