"""What the chart refuses before anything is installed, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

from helm.model.removed import REMOVED

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
    "an open affinity": ({"api": {"affinity": {"nodeAfinity": {}}}}, "nodeAfinity"),
    "a kind of volume that is not restricted": ({"extraVolumes": {"v": {"hostPath": {"path": "/"}}}}, "hostPath"),
    "a volume of two kinds": (
        {"extraVolumes": {"v": {"emptyDir": {}, "secret": {"secretName": "s"}}}},
        "/extraVolumes/v",
    ),
    "a number as a variable": ({"extraEnv": {"A": 1}}, "/extraEnv/A"),
    "a privilege of an extra container": (
        {"extraContainers": {"c": {"securityContext": {"privileged": True}}}},
        "securityContext",
    ),
    "a label that is none": ({"api": {"podLabels": {"a b": "c"}}}, "a b"),
    "an unknown kind of pool": ({"workers": {"pools": {"cpu": {"kind": "StatefulSet"}}}}, "/workers/pools/cpu"),
    "a quantity without sense": ({"artifacts": {"pvc": {"size": "100 GB"}}}, "/artifacts/pvc/size"),
}  # fmt: skip


def pool(**values: Any) -> dict[str, Any]:
    return {"workers": {"pools": {"cpu": values}}}


def keda(**values: Any) -> dict[str, Any]:
    return {"queue": "q", "keda": {"enabled": True, **values}}


TOKEN = {"api": {"autoscalingToken": {"existingSecret": "t"}}}

CONTRADICTIONS = {
    "two homes of one URL": (
        {"database": {"external": {"existingSecret": "s", "url": "postgresql://h/d"}}},
        "database.external.url and database.external.existingSecret are both set",
    ),
    "slots that would share one CPU limit": (pool(slots=2), "workers.pools.cpu: with slots 2, threads must be set"),
    "threads from a limit that is not there": (
        {"workers": {"defaults": {"resources": {"limits": {"cpu": None}}}}},
        "workers.pools.cpu: threads is 0",
    ),
    "annotations of no Job": (
        {"migrations": {"mode": "none", "annotations": {"a": "b"}}},
        "migrations.annotations are of a Job, and migrations.mode none makes none",
    ),
    "a lease shorter than two beats": (
        {"config": {"lease_seconds": 15}},
        "config.lease_seconds (15) must be twice config.heartbeat_seconds (10) at least",
    ),
    "beats slower than the probes": (
        {"config": {"heartbeat_seconds": 100, "lease_seconds": 300}},
        "config.heartbeat_seconds is 100",
    ),
    "rounds slower than the probes": ({"config": {"scheduler_seconds": 90}}, "config.scheduler_seconds is over 60"),
    "an API that is killed while it drains": (
        {"api": {"preStopSeconds": 30, "terminationGracePeriodSeconds": 35}},
        "api.terminationGracePeriodSeconds (35) must be more than api.preStopSeconds (30)",
    ),
    "a worker that is killed while it hands back": (
        pool(terminationGracePeriodSeconds=30),
        "workers.pools.cpu: terminationGracePeriodSeconds (30) is less than the 30 seconds",
    ),
    "two bundles": ({"trustedCA": {"configMap": "a", "secret": "b"}}, "trustedCA.configMap and trustedCA.secret"),
    "a mirror without a network": (
        {"offline": {"enabled": True, "hubEndpoint": "https://hub"}},
        "offline.enabled forbids the network that offline.hubEndpoint needs",
    ),
    "a volume that is there": ({"extraVolumes": {"tmp": {"emptyDir": {}}}}, "extraVolumes.tmp: pods have a volume"),
    "a path that is taken": (
        {"extraVolumes": {"v": {"emptyDir": {}}}, "extraVolumeMounts": {"/tmp": {"name": "v"}}},
        "api.extraVolumeMounts: something else is mounted at /tmp",
    ),
    "a source where something is": (
        {"sources": {"hub": {"claim": "c", "mountPath": "/cache"}}},
        "sources.hub.mountPath: something else is mounted at /cache",
    ),
    "two sources at one path": (
        {"sources": {"a": {"claim": "c", "mountPath": "/m"}, "b": {"claim": "c", "mountPath": "/m"}}},
        "sources.b.mountPath: something else is mounted at /m",
    ),
    "a mount of nothing": (
        pool(extraVolumeMounts={"/v": {"name": "v"}}),
        "workers.pools.cpu: at /v the volume v is mounted, which extraVolumes does not have",
    ),
    "an extra container's mount of nothing": (
        {"scheduler": {"extraContainers": {"logs": {"volumeMounts": {"/v": {"name": "v"}}}}}},
        "scheduler: at /v the volume v is mounted, which extraVolumes does not have",
    ),
    "a container with a name of ours": ({"extraContainers": {"worker": {}}}, "a container of ours is called worker"),
    "two containers of one name": (
        {"extraContainers": {"logs": {}}, "api": {"extraInitContainers": {"logs": {}}}},
        "api: extraInitContainers and extraContainers both have logs",
    ),
    "a setting among the variables": (
        {"extraEnv": {"QUANTMILL_LEASE_SECONDS": "9"}},
        "settings are not set by extraEnv; use config.lease_seconds",
    ),
    "a claim without a name": (
        pool(scratch={"type": "existingClaim"}),
        "workers.pools.cpu.scratch: type existingClaim needs the claim's name",
    ),
    "a claim that is not used": (
        pool(modelCache={"existingClaim": "c"}),
        "workers.pools.cpu.modelCache: existingClaim is set, but type is emptyDir",
    ),
    "a GPU pool without GPUs": (
        pool(gpu={"enabled": True, "count": 0}),
        "workers.pools.cpu.gpu: enabled with count 0 and no resourceClaims gives no GPU",
    ),
    "slices without a profile": (
        pool(gpu={"enabled": True, "mig": {"strategy": "mixed"}}),
        "workers.pools.cpu.gpu.mig: strategy mixed needs a profile",
    ),
    "a profile of whole GPUs": (
        pool(gpu={"enabled": True, "mig": {"profile": "1g.10gb"}}),
        "workers.pools.cpu.gpu.mig: profile counts with strategy mixed alone",
    ),
    "GPUs for a processor's work": (
        pool(gpu={"enabled": True}, config={"device": "cpu"}),
        "workers.pools.cpu: gpu.enabled, but config.device is cpu",
    ),
    "a ScaledJob that nobody starts": (pool(kind="ScaledJob"), "kind ScaledJob is started by KEDA"),
    "a ScaledJob of two jobs": (
        {**TOKEN, **pool(kind="ScaledJob", slots=2, threads=1, **keda())},
        "a pod of kind ScaledJob runs one job; slots must be 1",
    ),
    "a load without a queue": ({**TOKEN, **pool(keda={"enabled": True})}, "keda.enabled needs queue"),
    "a least that is more than the most": (
        {**TOKEN, **pool(**keda(minReplicas=5))},
        "workers.pools.cpu.keda: minReplicas (5) is more than maxReplicas (4)",
    ),
    "KEDA without the token": (pool(**keda()), "trigger api needs api.autoscalingToken.existingSecret"),
    "KEDA without Prometheus": (pool(**keda(trigger="prometheus")), "trigger prometheus needs prometheusAddress"),
    "one queue, two images": (
        {"workers": {"pools": {"cpu": {"queue": "q"}, "gpu": {"queue": "q", "image": {"tag": "9"}}}}},
        'workers.pools.cpu and workers.pools.gpu serve queue "q" with different images',
    ),
    "one queue, two scalers": (
        {**TOKEN, "workers": {"pools": {"cpu": keda(), "gpu": keda()}}},
        'serve queue "q", and KEDA would start workers in both for the same jobs',
    ),
}


def at(path: str) -> dict[str, Any]:
    """Values with something at `path`."""
    first, _, rest = path.replace("*", "cpu").partition(".")
    return {first: at(rest) if rest else "1Gi"}


@pytest.mark.parametrize(("path", "instead"), REMOVED.items(), ids=REMOVED.keys())
def test_a_value_that_was_renamed_says_its_new_name(chart: helm.Chart, path: str, instead: str) -> None:
    with pytest.raises(helm.HelmRenderError) as refusal:
        chart.render(at(path))

    assert f"{path.replace('*', 'cpu')} is no longer a value: use {instead}; see UPGRADING.md" in str(refusal.value)


def test_upgrading_tells_of_every_value_that_was_renamed(chart_path: Path) -> None:
    told = (chart_path / "UPGRADING.md").read_text()

    assert [path for path in REMOVED if f"`{path}`" not in told] == []


def test_every_refusal_of_the_pods_templates_is_shown_here(chart_path: Path) -> None:
    refusals = (chart_path / "templates" / "_validate.tpl").read_text().count("{{- fail ")

    assert refusals == len(CONTRADICTIONS) - 2  # of mounts of nothing and of sources' paths there are two each


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
