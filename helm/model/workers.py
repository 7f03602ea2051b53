"""Pools of workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from helm.model.availability import DisruptionBudget
from helm.model.config import Config
from helm.model.kubernetes import PodResourceClaim, ResourceClaim, Toleration
from helm.model.network import NetworkPolicyOfPool
from helm.model.pods import Component, Volatile
from helm.model.shapes import (
    AtLeastOne,
    Count,
    Image,
    LabelKey,
    LabelValue,
    OptionalObjectName,
    Quantity,
    Resources,
    Seconds,
    Section,
    ShortName,
    text,
)


class SharedMemory(Section):
    enabled: bool
    size_limit: Quantity


class Mig(Section):
    """Slices of a GPU, as NVIDIA's device plugin offers them."""

    strategy: Literal["", "single", "mixed"]
    profile: Annotated[str, text(r"^$|^[1-9]g\.[0-9]+gb(\.[a-z0-9.]+)?$")]


class Gpu(Section):
    """What a pool's pods ask of a node's GPU, by the labels that GPU discovery gives nodes."""

    enabled: bool
    resource_name: LabelKey
    count: Count
    runtime_class_name: OptionalObjectName
    products: list[LabelValue]
    preferred_products: Annotated[list[LabelValue], Field(max_length=100)]
    min_memory_mib: Annotated[Count, Field(alias="minMemoryMiB")]
    min_compute_major: Count
    mig: Mig
    tolerations: list[Toleration]


class Keda(Section):
    """How many workers there are, by what a queue has to do."""

    enabled: bool
    trigger: Literal["api", "prometheus"]
    min_replicas: Count
    max_replicas: AtLeastOne
    polling_interval: AtLeastOne
    cooldown_period: Seconds
    scale_down_pods_per_minute: AtLeastOne
    prometheus_address: Annotated[str, text(r"^$|^https?://[^\s]+$")]
    prometheus_query: str


class PoolResources(Resources):
    """With claims on devices by name, for dynamic resource allocation."""

    claims: list[ResourceClaim]


class Pool(Component):
    """One pool, or what all have in common."""

    enabled: bool
    kind: Literal["Deployment", "ScaledJob"]
    replicas: Count
    queue: Annotated[str, text(r"^([a-z0-9]([-._a-z0-9]*[a-z0-9])?)?$", 200)]
    slots: AtLeastOne
    threads: Count
    config: Config
    image: Image
    resources: PoolResources
    resource_claims: list[PodResourceClaim]
    scratch: Volatile
    model_cache: Volatile
    shm: SharedMemory
    gpu: Gpu
    keda: Keda
    termination_grace_period_seconds: AtLeastOne
    idle_seconds: AtLeastOne
    do_not_disrupt: bool
    pdb: DisruptionBudget
    network_policy: NetworkPolicyOfPool


class Workers(Section):
    defaults: Pool
    pools: dict[ShortName, Pool | None]
