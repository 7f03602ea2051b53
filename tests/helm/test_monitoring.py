"""What Prometheus and Grafana are given, and when it raises an alarm."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm.manifests import Document, at, names, one

from helm.model.monitoring import ALERTS
from quantmill.api.traffic import Traffic
from quantmill.jobs.numbers import NUMBERS
from servers.promtool import promtool

Render = Callable[..., list[Document]]

README = Path(__file__).parents[2] / "helm" / "quantmill" / "README.md"
EVERYTHING = {
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    }
}
# of every sample that a ServiceMonitor's Prometheus stores
TARGET_LABELS = {"namespace", "job", "pod", "instance"}

SERVICE_MONITOR: dict[str, tuple[dict[str, Any], str, Any]] = {
    "the API's port and path": ({}, "spec.endpoints.0.port", "http"),
    "path": ({}, "spec.endpoints.0.path", "/metrics"),
    "interval": ({"interval": "1m"}, "spec.endpoints.0.interval", "1m"),
    "time limit": ({"scrapeTimeout": "5s"}, "spec.endpoints.0.scrapeTimeout", "5s"),
    "labels to be selected by": ({"labels": {"release": "p"}}, "metadata.labels.release", "p"),
    "relabelings": (
        {"relabelings": [{"action": "labeldrop", "regex": "pod"}]},
        "spec.endpoints.0.relabelings",
        [{"action": "labeldrop", "regex": "pod"}],
    ),
    "no relabelings": ({}, "spec.endpoints.0.relabelings", None),
}

RULE: dict[str, tuple[dict[str, Any], str, Any]] = {
    "an alert of this release": (
        {},
        "spec.groups.0.rules.0.expr",
        'absent(quantmill_build_info{namespace="ns", job="r-quantmill-api"})',
    ),
    "labels to be selected by": ({"labels": {"release": "p"}}, "metadata.labels.release", "p"),
    "labels for routing": (
        {"alertLabels": {"team": "models", "severity": "page"}},
        "spec.groups.0.rules.0.labels",
        {"severity": "critical", "team": "models"},
    ),
    "without those that are disabled": (
        {"disabled": ["QuantmillDown"]},
        "spec.groups.0.rules.0.alert",
        "QuantmillNoScheduler",
    ),
    "a threshold": (
        {"thresholds": {"oldestQueuedSeconds": 90000000}},
        "spec.groups.0.rules.2.expr",
        'max(quantmill_oldest_queued_age_seconds{namespace="ns", job="r-quantmill-api"}) > 90000000',
    ),
}


@pytest.mark.parametrize(("values", "path", "expected"), SERVICE_MONITOR.values(), ids=SERVICE_MONITOR.keys())
def test_a_service_monitor_has(render: Render, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render({"metrics": {"serviceMonitor": {"enabled": True, **values}}})

    assert at(one(documents, "ServiceMonitor", "r-quantmill-api"), path) == expected


@pytest.mark.parametrize(("values", "path", "expected"), RULE.values(), ids=RULE.keys())
def test_a_rule_has(render: Render, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render({"metrics": {"prometheusRule": {"enabled": True, **values}}})

    assert at(one(documents, "PrometheusRule", "r-quantmill"), path) == expected


def test_a_service_monitor_finds_the_service_of_the_api_alone(render: Render) -> None:
    documents = render(EVERYTHING)
    selector = at(one(documents, "ServiceMonitor", "r-quantmill-api"), "spec.selector.matchLabels")

    found = [item for item in documents if item["kind"] == "Service"]
    selected = [item for item in found if selector.items() <= item["metadata"]["labels"].items()]

    assert [item["metadata"]["name"] for item in selected] == ["r-quantmill-api"]
    assert "http" in [port["name"] for port in selected[0]["spec"]["ports"]]


def test_monitoring_is_made_where_it_is_asked_for(render: Render) -> None:
    documents = render()

    assert names(documents, "ServiceMonitor") == names(documents, "PrometheusRule") == []
    assert names(documents, "ConfigMap") == ["r-quantmill"]


# What alerts and panels ask for is what the service tells


def exposed() -> dict[str, set[str]]:
    """Each sample of /metrics with its labels."""
    found = {"quantmill_build_info": {"version"}}
    for number in NUMBERS:
        found[f"quantmill_{number.name}" + "_total" * (number.kind == "counter")] = set(number.labels)
    traffic = Traffic()
    traffic.count({"method": "GET"}, 200, 0.1)
    for family in traffic.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, and the labels that are looked at there. What is aggregated by is looked at too."""
    by = {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(", ")}
    for name, matchers in re.findall(r"(quantmill_\w+)(?:\{([^}]*)\})?", expression):
        yield name, by | set(re.findall(r"(\w+)=", matchers))


