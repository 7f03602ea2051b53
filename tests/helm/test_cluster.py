"""The in-memory cluster refuses and reports what a real one does: what the life cycle tests rest on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from servers.kubernetes.cluster import Cluster
from servers.kubernetes.controllers import Behaviour
from servers.kubernetes.fields import flatten, unflatten
from servers.kubernetes.kinds import Object
from servers.kubernetes.protobuf import decode_secret
from servers.kubernetes.refusal import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, Refusal
from servers.kubernetes.server import KubernetesServer, selection

SECURE = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
LABELS = {"app": "a"}


def deployment(**container: Any) -> Object:
    pod = {"containers": [{"name": "c", "image": "i:1", "securityContext": SECURE, **container}]}
    template = {"metadata": {"labels": LABELS}, "spec": pod}
    return {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": LABELS}, "template": template}}


def job() -> Object:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1", "securityContext": SECURE}]}
    return {"metadata": {"name": "j"}, "spec": {"template": {"spec": pod}}}


def claim(**spec: Any) -> Object:
    size = {"resources": {"requests": {"storage": "1Gi"}}}
    return {"metadata": {"name": "p"}, "spec": {"accessModes": ["ReadWriteOnce"], **size, **spec}}


def config(**data: str) -> Object:
    return {"metadata": {"name": "m"}, "data": data}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def create(cluster: Cluster, kind: str, item: Object) -> Object:
    return cluster.create(cluster.kind(kind), "ns", item, "test")


def apply(cluster: Cluster, kind: str, item: Object, manager: str = "helm", **options: bool) -> Object:
    return cluster.apply(cluster.kind(kind), "ns", item, manager, **options)


def get(cluster: Cluster, kind: str, name: str) -> Object:
    return cluster.get(cluster.kind(kind), "ns", name)


# Admission


def test_an_unknown_field_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Invalid, match="replica"):
        create(cluster, "Deployment", {**deployment(), "spec": {**deployment()["spec"], "replica": 2}})


def test_a_field_of_a_newer_version_is_refused_by_an_older_cluster() -> None:
    sidecar = deployment()
    sidecar["spec"]["template"]["spec"]["resources"] = {"limits": {"cpu": "1"}}  # pod-level resources came with 1.32

    create(Cluster("1.33"), "Deployment", sidecar)
    with pytest.raises(Invalid, match="resources"):
        create(Cluster("1.30"), "Deployment", sidecar)


@pytest.mark.parametrize(
    ("container", "complaint"),
    [
        ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "duplicate env in container c: A"),
        ({"ports": [{"containerPort": 1}, {"containerPort": 1}]}, "duplicate containerPort in container c"),
        ({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}, "duplicate port name"),
        ({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, "no volume is called v"),
    ],
)
def test_what_a_pod_cannot_have_twice_or_lacks_is_refused(cluster: Cluster, container: Object, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        create(cluster, "Deployment", deployment(**container))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"),
        ({"capabilities": {}}, "capabilities"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "capabilities"),
        ({"runAsNonRoot": False}, "runAsNonRoot"),
        ({"runAsUser": 0}, "runAsUser"),
        ({"privileged": True}, "privileged"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile"),
        ({"procMount": "Unmasked"}, "procMount"),
    ],
)
def test_pod_security_restricted_is_kept(cluster: Cluster, change: Object, rule: str) -> None:
    with pytest.raises(Forbidden, match=rule):
        create(cluster, "Deployment", deployment(securityContext={**SECURE, **change}))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"hostNetwork": True}, "host namespaces"),
        ({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}, "volume types"),
        ({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, "sysctls"),
    ],
)
def test_pods_keep_to_restricted_as_a_whole(cluster: Cluster, change: Object, rule: str) -> None:
    item = deployment()
    item["spec"]["template"]["spec"] |= change

    with pytest.raises(Forbidden, match=rule):
        create(cluster, "Deployment", item)


def test_a_selector_that_misses_its_own_pods_is_refused(cluster: Cluster) -> None:
    item = deployment()
    item["spec"]["selector"]["matchLabels"] = {"app": "b"}

    with pytest.raises(Invalid, match="selector"):
        create(cluster, "Deployment", item)


@pytest.mark.parametrize("name", ["Upper", "a_b", "-a", "a" * 254])
def test_a_name_that_is_no_dns_name_is_refused(cluster: Cluster, name: str) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name"):
        create(cluster, "ConfigMap", {"metadata": {"name": name}})


def test_a_label_of_more_than_63_characters_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Invalid, match=r"metadata\.labels"):
        create(cluster, "ConfigMap", {"metadata": {"name": "m", "labels": {"a": "b" * 64}}})


def test_kinds_outside_a_namespace_are_not_served(cluster: Cluster) -> None:
    with pytest.raises(StopIteration):
        cluster.kind("ClusterRole")


def test_a_namespace_must_be_there(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="elsewhere"):
        cluster.create(cluster.kind("ConfigMap"), "elsewhere", config(), "test")


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("PersistentVolumeClaim", claim(), claim(accessModes=["ReadWriteMany"])),
        ("Secret", {"metadata": {"name": "s"}, "type": "Opaque"}, {"metadata": {"name": "s"}, "type": "x/y"}),
    ],
)
def test_what_cannot_change_is_refused(cluster: Cluster, kind: str, before: Object, after: Object) -> None:
    apply(cluster, kind, before)

    with pytest.raises(Invalid, match="immutable"):
        apply(cluster, kind, after)


def test_a_jobs_template_cannot_change(cluster: Cluster) -> None:
    apply(cluster, "Job", job())
    changed = job()
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2"

    with pytest.raises(Invalid, match=r"spec\.template: field is immutable"):
        apply(cluster, "Job", changed)


def test_a_claim_can_grow(cluster: Cluster) -> None:
    apply(cluster, "PersistentVolumeClaim", claim())

    grown = apply(cluster, "PersistentVolumeClaim", claim(resources={"requests": {"storage": "2Gi"}}))

    assert grown["spec"]["resources"]["requests"] == {"storage": "2Gi"}


# Field ownership


def test_applying_the_same_again_changes_nothing(cluster: Cluster) -> None:
    first = apply(cluster, "Deployment", deployment())

    assert apply(cluster, "Deployment", deployment()) == first


def test_what_a_manager_leaves_out_goes(cluster: Cluster) -> None:
    apply(cluster, "ConfigMap", config(a="1", b="2"))

    assert apply(cluster, "ConfigMap", config(a="1"))["data"] == {"a": "1"}


def test_what_another_manager_set_stays(cluster: Cluster) -> None:
    apply(cluster, "ConfigMap", config(a="1"))
    apply(cluster, "ConfigMap", config(b="2"), "other")

    assert apply(cluster, "ConfigMap", config(a="3"))["data"] == {"a": "3", "b": "2"}


def test_two_managers_with_different_values_are_a_conflict(cluster: Cluster) -> None:
    apply(cluster, "ConfigMap", config(a="1"))

    with pytest.raises(Conflict, match=r'conflict with "helm": \.data\.a'):
        apply(cluster, "ConfigMap", config(a="2"), "other")
    assert apply(cluster, "ConfigMap", config(a="2"), "other", force=True)["data"] == {"a": "2"}


def test_replicas_that_a_chart_names_conflict_with_an_autoscaler(cluster: Cluster) -> None:
    named = deployment()
    named["spec"]["replicas"] = 2
    apply(cluster, "Deployment", named)
    cluster.scale("Deployment", "d", 5)

    with pytest.raises(Conflict, match=r"\.spec\.replicas"):
        apply(cluster, "Deployment", named)


def test_replicas_that_a_chart_leaves_open_are_the_autoscalers(cluster: Cluster) -> None:
    apply(cluster, "Deployment", deployment())
    cluster.scale("Deployment", "d", 5)

    assert apply(cluster, "Deployment", deployment(image="i:2"))["spec"]["replicas"] == 5


def test_entries_of_lists_are_told_apart_by_their_keys(cluster: Cluster) -> None:
    apply(cluster, "Deployment", deployment(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]))

    applied = apply(cluster, "Deployment", deployment(env=[{"name": "B", "value": "2"}, {"name": "C", "value": "3"}]))

    [container] = applied["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "B", "value": "2"}, {"name": "C", "value": "3"}]


def test_a_dry_run_leaves_nothing_behind(cluster: Cluster) -> None:
    apply(cluster, "ConfigMap", config(a="1"), dry_run=True)

    with pytest.raises(NotFound):
        get(cluster, "ConfigMap", "m")


@pytest.mark.parametrize("item", [deployment(), job(), config(), {"a": {}, "b": [], "c": [1, {"x": 1}], "d": None}])
def test_an_object_can_be_made_from_its_fields(item: Object) -> None:
    assert unflatten(flatten(item)) == item


# Objects


def test_a_name_can_be_taken_once(cluster: Cluster) -> None:
    create(cluster, "ConfigMap", config())

    with pytest.raises(AlreadyExists):
        create(cluster, "ConfigMap", config())


def test_a_write_from_an_old_copy_is_a_conflict(cluster: Cluster) -> None:
    old = create(cluster, "ConfigMap", config(a="1"))
    apply(cluster, "ConfigMap", config(b="2"), "other")

    with pytest.raises(Conflict, match="has been modified"):
        cluster.replace(cluster.kind("ConfigMap"), "ns", old, "test")


def test_a_merge_patch_sets_and_removes(cluster: Cluster) -> None:
    create(cluster, "ConfigMap", config(a="1", b="2"))

    patched = cluster.merge(cluster.kind("ConfigMap"), "ns", "m", {"data": {"a": None, "c": "3"}}, "test")

    assert patched["data"] == {"b": "2", "c": "3"}


def test_text_in_a_secret_is_stored_as_data(cluster: Cluster) -> None:
    stored = create(cluster, "Secret", {"metadata": {"name": "s"}, "stringData": {"url": "x"}})

    assert (stored["data"], "stringData" in stored) == ({"url": "eA=="}, False)


def test_the_generation_counts_changes_of_the_spec_alone(cluster: Cluster) -> None:
    apply(cluster, "Deployment", deployment())
    labelled = deployment()
    labelled["metadata"]["labels"] = {"a": "b"}

    assert apply(cluster, "Deployment", labelled)["metadata"]["generation"] == 1
    assert apply(cluster, "Deployment", deployment(image="i:2"))["metadata"]["generation"] == 2


# Controllers


def test_a_deployment_is_ready_when_all_that_it_names_exists(cluster: Cluster) -> None:
    create(cluster, "Deployment", deployment(envFrom=[{"configMapRef": {"name": "m"}}]))
    before = get(cluster, "Deployment", "d")["status"]["readyReplicas"]

    create(cluster, "ConfigMap", config())

    assert (before, get(cluster, "Deployment", "d")["status"]["readyReplicas"]) == (0, 1)


def test_a_job_ends_well_unless_it_is_told_otherwise(cluster: Cluster) -> None:
    assert create(cluster, "Job", job())["status"]["succeeded"] == 1
    cluster.delete(cluster.kind("Job"), "ns", "j")

    cluster.behave(Behaviour(fails=lambda item: item["kind"] == "Job"))

    assert create(cluster, "Job", job())["status"]["conditions"][0]["type"] == "Failed"


def test_what_hangs_goes_on_when_it_is_let(cluster: Cluster) -> None:
    cluster.behave(Behaviour(hangs=lambda item: item["kind"] == "Job"))
    assert create(cluster, "Job", job())["status"]["active"] == 1

    cluster.behave(Behaviour())

    assert get(cluster, "Job", "j")["status"]["succeeded"] == 1


# HTTP


@pytest.fixture(scope="module")
def served() -> Iterator[httpx.Client]:
    cluster = Cluster("1.30", frozenset({"keda"}))
    create(cluster, "ConfigMap", {"metadata": {"name": "m", "labels": LABELS}})
    with KubernetesServer(cluster) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


def test_the_version_is_the_chosen_one(served: httpx.Client) -> None:
    assert served.get("/version").json()["gitVersion"] == "v1.30.0"


def test_discovery_names_the_kinds_of_switched_on_capabilities(served: httpx.Client) -> None:
    groups = {group["name"] for group in served.get("/apis").json()["groups"]}

    assert "keda.sh" in groups
    assert "route.openshift.io" not in groups
    kinds = [resource["kind"] for resource in served.get("/apis/keda.sh/v1alpha1").json()["resources"]]
    assert kinds == ["ScaledObject", "ScaledJob", "TriggerAuthentication"]


def test_a_kind_that_is_not_served_is_not_found(served: httpx.Client) -> None:
    answer = served.get("/apis/route.openshift.io/v1/namespaces/ns/routes")

    assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound")


@pytest.mark.parametrize(("selector", "found"), [("app=a", 1), ("app!=a", 0), ("app=a,tier=x", 0)])
def test_lists_are_selected_by_labels(served: httpx.Client, selector: str, found: int) -> None:
    listed = served.get("/api/v1/namespaces/ns/configmaps", params={"labelSelector": selector}).json()

    assert (listed["kind"], len(listed["items"])) == ("ConfigMapList", found)


def test_a_selector_that_is_not_understood_is_refused_and_not_ignored() -> None:
    with pytest.raises(Refusal, match="app in"):
        selection({"labelSelector": "app in (a)"})


def test_a_watch_begins_with_what_is_there_and_goes_on_with_changes(served: httpx.Client) -> None:
    query = {"watch": "true", "sendInitialEvents": "true", "allowWatchBookmarks": "true"}
    with served.stream("GET", "/api/v1/namespaces/ns/secrets", params=query) as stream:
        lines = stream.iter_lines()
        assert json.loads(next(lines))["type"] == "BOOKMARK"

        served.post("/api/v1/namespaces/ns/secrets", json={"metadata": {"name": "new"}})
        served.delete("/api/v1/namespaces/ns/secrets/new")

        changes = [json.loads(next(lines)) for _ in range(2)]
    assert [(change["type"], change["object"]["metadata"]["name"]) for change in changes] == [
        ("ADDED", "new"),
        ("DELETED", "new"),
    ]


@pytest.mark.parametrize("body", [b"{", b"[]", b"k8s\0\xff", b"\x00"])
def test_a_body_that_is_no_object_is_refused(served: httpx.Client, body: bytes) -> None:
    assert served.post("/api/v1/namespaces/ns/configmaps", content=body).status_code == 400


def test_a_secret_is_read_from_protobuf() -> None:
    def part(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    label = part(1, b"owner") + part(2, b"helm")
    secret = part(1, part(1, b"s") + part(3, b"ns") + part(11, label)) + part(2, part(1, b"k") + part(2, b"v"))
    envelope = part(1, part(1, b"v1") + part(2, b"Secret")) + part(2, secret + part(3, b"Opaque"))

    assert decode_secret(b"k8s\0" + envelope) == {
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"k": "dg=="},
        "metadata": {"name": "s", "namespace": "ns", "labels": {"owner": "helm"}},
    }  # fmt: skip


def test_an_answer_is_a_copy(cluster: Cluster) -> None:
    created = create(cluster, "ConfigMap", config(a="1"))
    before = copy.deepcopy(created)

    created["data"]["a"] = "2"

    assert get(cluster, "ConfigMap", "m") == before
