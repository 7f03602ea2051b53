"""Ways from outside to the API, and which pods may talk to whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from helm.model.kubernetes import NetworkPolicyEgressRule, NetworkPolicyPeer
from helm.model.shapes import Annotations, Item, Labels, Name, ObjectName, OptionalName, Port, Section, text

Host = Annotated[str, text(r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253)]
OptionalHost = Annotated[str, text(r"^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253)]
PublicPaths = Annotated[list[Annotated[str, text(r"^/[-._~/A-Za-z0-9]*$")]], Field(min_length=1, max_length=8)]
"""Eight are what one rule of an HTTPRoute took in Gateway API 1.0."""

Timeout = Annotated[str, text(r"^([0-9]{1,5}(h|m|s|ms)){1,4}$")]
"""A duration as GEP-2257 writes it; 0s is no limit."""


class TlsOfIngress(Item):
    secret_name: Name | None = None
    hosts: list[Host] | None = None


class Ingress(Section):
    enabled: bool
    class_name: OptionalName
    annotations: Annotations
    hosts: list[Host]
    path_type: Literal["Prefix", "Exact", "ImplementationSpecific"]
    tls: list[TlsOfIngress]


class Gateway(Item):
    """A listener that a route asks to be attached to; what is left out is any listener, in the release's namespace."""

    name: ObjectName
    namespace: Name | None = None
    section_name: ObjectName | None = None
    port: Port | None = None


class Timeouts(Section):
    request: Timeout = ""
    backend_request: Timeout = ""


class HttpRoute(Section):
    enabled: bool
    annotations: Annotations
    parent_refs: list[Gateway]
    hostnames: list[Host]
    timeouts: Timeouts


class TlsOfRoute(Section):
    termination: Literal["edge", "none"]
    insecure_edge_termination_policy: Literal["Allow", "Redirect", "None"]


class Route(Section):
    enabled: bool
    annotations: Annotations
    host: OptionalHost
    tls: TlsOfRoute


class AllowedIngress(Section):
    from_namespaces: list[Name]
    from_pods: list[Labels]
    from_peers: list[NetworkPolicyPeer]


class Peers(Section):
    """Where something is that pods talk to."""

    to: list[NetworkPolicyPeer]
    ports: Annotated[list[Port], Field(min_length=1)]


EgressMode = Literal["open", "restricted"]


class AllowedEgress(Section):
    mode: EgressMode
    dns: Peers
    postgres: Peers
    redis: Peers
    extra: list[NetworkPolicyEgressRule]


class NetworkPolicy(Section):
    enabled: bool
    ingress: AllowedIngress
    egress: AllowedEgress


class NetworkPolicyOfPool(Section):
    egress: Literal["inherit", "open", "restricted"]