def rules(documents: list[Document]) -> list[dict[str, Any]]:
    return list(at(one(documents, "PrometheusRule", "r-quantmill"), "spec.groups.0.rules"))


def dashboard(documents: list[Document]) -> dict[str, Any]:
    return dict(json.loads(one(documents, "ConfigMap", "r-quantmill-dashboard")["data"]["quantmill.json"]))


def test_alerts_and_panels_look_only_at_numbers_that_the_service_tells(render: Render) -> None:
    documents = render(EVERYTHING)
    expressions = [rule["expr"] for rule in rules(documents)]
    expressions += [target["expr"] for panel in dashboard(documents)["panels"] for target in panel["targets"]]
    told = exposed()

    for expression in expressions:
        looked_at = dict(asked(expression))
        assert looked_at
        assert "@" not in expression
        for name, labels in looked_at.items():
            assert name in told, expression
            assert labels <= told[name] | TARGET_LABELS, expression


def test_numbers_that_every_replica_tells_alike_are_not_summed_over_replicas(render: Render) -> None:
    documents = render(EVERYTHING)
    targets = [target["expr"] for panel in dashboard(documents)["panels"] for target in panel["targets"]]

    for expression in [rule["expr"] for rule in rules(documents)] + targets:
        if "quantmill_http_" not in expression and not expression.startswith("absent("):
            assert re.match(r"(sum( by \(\w+\))? \(|sum\()?(max|min)( by \([\w, ]+\))? ?\(", expression), expression


def test_every_alert_is_explained_in_the_readme() -> None:
    explained = re.findall(r"^\| `(Quantmill\w+)` \|", README.read_text(), re.MULTILINE)

    assert explained == ALERTS


def test_every_threshold_is_used_by_an_alert(render: Render) -> None:
    shares = {"failedShare": 0.123, "freeDiskShare": 0.124, "errorShare": 0.125}
    counts = {"oldestQueuedSeconds": 91, "lostAttempts": 92, "outboxSeconds": 93}
    documents = render({"metrics": {"prometheusRule": {"enabled": True, "thresholds": shares | counts}}})

    text = " ".join(rule["expr"] for rule in rules(documents))

    for value in (shares | counts).values():
        assert text.count(f" {value}") == 1


# Dashboard


def test_panels_fill_rows_without_overlap(render: Render) -> None:
    places = [panel["gridPos"] for panel in dashboard(render(EVERYTHING))["panels"]]

    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]

    assert len(cells) == len(set(cells)) == 24 * (max(y for _, y in cells) + 1)


def test_a_dashboard_opens_on_its_own_release(render: Render) -> None:
    found = dashboard(render(EVERYTHING))
    variables = {each["name"]: each for each in found["templating"]["list"]}

    assert found["title"] == "quantmill ns/r-quantmill"
    assert variables["namespace"]["current"]["value"] == "ns"
    assert variables["job"]["current"]["value"] == "r-quantmill-api"
    assert list(variables).index("namespace") < list(variables).index("job")  # one chooses from the other


def test_grafanas_sidecar_finds_the_dashboard(render: Render) -> None:
    values = {"metrics": {"dashboards": {"enabled": True, "annotations": {"grafana_folder": "Models"}}}}

    found = one(render(values), "ConfigMap", "r-quantmill-dashboard")["metadata"]

    assert found["labels"]["grafana_dashboard"] == "1"
    assert found["annotations"] == {"grafana_folder": "Models"}


# When alerts fire: one sample a minute, as promtool writes series (`1+1x5` is 1 2 3 4 5 6), on two replicas

