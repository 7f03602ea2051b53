"""The scheduler and the migration of the database."""

from __future__ import annotations

from helm.model.availability import DisruptionBudget
from helm.model.pods import Component
from helm.model.shapes import AtLeastOne, Count


class Scheduler(Component):
    replicas: AtLeastOne
    pdb: DisruptionBudget
    termination_grace_period_seconds: AtLeastOne


class Migrations(Component):
    enabled: bool
    backoff_limit: Count
    active_deadline_seconds: AtLeastOne
