"""What every pod of the chart can be told, and what can be added to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from helm.model.kubernetes import (
    Affinity,
    ConfigMapSource,
    ContainerPort,
    CsiSource,
    DownwardApiSource,
    EmptyDirSource,
    EnvFrom,
    EnvFromSource,
    EphemeralSource,
    Lifecycle,
    PersistentVolumeClaimSource,
    Probe,
    ProjectedSource,
    SecretSource,
    Toleration,
    TopologySpreadConstraint,
)
from helm.model.shapes import (
    Annotations,
    AtLeastOne,
    Image,
    Item,
    Labels,
    MountPath,
    Name,
    OptionalName,
    OptionalObjectName,
    Resources,
    Section,
    SubPath,
    Variable,
)

Environment = dict[Variable, str | EnvFrom]


def _one_key(schema: dict[str, Any]) -> None:
    schema.pop("required")
    schema |= {"minProperties": 1, "maxProperties": 1}


class VolumeSource(Section):
    """One of the kinds of volumes that Pod Security "restricted" allows."""

    model_config = ConfigDict(json_schema_extra=_one_key)

    config_map: ConfigMapSource
    csi: CsiSource
    downward_api: DownwardApiSource = Field(alias="downwardAPI")
    empty_dir: EmptyDirSource
    ephemeral: EphemeralSource
    persistent_volume_claim: PersistentVolumeClaimSource
    projected: ProjectedSource
    secret: SecretSource


class Mount(Item):
    """A volume at the path that it stands under."""

    name: Name
    sub_path: SubPath | None = None
    read_only: bool = False


class ExtraContainer(Section):
    """A container more. Its image is the chart's unless it names parts of another, and it is as restricted as ours."""

    image: Image
    command: list[str]
    args: list[str]
    env: Environment
    env_from: list[EnvFromSource]
    resources: Resources
    volume_mounts: dict[MountPath, Mount]
    ports: list[ContainerPort]
    lifecycle: Lifecycle
    startup_probe: Probe
    readiness_probe: Probe
    liveness_probe: Probe


class ExtraInitContainer(ExtraContainer):
    restart_policy: Literal["Always"]


class JobExtras(Section):
    """As Extras, without containers that would never let a Job end."""

    extra_env: Environment
    extra_env_from: list[EnvFromSource]
    extra_volumes: dict[Name, VolumeSource]
    extra_volume_mounts: dict[MountPath, Mount]
    extra_init_containers: dict[Name, ExtraInitContainer]


class Extras(JobExtras):
    """Additions to pods, by name; a component's replace those of the whole release that have the same name."""

    extra_containers: dict[Name, ExtraContainer]


class OwnAccount(Section):
    """The ServiceAccount of one component."""

    name: OptionalName
    annotations: Annotations


class Placement(Section):
    """Where pods run, and what they are called."""

    service_account: OwnAccount
    resources: Resources
    pod_annotations: Annotations
    pod_labels: Labels
    node_selector: Labels
    tolerations: list[Toleration]
    affinity: Affinity
    topology_spread_constraints: list[TopologySpreadConstraint]
    priority_class_name: OptionalObjectName


class Component(Placement, Extras):
    """Values of one workload's pods."""


class PodSecurityContext(Section):
    """Ids of pods. Everything else is as Pod Security "restricted" wants it."""

    fs_group: AtLeastOne
    run_as_user: AtLeastOne
    run_as_group: AtLeastOne
    supplemental_groups: list[AtLeastOne]


class Volatile(Section):
    """A volume whose content may be lost."""

    type: Literal["emptyDir", "pvc", "existingClaim"]
    size: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")]
    storage_class: OptionalObjectName
    existing_claim: OptionalObjectName
