"""Helm installs, upgrades, rolls back and uninstalls every profile on a cluster in memory, waiting as `--wait` does.

The lives of all profiles go on side by side: they wait more than they compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from tests.helm.releases import CHART, SECONDS, Objects, Values, installation

from servers.kubernetes import controllers
from servers.kubernetes.cluster import Cluster
from servers.kubernetes.kinds import Object, pod_template

HERE = Path(__file__).parent
RELEASED = max((HERE / "released").glob("*.tgz"))
PROFILES = {
    path.stem.removesuffix("-values"): path
    for path in sorted([*CHART.glob("ci/*-values.yaml"), *(HERE / "values").glob("*.yaml")])
}
SIDE_BY_SIDE = 8
# the chart's own words, and Helm's
LACKING = r"the cluster does not serve .*; install .* first, or set|no matches for kind .* in version"


@dataclass
class Life:
    """What was there after each step."""

    provided: set[tuple[str, str]]  # before the first
    installed: Objects  # and scaled by the autoscalers
    again: Objects  # after an upgrade to the same values
    changed: Objects  # after one to other settings
    rolled_back: Objects
    uninstalled: Objects
    upgraded: Objects  # in another cluster, from the chart that was released before; without what was provided


def live(values: Values) -> Life:
    settings = {**values, "config": {**values.get("config", {}), "lease_seconds": 77}}
    with installation() as release:
        provided = release.provide(CHART, values)
        release.install(CHART, values)
        autoscale(release.cluster)
        installed = release.objects()
        again = release.upgrade(values)
        release.config.test("r", timeout=SECONDS)
        changed = release.upgrade(settings)
        rolled_back = release.rollback(1)
        uninstalled = release.uninstall()
    return Life(provided, installed, again, changed, rolled_back, uninstalled, upgrade_from_released(values))


def upgrade_from_released(values: Values) -> Objects:
    with helm.Chart.load(RELEASED) as chart:
        before = known(values, chart.merge_values({}))
    with installation() as release:
        provided = release.provide(RELEASED, before)
        release.install(RELEASED, before)
        provided |= release.provide(CHART, values)
        return {key: item for key, item in release.upgrade(values).items() if key not in provided}


def known(values: Values, defaults: Values) -> Values:
    """The part of `values` that the chart with `defaults` has names for. A pool has the names of pools' defaults."""
    found = {
        name: known(value, defaults[name]) if isinstance(value, dict) and defaults[name] else value
        for name, value in values.items()
        if name in defaults and name != "pools"
    }
    pools = {name: known(pool, defaults["defaults"]) for name, pool in values.get("pools", {}).items()}
    return {**found, "pools": pools} if pools else found


def autoscale(cluster: Cluster) -> None:
    """What the autoscalers do as soon as there is load: one pod more than they must have."""
    for scaler in cluster.items("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"].get("scaleTargetRef")
        least = scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount", 0))
        cluster.scale(target.get("kind", "Deployment"), target["name"], least + 1)


def intents(objects: Objects) -> dict[tuple[str, str], Any]:
    """What was asked for, without what the cluster counts and reports."""
    return {key: (item.get("spec"), item.get("data"), item["metadata"].get("labels")) for key, item in objects.items()}


def versions(objects: Objects) -> dict[tuple[str, str], str]:
    return {key: item["metadata"]["resourceVersion"] for key, item in objects.items()}


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(SIDE_BY_SIDE) as executor:
        yield executor


@pytest.fixture(scope="module")
def broken(pool: ThreadPoolExecutor) -> Future[tuple[Objects, Objects, str, str]]:
    return pool.submit(upgrade_to_what_is_broken)


@pytest.fixture(scope="module")
def lives(pool: ThreadPoolExecutor, broken: Future[tuple[Objects, Objects, str, str]]) -> dict[str, Future[Life]]:
    """Begun together; `broken` first, which waits longest."""
    return {name: pool.submit(live, yaml.safe_load(path.read_text())) for name, path in PROFILES.items()}


