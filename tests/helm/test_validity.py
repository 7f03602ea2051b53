"""The schemas of custom resources notice what a cluster would."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from tests.helm.conftest import values_of
from tests.helm.manifests import Document
from tests.helm.validity import CUSTOM, validate

MISSING = object()
BROKEN = {
    "a path type of Ingress": ("HTTPRoute", "rules/0/matches/0/path/type", "Prefix"),
    "a nameless backend": ("HTTPRoute", "rules/0/backendRefs/0/name", MISSING),
    "a host that is none": ("HTTPRoute", "hostnames", ["a_b"]),
    "the port 0": ("HTTPRoute", "parentRefs/0/port", 0),
    "an interval with a blank": ("ServiceMonitor", "endpoints/0/interval", "30 s"),
    "no selector": ("ServiceMonitor", "selector", MISSING),
    "an unknown action": ("ServiceMonitor", "endpoints/0/relabelings/0/action", "erase"),
    "an alert without expression": ("PrometheusRule", "groups/0/rules/0/expr", MISSING),
    "a duration in words": ("PrometheusRule", "groups/0/rules/0/for", "5 minutes"),
    "a nameless group": ("PrometheusRule", "groups/0/name", MISSING),
    "no key in the Secret": ("ExternalSecret", "data/0/secretKey", MISSING),
    "an unknown policy": ("ExternalSecret", "target/creationPolicy", "Never"),
    "no key in the store": ("ExternalSecret", "data/0/remoteRef/key", MISSING),
    "a Route to a pod": ("Route", "to/kind", "Pod"),
    "a Route with Ingress's TLS": ("Route", "tls/secretName", "s"),
    "a number for KEDA's scalers": ("ScaledObject", "triggers/0/metadata/targetValue", 1),
    "a trigger without its token": ("ScaledObject", "triggers/0/authenticationRef", MISSING),
    "a trigger with another's keys": ("ScaledObject", "triggers/0/type", "prometheus"),
    "a window of two hours": (
        "ScaledObject",
        "advanced/horizontalPodAutoscalerConfig/behavior/scaleDown/stabilizationWindowSeconds",
        7200,
    ),
    "a pod with a key of no pod": ("ScaledJob", "jobTargetRef/template/spec/restartpolicy", "Never"),
    "a token from nowhere": ("TriggerAuthentication", "secretTargetRef/0/name", MISSING),
}


@pytest.fixture(scope="module")
def custom(render: Callable[..., list[Document]]) -> dict[str, Document]:
    """One good object of each kind."""
    return {item["kind"]: item for item in render(values_of("everything-on")) if item["kind"] in CUSTOM}


@pytest.mark.parametrize(("kind", "path", "value"), BROKEN.values(), ids=BROKEN.keys())
def test_what_a_cluster_would_refuse_is_refused(custom: dict[str, Document], kind: str, path: str, value: Any) -> None:
    broken = copy.deepcopy(custom[kind])
    *way, last = path.split("/")
    node: Any = broken["spec"]
    for key in way:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if value is MISSING:
        del node[last]
    else:
        node[last] = value

    validate(custom[kind], "1.33")
    with pytest.raises(jsonschema.ValidationError):
        validate(broken, "1.33")