LOST = 'attempts_total{method="gguf", outcome="lost"}'
FAILED = 'attempts_total{method="gguf", outcome="failed"}'
SUCCEEDED = 'attempts_total{method="fp8", outcome="succeeded"}'
API = 'http_requests_total{route="/v1/jobs", code="%d"}'
QUEUED = "A job has been queued for 1h 10m 0s"
FREE = "9% of the data folder's disk are free"
FIRES: dict[str, tuple[str, dict[str, str], int, bool]] = {
    "no API": ("QuantmillDown", {}, 6, True),
    "an API": ("QuantmillDown", {"build_info": "1x10"}, 6, False),
    "an API that has gone": ("QuantmillDown", {"build_info": "1x10 _x20"}, 25, True),
    "no scheduler": ("QuantmillNoScheduler", {"scheduler_leaders": "0x10"}, 3, True),
    "no scheduler for a moment": ("QuantmillNoScheduler", {"scheduler_leaders": "1x3 0 1x5"}, 5, False),
    "an old job": ("QuantmillJobsWait", {"oldest_queued_age_seconds": "3000+60x30"}, 20, True),
    "a young job": ("QuantmillJobsWait", {"oldest_queued_age_seconds": "0+60x30"}, 20, False),
    "a job for nobody": ("QuantmillNoEligibleWorker", {'jobs_waiting{reason="no_eligible_worker"}': "1x30"}, 20, True),
    "a job that has to wait": (
        "QuantmillNoEligibleWorker",
        {'jobs_waiting{reason="waiting_capacity"}': "1x30"},
        20,
        False,
    ),
    "no worker comes": ("QuantmillNoWorkersCome", {'jobs_waiting{reason="waiting_workers"}': "1x40"}, 35, True),
    "workers came": ("QuantmillNoWorkersCome", {'jobs_waiting{reason="waiting_workers"}': "1x20 0x20"}, 35, False),
    "three lost": ("QuantmillWorkersLost", {LOST: "0x10 1 2 3x60"}, 20, True),
    "one lost": ("QuantmillWorkersLost", {LOST: "0x10 1x60"}, 20, False),
    "three lost long ago": ("QuantmillWorkersLost", {LOST: "0x10 3x100"}, 90, False),
    "most fail": ("QuantmillJobsFail", {FAILED: "0x10 4x60", SUCCEEDED: "0x10 2x60"}, 20, True),
    "most succeed": ("QuantmillJobsFail", {FAILED: "0x10 4x60", SUCCEEDED: "0x10 6x60"}, 20, False),
    "too few to tell": ("QuantmillJobsFail", {FAILED: "0x10 2x60", SUCCEEDED: "0x10 1x60"}, 20, False),
    "events are late": ("QuantmillEventsLate", {"outbox_age_seconds": "301x20"}, 10, True),
    "events are told": ("QuantmillEventsLate", {"outbox_age_seconds": "299x20"}, 10, False),
    "a plugin is broken": ("QuantmillPluginNotLoaded", {"plugin_load_failures": "1x20"}, 10, True),
    "all plugins work": ("QuantmillPluginNotLoaded", {"plugin_load_failures": "0x20"}, 10, False),
    "a full disk": ("QuantmillDiskFull", {"data_free_bytes": "9x30", "data_size_bytes": "100x30"}, 15, True),
    "room": ("QuantmillDiskFull", {"data_free_bytes": "11x30", "data_size_bytes": "100x30"}, 15, False),
    "requests fail": (
        "QuantmillRequestsFail",
        {API % 500: "0+1x30", API % 200: "0+9x30"},
        20,
        True,
    ),
    "requests are refused": (
        "QuantmillRequestsFail",
        {API % 404: "0+1x30", API % 200: "0+9x30"},
        20,
        False,
    ),
    "probes fail": (
        "QuantmillRequestsFail",
        {'http_requests_total{route="/readyz", code="503"}': "0+9x30", API % 200: "0+1x30"},
        20,
        False,
    ),
}


def series(name: str, replica: str) -> str:
    """A series of this release's API, as the ServiceMonitor's Prometheus stores it."""
    bare, _, labels = name.rstrip("}").partition("{")
    own = f'namespace="ns", job="r-quantmill-api", pod="{replica}"'
    return f"quantmill_{bare}{{{own}{', ' if labels else ''}{labels}}}"


def fires(alert: str, told: dict[str, str], minute: int, expected: bool) -> dict[str, Any]:
    """A test as promtool reads it."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": series(name, replica), "values": values}
            for name, values in told.items()
            for replica in ("one", "two")
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": int(expected)}],
            }
        ],
    }


def says(rule: Document, minute: int, told: dict[str, str], summary: str) -> dict[str, Any]:
    """A test of what an alert's receiver reads."""
    expected = {
        "exp_labels": rule["labels"],
        "exp_annotations": {**rule["annotations"], "summary": summary},
    }
    case = fires(rule["alert"], told, minute, True)
    return case | {
        "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": rule["alert"], "exp_alerts": [expected]}]
    }


def test_every_alert_is_seen_to_fire_and_to_keep_quiet() -> None:
    assert {alert for alert, *_, expected in FIRES.values() if expected} == set(ALERTS)
    assert {alert for alert, *_, expected in FIRES.values() if not expected} == set(ALERTS)


def test_alerts_fire_when_they_should(render: Render, tmp_path: Path) -> None:
    tool = promtool()
    if tool is None:
        pytest.skip("there is no promtool; tests/servers/promtool.sh fetches Debian's")
    rule = one(render(EVERYTHING), "PrometheusRule", "r-quantmill")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    by_name = {each["alert"]: each for each in rule["spec"]["groups"][0]["rules"]}
    receivers = [
        says(by_name["QuantmillJobsWait"], 9, {"oldest_queued_age_seconds": "4200x20"}, QUEUED),
        says(by_name["QuantmillDiskFull"], 12, {"data_free_bytes": "9x20", "data_size_bytes": "100x20"}, FREE),
    ]
    tests = {"rule_files": ["rules.yaml"], "tests": [fires(*case) for case in FIRES.values()] + receivers}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))

    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        checked = subprocess.run([tool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
