"""All values, in the order of values.yaml: a section a line."""

from __future__ import annotations

from pydantic import Field

from helm.model.additions import ExternalSecret, ExtraObject, Tests
from helm.model.api import Api
from helm.model.config import Config
from helm.model.installation import Global, Offline, Proxy, ServiceAccount, TrustedCA
from helm.model.monitoring import Metrics
from helm.model.network import HttpRoute, Ingress, NetworkPolicy, Route
from helm.model.pods import Extras, PodSecurityContext
from helm.model.scheduler import Migrations, Scheduler
from helm.model.shapes import Image, Name, ObjectName, OptionalName, ShortName
from helm.model.stores import Artifacts, Broker, Database, Source
from helm.model.trial import Postgresql, Redis
from helm.model.workers import Workers


class Values(Extras):
    enabled: bool = True  # read by a parent chart only
    global_: Global = Field(alias="global")
    name_override: OptionalName
    fullname_override: OptionalName
    cluster_domain: ObjectName
    image: Image
    config: Config
    database: Database
    broker: Broker
    artifacts: Artifacts
    sources: dict[ShortName, Source]
    service_account: ServiceAccount
    pod_security_context: PodSecurityContext
    trusted_ca: TrustedCA = Field(alias="trustedCA")
    proxy: Proxy
    offline: Offline
    api: Api
    scheduler: Scheduler
    workers: Workers
    migrations: Migrations
    ingress: Ingress
    http_route: HttpRoute
    route: Route
    network_policy: NetworkPolicy
    metrics: Metrics
    external_secret: ExternalSecret
    tests: Tests
    extra_objects: dict[Name, ExtraObject]
    postgresql: Postgresql
    redis: Redis
