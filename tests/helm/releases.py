"""Releases on a cluster in memory, by Helm itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from servers.kubernetes import controllers
from servers.kubernetes.cluster import Cluster
from servers.kubernetes.kinds import CAPABILITIES, Object, pod_template
from servers.kubernetes.server import KubernetesServer

CHART = Path(__file__).parents[2] / "helm" / "quantmill"
SECONDS = 120
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # reads in a tenth of the time

Values = dict[str, Any]
Objects = dict[tuple[str, str], Object]  # by kind and name


class Installation:
    """Release `r` in namespace `ns` of a cluster, by Helm."""

    def __init__(self, cluster: Cluster, config: helm.Config) -> None:
        self.cluster = cluster
        self.config = config

    def install(self, chart: Path, values: Values) -> Objects:
        self.config.install(chart, "r", values, wait="watcher", timeout=SECONDS)
        return self.objects()

    def upgrade(self, values: Values, *, timeout: int = SECONDS, **options: Any) -> Objects:
        self.config.upgrade(CHART, "r", values, wait="watcher", timeout=timeout, **options)
        return self.objects()

    def rollback(self, revision: int) -> Objects:
        self.config.rollback("r", version=revision, wait="watcher", timeout=SECONDS)
        return self.objects()

    def uninstall(self) -> Objects:
        self.config.uninstall("r", wait="watcher", timeout=SECONDS)
        return self.objects()

    def objects(self) -> Objects:
        """Everything in the namespace but Helm's own records."""
        found = {(item["kind"], item["metadata"]["name"]): item for item in self.cluster.items()}
        return {key: item for key, item in found.items() if not key[1].startswith("sh.helm.release.")}

    def render(self, chart: Path, values: Values) -> list[Object]:
        """The manifests, hooks and tests included, as this cluster gets them."""
        with helm.Chart.load(chart) as loaded:
            texts = self.config.render(loaded, values, name="r", namespace="ns")
        manifests = (text for path, text in texts.items() if not path.endswith(".txt"))
        return [item for text in manifests for item in yaml.load_all(text, Loader) if item]

    def provide(self, chart: Path, values: Values) -> set[tuple[str, str]]:
        """Make what the pods name and the chart does not: what the README asks of whoever installs it."""
        rendered = self.render(chart, values)
        pods = [pod for item in rendered if (pod := pod_template(item))]
        named = {reference for pod in pods for reference in controllers.references(pod)}
        outside = (
            named - {(item["kind"], item["metadata"]["name"]) for item in rendered} - {("ServiceAccount", "default")}
        )
        for kind, name in sorted(outside - self.objects().keys()):
            spec = {"spec": {"resources": {"requests": {"storage": "1Gi"}}}} if kind == "PersistentVolumeClaim" else {}
            self.cluster.create(self.cluster.kind(kind), "ns", {"metadata": {"name": name}, **spec}, "kubectl")
        return outside


@contextmanager
def installation(capabilities: frozenset[str] = CAPABILITIES) -> Iterator[Installation]:
    cluster = Cluster(capabilities=capabilities)
    with (
        KubernetesServer(cluster) as server,
        helm.Config(kubeconfig_content=server.kubeconfig, namespace="ns", qps=1000, burst_limit=1000) as config,
    ):
        yield Installation(cluster, config)
