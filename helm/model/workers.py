"""Pools of workers."""

from __future__ import annotations

from typing import Annotated

from helm.model.availability import DisruptionBudget
from helm.model.config import Config
from helm.model.network import NetworkPolicyOfPool
from helm.model.pods import Component
from helm.model.shapes import AtLeastOne, Count, Image, Quantity, Section, ShortName, text


class Pool(Component):
    """One pool, or what all have in common."""

    enabled: bool
    replicas: Count
    queue: Annotated[str, text(r"^([a-z0-9]([-._a-z0-9]*[a-z0-9])?)?$")]
    slots: AtLeastOne
    threads: Count
    config: Config
    image: Image
    scratch_size: Quantity
    termination_grace_period_seconds: AtLeastOne
    do_not_disrupt: bool
    pdb: DisruptionBudget
    network_policy: NetworkPolicyOfPool


class Workers(Section):
    defaults: Pool
    pools: dict[ShortName, Pool | None]
