"""What Prometheus and Grafana are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, WithJsonSchema

from helm.model.shapes import Annotations, AtLeastOne, Item, Labels, Section, text

FILES = Path(__file__).parents[1] / "quantmill" / "files"
ALERTS = [rule["alert"] for rule in yaml.safe_load((FILES / "alerts.yaml").read_text())]

Duration = Annotated[str, text(r"^([0-9]+(ms|s|m|h))+$")]
Share = Annotated[float, Field(gt=0, lt=1)]
AlertName = Annotated[str, WithJsonSchema({"type": "string", "enum": ALERTS})]
LabelName = Annotated[str, text(r"^[a-zA-Z_][a-zA-Z0-9_]*$")]


class Relabeling(Item):
    """RelabelConfig of monitoring.coreos.com/v1."""

    source_labels: list[LabelName] | None = None
    separator: str | None = None
    target_label: str | None = None
    regex: str | None = None
    modulus: AtLeastOne | None = None
    replacement: str | None = None
    action: Literal["replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep"] | None = None


class ServiceMonitor(Section):
    enabled: bool
    labels: Labels
    interval: Duration
    scrape_timeout: Duration
    relabelings: list[Relabeling]
    metric_relabelings: list[Relabeling]


class Thresholds(Section):
    oldest_queued_seconds: AtLeastOne
    lost_attempts: AtLeastOne
    failed_share: Share
    outbox_seconds: AtLeastOne
    free_disk_share: Share
    error_share: Share


class PrometheusRule(Section):
    enabled: bool
    labels: Labels
    alert_labels: Labels
    disabled: list[AlertName]
    thresholds: Thresholds


class Dashboards(Section):
    enabled: bool
    labels: Labels
    annotations: Annotations


class Metrics(Section):
    service_monitor: ServiceMonitor
    prometheus_rule: PrometheusRule
    dashboards: Dashboards
