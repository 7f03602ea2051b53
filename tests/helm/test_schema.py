"""What the chart refuses before anything is installed, and with which words."""

from __future__ import annotations

from typing import Any

import helm_python as helm
import pytest

REFUSED = {
    "an unknown key": ({"replicas": 3}, "replicas"),
    "an unknown nested key": ({"api": {"replica": 3}}, "replica"),
    "a number as text": ({"api": {"replicas": "2"}}, "/api/replicas"),
    "no API pod at all": ({"api": {"replicas": 0}}, "/api/replicas"),
    "the tag latest": ({"image": {"tag": "latest"}}, "/image/tag"),
    "the tag latest in a pool": ({"workers": {"pools": {"cpu": {"image": {"tag": "latest"}}}}}, "/workers/pools/cpu"),
    "a short digest": ({"image": {"digest": "sha256:12"}}, "/image/digest"),
    "a tag inside the repository": ({"image": {"repository": "quantmill:1"}}, "/image/repository"),
    "an unknown setting": ({"config": {"lease_second": 5}}, "lease_second"),
    "a setting that the chart decides": ({"config": {"data_dir": "/elsewhere"}}, "data_dir"),
    "a URL among the settings": ({"config": {"database_url": "postgresql://u:p@h/d"}}, "database_url"),
    "a lease of no length": ({"config": {"lease_seconds": 0}}, "/config/lease_seconds"),
    "half an attempt": ({"config": {"max_attempts": 1.5}}, "/config/max_attempts"),
    "an unknown key in a pool": ({"workers": {"pools": {"cpu": {"slot": 2}}}}, "/workers/pools/cpu"),
    "a pool name that is no label": ({"workers": {"pools": {"CPU_1": {}}}}, "CPU_1"),
    "a pool name that is too long": ({"workers": {"pools": {"a" * 21: {}}}}, "a" * 21),
    "SQLite for several pods": ({"database": {"external": {"url": "sqlite:////q.db"}}}, "/database/external/url"),
    "a broker that is not Redis": ({"broker": {"external": {"url": "amqp://mq"}}}, "/broker/external/url"),
    "the user root": ({"podSecurityContext": {"runAsUser": 0}}, "/podSecurityContext/runAsUser"),
    "a privilege": ({"podSecurityContext": {"sysctls": []}}, "sysctls"),
    "a source without a claim": ({"sources": {"hub": {"mountPath": "/models"}}}, "/sources/hub"),
    "a source outside its claim": (
        {"sources": {"hub": {"claim": "c", "mountPath": "/m", "subPath": "a/../../b"}}},
        "/sources/hub/subPath",
    ),
    "a quantity without sense": ({"artifacts": {"pvc": {"size": "100 GB"}}}, "/artifacts/pvc/size"),
}  # fmt: skip

CONTRADICTIONS = {
    "two homes of one URL": (
        {"database": {"external": {"existingSecret": "s", "url": "postgresql://h/d"}}},
        "database.external.url and database.external.existingSecret are both set",
    ),
    "slots that would share one CPU limit": (
        {"workers": {"pools": {"cpu": {"slots": 2}}}},
        "workers.pools.cpu: with slots 2, threads must be set",
    ),
    "threads from a limit that is not there": (
        {"workers": {"defaults": {"resources": {"limits": {"cpu": None}}}}},
        "workers.pools.cpu: threads is 0",
    ),
}


@pytest.mark.parametrize(("values", "place"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_values_are_refused_and_named(chart: helm.Chart, values: dict[str, Any], place: str) -> None:
    with pytest.raises(helm.HelmError) as refusal:
        chart.render(values)

    assert place in str(refusal.value)


@pytest.mark.parametrize(("values", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradicting_values_are_refused_with_a_remedy(
    chart: helm.Chart, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(helm.HelmRenderError) as refusal:
        chart.render(values)

    assert message in str(refusal.value)


def test_a_parent_chart_may_pass_its_globals_and_a_switch(chart: helm.Chart) -> None:
    chart.validate_schema({"enabled": True, "global": {"somebodyElses": {"key": 1}}})