@pytest.fixture(params=PROFILES)
def life(request: pytest.FixtureRequest, lives: dict[str, Future[Life]]) -> Life:
    return lives[request.param].result()


def test_everything_that_was_installed_is_ready(life: Life) -> None:
    for deployment in (item for (kind, _), item in life.installed.items() if kind == "Deployment"):
        assert deployment["status"]["readyReplicas"] == deployment["spec"].get("replicas", 1)


def test_an_upgrade_to_the_same_values_touches_nothing(life: Life) -> None:
    assert versions(life.again) == versions(life.installed)


def test_another_setting_reaches_the_configuration(life: Life) -> None:
    assert life.changed[("ConfigMap", "r-quantmill")]["data"]["QUANTMILL_LEASE_SECONDS"] == "77"


def test_a_rollback_brings_back_what_was_there(life: Life) -> None:
    assert intents(life.rolled_back) == intents(life.installed)


def test_an_uninstall_leaves_what_is_marked_and_what_was_there_before(life: Life) -> None:
    own = {key: item for key, item in life.uninstalled.items() if key not in life.provided}

    assert all(item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for item in own.values())


def test_an_upgrade_from_the_released_chart_ends_where_an_installation_does(life: Life) -> None:
    assert life.upgraded.keys() == life.installed.keys() - life.provided


# When something goes wrong

BROKEN = "0.0.9-broken"


def is_broken(item: Object) -> bool:
    pod = pod_template(item)
    return pod is not None and any(container["image"].endswith(BROKEN) for container in pod["spec"]["containers"])


def upgrade_to_what_is_broken() -> tuple[Objects, Objects, str, str]:
    """What was there before and after, what Helm said, and the state of the release."""
    with installation() as release:
        release.provide(CHART, {})
        before = release.install(CHART, {})
        # pods of a release whose schema is not there wait for it
        release.cluster.behave(
            controllers.Behaviour(
                fails=lambda item: item["kind"] == "Job" and is_broken(item),
                hangs=lambda item: item["kind"] == "Deployment" and is_broken(item),
            )
        )
        with pytest.raises(helm.HelmError) as refused:
            release.upgrade({"image": {"tag": BROKEN}}, rollback_on_failure=True, timeout=30)
        return before, release.objects(), str(refused.value), release.config.status("r")["status"]


def test_a_release_whose_migration_fails_is_rolled_back(broken: Future[tuple[Objects, Objects, str, str]]) -> None:
    before, after, said, status = broken.result()

    assert "rolled back" in said
    assert status == "deployed"
    assert {key: value for key, value in intents(after).items() if key[0] != "Job"} == {
        key: value for key, value in intents(before).items() if key[0] != "Job"
    }


def test_an_installation_without_its_secrets_does_not_come_up_and_says_what_it_waits_for() -> None:
    with installation() as release, pytest.raises(helm.HelmError):
        release.config.install(CHART, "r", {}, wait="watcher", timeout=2)


# What the cluster can do


@pytest.mark.parametrize("profile", ["default", "gateway", "keda", "everything-on"])
def test_a_cluster_without_operators_takes_the_profile_or_is_told_what_it_lacks(profile: str) -> None:
    values = yaml.safe_load(PROFILES[profile].read_text())
    with installation(frozenset()) as release:
        served = {kind.kind for kind in release.cluster.kinds}
        lacking = sorted({item["kind"] for item in release.render(CHART, values)} - served)

        if lacking:
            with pytest.raises(helm.HelmError, match=LACKING):
                release.config.install(CHART, "r", values, dry_run="server")
        else:
            release.config.install(CHART, "r", values, dry_run="server")

        assert release.objects() == {}


def test_on_openshift_the_group_of_files_is_left_to_the_cluster() -> None:
    with installation(frozenset({"openshift"})) as release:
        release.provide(CHART, {})
        objects = release.install(CHART, {})

    contexts = [
        item["spec"]["template"]["spec"]["securityContext"]
        for (kind, _), item in objects.items()
        if kind == "Deployment"
    ]
    assert contexts
    assert all("fsGroup" not in context for context in contexts)
