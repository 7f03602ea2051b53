"""Ways to the API from outside, and which pods may talk to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import helm_python as helm
import pytest
from tests.helm.manifests import Document, at, names, one

Render = Callable[..., list[Document]]

INGRESS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "class": ({"className": "nginx"}, "spec.ingressClassName", "nginx"),
    "the cluster's default class": ({}, "spec.ingressClassName", None),
    "annotations": ({"annotations": {"a": "b"}}, "metadata.annotations", {"a": "b"}),
    "a host": ({"hosts": ["a.example"]}, "spec.rules.0.host", "a.example"),
    "a second host": ({"hosts": ["a.example", "b.example"]}, "spec.rules.1.host", "b.example"),
    "any host": ({}, "spec.rules.0.host", None),
    "the service": ({}, "spec.rules.0.http.paths.0.backend.service.name", "r-quantmill-api"),
    "its port": ({}, "spec.rules.0.http.paths.0.backend.service.port", {"name": "http"}),
    "path type": ({"pathType": "Exact"}, "spec.rules.0.http.paths.0.pathType", "Exact"),
    "no certificates": ({}, "spec.tls", None),
    "a certificate for all hosts": (
        {"hosts": ["a.example"], "tls": [{"secretName": "s"}]},
        "spec.tls",
        [{"hosts": ["a.example"], "secretName": "s"}],
    ),
    "a certificate that the controller has": (
        {"hosts": ["a.example", "b.example"], "tls": [{"hosts": ["b.example"]}]},
        "spec.tls",
        [{"hosts": ["b.example"]}],
    ),
}

PARENT = {"name": "public", "namespace": "gateways"}
HTTP_ROUTE: dict[str, tuple[dict[str, Any], str, Any]] = {
    "gateway": ({}, "spec.parentRefs", [PARENT]),
    "hosts": ({"hostnames": ["*.example.org"]}, "spec.hostnames", ["*.example.org"]),
    "hosts of the listener": ({}, "spec.hostnames", None),
    "service": ({}, "spec.rules.0.backendRefs", [{"name": "r-quantmill-api", "port": 8642}]),
    "a path": ({}, "spec.rules.0.matches.0.path", {"type": "PathPrefix", "value": "/v1"}),
    "no time limit": ({"timeouts": {"request": "0s"}}, "spec.rules.0.timeouts", {"request": "0s"}),
    "the gateway's time limits": ({}, "spec.rules.0.timeouts", None),
    "annotations": ({"annotations": {"a": "b"}}, "metadata.annotations.a", "b"),
}

ROUTE: dict[str, tuple[dict[str, Any], str, Any]] = {
    "host": ({}, "spec.host", "q.example"),
    "service": ({}, "spec.to", {"kind": "Service", "name": "r-quantmill-api", "weight": 100}),
    "port": ({}, "spec.port.targetPort", "http"),
    "path": ({}, "spec.path", "/v1"),
    "TLS ends at the router": (
        {},
        "spec.tls",
        {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"},
    ),
    "plain HTTP": ({"tls": {"termination": "none"}}, "spec.tls", None),
}

TO_POSTGRES = {"networkPolicy": {"egress": {"mode": "restricted", "postgres": {"to": [{"podSelector": {}}]}}}}
EXTRA = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
POLICIES: dict[str, tuple[str, dict[str, Any], str, Any]] = {
    "everybody may call the API": ("api", {}, "spec.ingress", [{"ports": [{"port": "http", "protocol": "TCP"}]}]),
    "egress is open": ("worker-cpu", {}, "spec.policyTypes", ["Ingress"]),
    "egress can be restricted": (
        "worker-cpu",
        {"networkPolicy": {"egress": {"mode": "restricted"}}},
        "spec.policyTypes",
        ["Ingress", "Egress"],
    ),
    "a pool may differ": (
        "worker-cpu",
        {"workers": {"pools": {"cpu": {"networkPolicy": {"egress": "restricted"}}}}},
        "spec.policyTypes",
        ["Ingress", "Egress"],
    ),
    "and be open alone": (
        "worker-cpu",
        {
            "networkPolicy": {"egress": {"mode": "restricted"}},
            "workers": {"pools": {"cpu": {"networkPolicy": {"egress": "open"}}}},
        },
        "spec.egress",
        None,
    ),
    "names are resolved": (
        "scheduler",
        {"networkPolicy": {"egress": {"mode": "restricted", "dns": {"ports": [53]}}}},
        "spec.egress.0",
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
    ),
    "PostgreSQL is where the values say": (
        "scheduler",
        TO_POSTGRES,
        "spec.egress.1",
        {"ports": [{"port": 5432, "protocol": "TCP"}], "to": [{"podSelector": {}}]},
    ),
    "Redis is anywhere": (
        "scheduler",
        TO_POSTGRES,
        "spec.egress.2",
        {"ports": [{"port": 6379, "protocol": "TCP"}]},
    ),
    "a migration talks to no Redis": ("migrate", TO_POSTGRES, "spec.egress.2", None),
    "more is said by hand": (
        "api",
        {"networkPolicy": {"egress": {"mode": "restricted", "extra": [EXTRA]}}},
        "spec.egress.3",
        EXTRA,
    ),
}


@pytest.mark.parametrize(("values", "path", "expected"), INGRESS.values(), ids=INGRESS.keys())
def test_an_ingress_has(render: Render, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render({"ingress": {"enabled": True, **values}})

    assert at(one(documents, "Ingress", "r-quantmill"), path) == expected


@pytest.mark.parametrize(("values", "path", "expected"), HTTP_ROUTE.values(), ids=HTTP_ROUTE.keys())
def test_an_http_route_has(render: Render, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render({"httpRoute": {"enabled": True, "parentRefs": [PARENT], **values}})

    assert at(one(documents, "HTTPRoute", "r-quantmill"), path) == expected


@pytest.mark.parametrize(("values", "path", "expected"), ROUTE.values(), ids=ROUTE.keys())
def test_a_route_has(render: Render, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render({"route": {"enabled": True, "host": "q.example", **values}})

    assert at(one(documents, "Route", "r-quantmill"), path) == expected


def test_metrics_are_not_shown_outside(render: Render) -> None:
    documents = render(
        {
            "ingress": {"enabled": True},
            "httpRoute": {"enabled": True, "parentRefs": [PARENT]},
            "route": {"enabled": True, "host": "q.example"},
        }
    )
    public = ["/v1", "/openapi.json", "/livez", "/readyz"]

    ingress = at(one(documents, "Ingress", "r-quantmill"), "spec.rules.0.http.paths")
    matches = at(one(documents, "HTTPRoute", "r-quantmill"), "spec.rules.0.matches")
    routes = [one(documents, "Route", name) for name in names(documents, "Route")]

    assert [path["path"] for path in ingress] == public
    assert [match["path"]["value"] for match in matches] == public
    assert [at(route, "spec.path") for route in routes] == public


def test_openshift_chooses_the_host_of_a_single_path(render: Render) -> None:
    documents = render({"api": {"publicPaths": ["/"]}, "route": {"enabled": True}})

    assert one(documents, "Route", "r-quantmill")["spec"].keys() == {"path", "to", "port", "tls"}


@pytest.mark.parametrize(("component", "values", "path", "expected"), POLICIES.values(), ids=POLICIES.keys())
def test_network_policies(render: Render, component: str, values: dict[str, Any], path: str, expected: Any) -> None:
    documents = render(values)

    assert at(one(documents, "NetworkPolicy", f"r-quantmill-{component}"), path) == expected


def test_callers_are_those_that_the_values_name_and_the_releases_own_tests(render: Render) -> None:
    allowed = {"fromNamespaces": ["monitoring", "keda"], "fromPods": [{"app": "notebook"}]}
    peer = {"ipBlock": {"cidr": "10.0.0.0/8"}}

    documents = render({"networkPolicy": {"ingress": {**allowed, "fromPeers": [peer]}}})

    assert at(one(documents, "NetworkPolicy", "r-quantmill-api"), "spec.ingress.0.from") == [
        {
            "podSelector": {
                "matchLabels": {
                    "app.kubernetes.io/name": "quantmill",
                    "app.kubernetes.io/instance": "r",
                    "app.kubernetes.io/component": "test",
                }
            }
        },
        {
            "namespaceSelector": {
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring", "keda"]}
                ]
            }
        },
        {"podSelector": {"matchLabels": {"app": "notebook"}}},
        peer,
    ]


def test_restricted_tests_reach_the_api_alone(render: Render) -> None:
    documents = render({"networkPolicy": {"egress": {"mode": "restricted"}}})
    rules = at(one(documents, "NetworkPolicy", "r-quantmill-test"), "spec.egress")
    api = at(one(documents, "NetworkPolicy", "r-quantmill-api"), "spec.podSelector")

    assert len(rules) == 2  # the first resolves names
    assert rules[1] == {"ports": [{"port": "http", "protocol": "TCP"}], "to": [{"podSelector": api}]}


def test_there_need_be_no_policies(render: Render) -> None:
    assert names(render({"networkPolicy": {"enabled": False}}), "NetworkPolicy") == []


REFUSED = {
    "a route without a gateway": ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
    "two ways for one host": (
        {
            "ingress": {"enabled": True, "hosts": ["a.example"]},
            "httpRoute": {"enabled": True, "parentRefs": [PARENT], "hostnames": ["a.example"]},
        },
        "a.example stands in ingress.hosts and in httpRoute.hostnames",
    ),
    "paths that would get a host each": ({"route": {"enabled": True}}, "set route.host, or api.publicPaths to one"),
    "no path at all": ({"api": {"publicPaths": []}}, "/api/publicPaths"),
    "a host with a scheme": ({"ingress": {"hosts": ["https://a.example"]}}, "/ingress/hosts/0"),
    "a time limit without a unit": ({"httpRoute": {"timeouts": {"request": "60"}}}, "/httpRoute/timeouts/request"),
    "a peer that is none": ({"networkPolicy": {"ingress": {"fromPeers": [{"cidr": "::/0"}]}}}, "fromPeers/0"),
    "an unknown mode": ({"networkPolicy": {"egress": {"mode": "closed"}}}, "/networkPolicy/egress/mode"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_makes_no_sense_is_refused(chart: helm.Chart, values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError) as refusal:
        chart.render(values)

    assert message in str(refusal.value)


def notes(chart: helm.Chart, values: dict[str, Any]) -> str:
    return chart.render(values, name="r", namespace="ns")["quantmill/templates/NOTES.txt"]


def test_the_notes_name_every_way_from_outside(chart: helm.Chart) -> None:
    text = notes(
        chart,
        {
            "ingress": {"enabled": True, "hosts": ["a.example"]},
            "httpRoute": {"enabled": True, "parentRefs": [PARENT], "hostnames": ["b.example"]},
            "route": {"enabled": True, "host": "c.example"},
        },
    )

    assert "  http://a.example\n  b.example, by the Gateway\n  https://c.example\nfor the paths /v1, " in text


def test_the_notes_tell_how_to_test(chart: helm.Chart) -> None:
    assert "\nSee whether it works:\n  helm test r --namespace ns" in notes(chart, {})
    assert "helm test" not in notes(chart, {"tests": {"enabled": False}})
