"""Pools of workers: defaults and overrides, GPUs, KEDA."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm.manifests import at, environment, of_kind, one, template
from tests.helm.validity import validate

from servers.promtool import promtool

Document = dict[str, Any]
Render = Callable[..., list[Document]]

DIGEST = "sha256:" + "a" * 64


def pool(render: Render, values: dict[str, Any], name: str = "gpu", **defaults: Any) -> Document:
    documents = render({"workers": {"defaults": defaults, "pools": {name: values}}})
    return one(documents, "Deployment", f"r-quantmill-worker-{name}")


def spec(deployment: Document) -> Document:
    return dict(template(deployment)["spec"])


def variables(deployment: Document) -> dict[str, Any]:
    return environment(spec(deployment)["containers"][0])


# Defaults and overrides


def test_a_pool_serves_the_queue_of_its_hardware_unless_told_otherwise(render: Render) -> None:
    documents = render({"workers": {"pools": {"zinc": {}, "alpha": {"queue": "batch"}}}})
    queues = {
        name: variables(one(documents, "Deployment", f"r-quantmill-worker-{name}")).get("QUANTMILL_QUEUE")
        for name in ("alpha", "cpu", "zinc")
    }

    assert queues == {"alpha": "batch", "cpu": None, "zinc": None}


@pytest.mark.parametrize("pools", [{"cpu": {"enabled": False}}, {"cpu": None}], ids=["disabled", "null"])
def test_a_pool_can_be_taken_away(render: Render, pools: dict[str, Any]) -> None:
    documents = render({"workers": {"pools": pools}})

    assert not [item for item in documents if "worker" in item["metadata"]["name"]]


def test_a_pool_overrides_single_keys_of_the_defaults(render: Render) -> None:
    defaults = {"nodeSelector": {"arch": "amd64"}, "tolerations": [{"key": "a", "operator": "Exists"}], "replicas": 3}
    own = {"nodeSelector": {"disk": "nvme"}, "tolerations": [{"key": "b", "operator": "Exists"}], "replicas": 0}

    deployment = pool(render, own, **defaults)

    assert deployment["spec"]["replicas"] == 0
    assert deployment["spec"]["template"]["spec"]["nodeSelector"] == {"arch": "amd64", "disk": "nvme"}
    assert deployment["spec"]["template"]["spec"]["tolerations"] == [{"key": "b", "operator": "Exists"}]


def test_one_pools_overrides_do_not_leak_into_the_next(render: Render) -> None:
    documents = render({"workers": {"pools": {"a": {"resources": {"limits": {"memory": "64Gi"}}}, "b": {}}}})

    limits = [
        spec(one(documents, "Deployment", f"r-quantmill-worker-{name}"))["containers"][0]["resources"]["limits"][
            "memory"
        ]
        for name in ("a", "b", "cpu")
    ]

    assert limits == ["64Gi", "8Gi", "8Gi"]


def test_threads_follow_the_cpu_limit_unless_they_are_set(render: Render) -> None:
    from_limit = {"resourceFieldRef": {"containerName": "worker", "resource": "limits.cpu", "divisor": "1"}}

    assert variables(pool(render, {}))["QUANTMILL_THREADS"] == from_limit
    assert variables(pool(render, {"threads": 6, "slots": 2}))["QUANTMILL_THREADS"] == "6"


def test_a_pools_settings_win_over_the_common_ones(render: Render) -> None:
    deployment = pool(render, {"config": {"runner_memory_bytes": 68_719_476_736}})

    assert variables(deployment)["QUANTMILL_RUNNER_MEMORY_BYTES"] == "68719476736"


def test_a_pool_may_run_another_image(render: Render) -> None:
    image = {"repository": "team/worker", "digest": DIGEST, "pullPolicy": "Always"}

    worker = pool(render, {"image": image})["spec"]["template"]["spec"]["containers"][0]

    assert worker["image"] == f"docker.io/team/worker@{DIGEST}"
    assert worker["imagePullPolicy"] == "Always"


def test_workers_are_given_time_to_hand_their_job_back(render: Render) -> None:
    spec = pool(render, {"terminationGracePeriodSeconds": 900})["spec"]["template"]["spec"]

    assert spec["terminationGracePeriodSeconds"] == 900


@pytest.mark.parametrize(("value", "expected"), [(True, "true"), (False, None)])
def test_autoscalers_leave_busy_nodes_alone_unless_told_otherwise(
    render: Render, value: bool, expected: str | None
) -> None:
    annotations = pool(render, {"doNotDisrupt": value})["spec"]["template"]["metadata"]["annotations"]

    assert annotations.get("karpenter.sh/do-not-disrupt") == expected


def test_what_a_pool_adds_replaces_what_all_have_by_that_name(render: Render) -> None:
    defaults = {"extraVolumes": {"weights": {"emptyDir": {"sizeLimit": "1Gi"}}}, "extraEnv": {"TZ": "UTC", "A": "1"}}
    own = {"extraVolumes": {"weights": {"configMap": {"name": "w"}}}, "extraEnv": {"TZ": "CET"}}

    deployment = pool(render, own, **defaults)

    assert {"name": "weights", "configMap": {"name": "w"}} in spec(deployment)["volumes"]
    assert (variables(deployment)["TZ"], variables(deployment)["A"]) == ("CET", "1")


# Volumes

VOLATILE = {
    "a folder": ({"size": "3Gi"}, {"emptyDir": {"sizeLimit": "3Gi"}}),
    "a claim that all share": (
        {"type": "existingClaim", "existingClaim": "cache"},
        {"persistentVolumeClaim": {"claimName": "cache"}},
    ),
    "a claim of its own": (
        {"type": "pvc", "size": "3Gi", "storageClass": "nvme"},
        {"ephemeral": {"volumeClaimTemplate": {"spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "nvme", "resources": {"requests": {"storage": "3Gi"}},
        }}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("key", "volume"), [("scratch", "tmp"), ("modelCache", "cache")])
@pytest.mark.parametrize(("values", "source"), VOLATILE.values(), ids=VOLATILE.keys())
def test_scratch_and_cache_lie_where_the_pool_says(
    render: Render, key: str, volume: str, values: dict[str, Any], source: dict[str, Any]
) -> None:
    deployment = pool(render, {key: values})

    assert {"name": volume, **source} in spec(deployment)["volumes"]


def test_shared_memory_is_mounted_where_it_is_asked_for(render: Render) -> None:
    with_it = spec(pool(render, {"shm": {"enabled": True, "sizeLimit": "8Gi"}}))
    without = spec(pool(render, {}))

    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in with_it["volumes"]
    assert {"mountPath": "/dev/shm", "name": "shm"} in with_it["containers"][0]["volumeMounts"]
    assert "shm" not in str(without)


# GPUs


def requirement(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


REQUIRED = {
    "memory": ({"minMemoryMiB": 40000}, requirement("nvidia.com/gpu.memory", "Gt", "39999")),
    "compute capability": ({"minComputeMajor": 9}, requirement("nvidia.com/gpu.compute.major", "Gt", "8")),
    "products": ({"products": ["L40S", "H100"]}, requirement("nvidia.com/gpu.product", "In", "L40S", "H100")),
    "slices": ({"mig": {"strategy": "single"}}, requirement("nvidia.com/mig.strategy", "In", "single")),
}


@pytest.mark.parametrize(("gpu", "expected"), REQUIRED.values(), ids=REQUIRED.keys())
def test_what_a_gpu_must_have_is_asked_of_the_node(render: Render, gpu: dict[str, Any], expected: Any) -> None:
    affinity = spec(pool(render, {"gpu": {"enabled": True, **gpu}}))["affinity"]

    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [expected]}]


def test_what_is_required_is_added_to_each_alternative_of_the_users(render: Render) -> None:
    zones = [requirement("zone", "In", zone) for zone in ("a", "b")]
    own = {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [zone]} for zone in zones]
    }}  # fmt: skip

    deployment = pool(render, {"gpu": {"enabled": True, "minMemoryMiB": 2}, "affinity": {"nodeAffinity": own}})

    memory = requirement("nvidia.com/gpu.memory", "Gt", "1")
    terms = spec(deployment)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms == {"nodeSelectorTerms": [{"matchExpressions": [zone, memory]} for zone in zones]}


def test_preferred_products_come_in_their_order(render: Render) -> None:
    affinity = spec(pool(render, {"gpu": {"enabled": True, "preferredProducts": ["H100", "A100"]}}))["affinity"]

    assert affinity == {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": weight, "preference": {"matchExpressions": [requirement("nvidia.com/gpu.product", "In", product)]}}
        for weight, product in [(100, "H100"), (99, "A100")]
    ]}}  # fmt: skip


@pytest.mark.parametrize(
    ("gpu", "resource", "count"),
    [
        ({}, "nvidia.com/gpu", "1"),
        ({"count": 4}, "nvidia.com/gpu", "4"),
        ({"resourceName": "amd.com/gpu"}, "amd.com/gpu", "1"),
        ({"mig": {"strategy": "mixed", "profile": "1g.10gb"}}, "nvidia.com/mig-1g.10gb", "1"),
        ({"mig": {"strategy": "single"}}, "nvidia.com/gpu", "1"),
    ],
    ids=str,
)
def test_gpus_are_limits_of_the_container(render: Render, gpu: dict[str, Any], resource: str, count: str) -> None:
    limits = spec(pool(render, {"gpu": {"enabled": True, **gpu}}))["containers"][0]["resources"]["limits"]

    assert limits == {"cpu": "2", "memory": "8Gi", resource: count}


def test_a_pool_with_gpus_bears_their_taint_and_calibrates_on_them(render: Render) -> None:
    toleration = {"key": "team", "operator": "Exists"}

    deployment = pool(render, {"gpu": {"enabled": True, "runtimeClassName": "nvidia"}, "tolerations": [toleration]})

    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert spec(deployment)["tolerations"] == [toleration, gpu]
    assert spec(deployment)["runtimeClassName"] == "nvidia"
    assert variables(deployment)["QUANTMILL_DEVICE"] == "cuda"


def test_a_pools_own_device_wins(render: Render) -> None:
    deployment = pool(render, {"gpu": {"enabled": True}, "config": {"device": "cuda:1"}})

    assert variables(deployment)["QUANTMILL_DEVICE"] == "cuda:1"


def test_a_pool_without_gpus_asks_for_nothing_of_them(render: Render) -> None:
    deployment = pool(render, {"gpu": {"minMemoryMiB": 9, "runtimeClassName": "nvidia"}})

    assert not {"affinity", "tolerations", "runtimeClassName"} & spec(deployment).keys()


@pytest.mark.parametrize("kubernetes", ["1.33", "1.37"])
def test_devices_may_be_claimed_instead(render: Render, kubernetes: str) -> None:
    claims = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    values = {
        "gpu": {"enabled": True, "count": 0},
        "resourceClaims": claims,
        "resources": {"claims": [{"name": "gpu"}]},
    }

    deployment = pool(render, values)

    validate(deployment, kubernetes)
    assert spec(deployment)["resourceClaims"] == claims
    assert spec(deployment)["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]


# KEDA

TOKEN = {"api": {"autoscalingToken": {"existingSecret": "team", "key": "t"}}}


def scaled(render: Render, made: str = "ScaledObject", **values: Any) -> Document:
    keda = {"enabled": True, **values.pop("keda", {})}
    documents = render({**TOKEN, "workers": {"pools": {"gpu": {"queue": "q.1", "keda": keda, **values}}}})
    return dict(one(documents, made, "r-quantmill-worker-gpu")["spec"])


def test_workers_are_as_many_as_their_queues_load_needs(render: Render) -> None:
    assert scaled(render, slots=3, threads=1)["triggers"] == [
        {
            "type": "metrics-api",
            "metricType": "AverageValue",
            "metadata": {
                "url": "http://r-quantmill-api.ns.svc.cluster.local:8642/internal/autoscaling/q.1",
                "valueLocation": "jobs",
                "targetValue": "3",
                "authMode": "bearer",
            },
            "authenticationRef": {"name": "r-quantmill-autoscaling"},
        }
    ]


def test_keda_and_the_api_have_the_same_token(render: Render) -> None:
    documents = render({**TOKEN, "workers": {"pools": {"gpu": {"queue": "q", "keda": {"enabled": True}}}}})

    authentication = one(documents, "TriggerAuthentication", "r-quantmill-autoscaling")
    api = spec(one(documents, "Deployment", "r-quantmill-api"))["containers"][0]
    assert authentication["spec"] == {"secretTargetRef": [{"parameter": "token", "name": "team", "key": "t"}]}
    assert environment(api)["QUANTMILL_AUTOSCALING_TOKEN"] == {"secretKeyRef": {"name": "team", "key": "t"}}


def test_prometheus_may_be_asked_instead(render: Render) -> None:
    values = {"queue": "q", "keda": {"enabled": True, "trigger": "prometheus", "prometheusAddress": "http://p:9090"}}
    documents = render({"workers": {"pools": {"gpu": values}}})

    [trigger] = one(documents, "ScaledObject", "r-quantmill-worker-gpu")["spec"]["triggers"]
    assert (trigger["metadata"]["serverAddress"], trigger["metadata"]["threshold"]) == ("http://p:9090", "1")
    assert not of_kind(documents, "TriggerAuthentication")


WAITING = 'quantmill_jobs_waiting{namespace="ns", job="r-quantmill-api", reason="%s"}'
LOAD = 'quantmill_queue_load{namespace="ns", job="r-quantmill-api", queue="%s"}'
ASKED: dict[str, tuple[dict[str, str], int | None]] = {
    "load": ({LOAD % "q": "3"}, 3),
    "no load, whoever waits elsewhere": ({LOAD % "q": "0", WAITING % "no_eligible_worker": "2"}, 0),
    "a queue without its first worker, and jobs for it": ({WAITING % "no_eligible_worker": "2"}, 1),
    "a queue without its first worker, and none": ({WAITING % "no_eligible_worker": "0"}, 0),
    "jobs that wait for others": ({LOAD % "other": "4", WAITING % "waiting_capacity": "4"}, None),
    "another release's queue": ({(LOAD % "q").replace("r-quantmill", "s-quantmill"): "4"}, None),
    "another namespace's queue": ({(LOAD % "q").replace('"ns"', '"other"'): "4"}, None),
}


def test_prometheus_tells_the_load_of_this_releases_queue_and_when_to_try_its_first_worker(
    render: Render, tmp_path: Path
) -> None:
    tool = promtool()
    if tool is None:
        pytest.skip("there is no promtool; tests/servers/promtool.sh fetches Debian's")
    values = {"queue": "q", "keda": {"enabled": True, "trigger": "prometheus", "prometheusAddress": "http://p:9090"}}
    documents = render({"workers": {"pools": {"gpu": values}}})
    query = at(one(documents, "ScaledObject", "r-quantmill-worker-gpu"), "spec.triggers.0.metadata.query")
    tests = [
        {
            "input_series": [{"series": name, "values": value} for name, value in told.items()],
            "promql_expr_test": [
                {
                    "expr": query,
                    "eval_time": "0m",
                    "exp_samples": [] if wanted is None else [{"labels": "{}", "value": wanted}],
                }
            ],
        }
        for told, wanted in ASKED.values()
    ]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"tests": tests}))

    asked = subprocess.run(
        [tool, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert asked.returncode == 0, asked.stdout + asked.stderr


def test_a_prometheus_that_labels_otherwise_is_asked_otherwise(render: Render) -> None:
    asked = {"trigger": "prometheus", "prometheusAddress": "http://p:9090", "prometheusQuery": "sum(load{q='g'})"}
    documents = render({"workers": {"pools": {"gpu": {"queue": "q", "keda": {"enabled": True, **asked}}}}})

    scaled_object = one(documents, "ScaledObject", "r-quantmill-worker-gpu")
    assert at(scaled_object, "spec.triggers.0.metadata.query") == "sum(load{q='g'})"


def test_pods_go_slowly_and_come_at_once(render: Render) -> None:
    made = scaled(render, keda={"cooldownPeriod": 7200, "scaleDownPodsPerMinute": 2, "maxReplicas": 9})

    assert (made["minReplicaCount"], made["maxReplicaCount"], made["cooldownPeriod"]) == (0, 9, 7200)
    assert made["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == {
        "scaleDown": {
            "stabilizationWindowSeconds": 3600,
            "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}],
        }
    }


def test_a_scaled_jobs_pod_ends_with_its_job_and_is_left_alone_until_then(render: Render) -> None:
    made = scaled(render, "ScaledJob", kind="ScaledJob", idleSeconds=90)
    pod = made["jobTargetRef"]["template"]["spec"]

    assert pod["containers"][0]["args"] == ["worker", "--jobs", "1", "--idle-seconds", "90"]
    assert (pod["restartPolicy"], made["jobTargetRef"]["backoffLimit"]) == ("Never", 0)
    assert made["rollout"] == {"strategy": "gradual"}
    assert made["scalingStrategy"] == {"strategy": "default"}  # the load counts running jobs


def test_a_scaled_jobs_pod_template_is_one_that_kubernetes_takes(render: Render) -> None:
    target = scaled(render, "ScaledJob", kind="ScaledJob")["jobTargetRef"]

    for kubernetes in ("1.27", "1.37"):
        validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": target}, kubernetes)


def test_a_pool_is_either_a_deployment_or_a_scaled_job(render: Render) -> None:
    pools = {"cpu": {}, "long": {"queue": "long", "kind": "ScaledJob", "keda": {"enabled": True}}}
    documents = render({**TOKEN, "workers": {"pools": pools}})

    workers = [item for item in of_kind(documents, "Deployment", "ScaledJob") if "-worker-" in item["metadata"]["name"]]
    assert sorted((item["kind"], item["metadata"]["name"]) for item in workers) == [
        ("Deployment", "r-quantmill-worker-cpu"),
        ("ScaledJob", "r-quantmill-worker-long"),
    ]
