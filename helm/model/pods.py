"""What every pod of the chart can be told."""

from __future__ import annotations

from helm.model.kubernetes import Affinity, Toleration, TopologySpreadConstraint
from helm.model.shapes import Annotations, AtLeastOne, Labels, Resources, Section


class Component(Section):
    """Values of one workload's pods."""

    resources: Resources
    pod_annotations: Annotations
    pod_labels: Labels
    node_selector: Labels
    tolerations: list[Toleration]
    affinity: Affinity
    topology_spread_constraints: list[TopologySpreadConstraint]


class PodSecurityContext(Section):
    """Ids of pods. Everything else is as Pod Security "restricted" wants it."""

    fs_group: AtLeastOne
    run_as_user: AtLeastOne
    run_as_group: AtLeastOne
    supplemental_groups: list[AtLeastOne]
