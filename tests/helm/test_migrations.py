"""Who brings the database to the release's schema, and who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.helm.manifests import environment, of_kind, one, template

Document = dict[str, Any]
Render = Callable[..., list[Document]]

PODS = ("api", "scheduler", "worker-cpu")


def job(documents: list[Document]) -> Document:
    [found] = of_kind(documents, "Job")
    return found


def init_containers(documents: list[Document], component: str) -> list[str]:
    pod = template(one(documents, "Deployment", f"r-quantmill-{component}"))
    return [" ".join(each["command"] + each.get("args", [])) for each in pod["spec"].get("initContainers", [])]


def migrations(**values: Any) -> dict[str, Any]:
    return {"migrations": values}


# What each mode does


@pytest.mark.parametrize(
    ("values", "jobs", "api", "others"),
    [
        ({}, 1, ["quantmill migrate --wait 600"], ["quantmill migrate --wait 600"]),
        ({"waitTimeoutSeconds": 5}, 1, ["quantmill migrate --wait 5"], ["quantmill migrate --wait 5"]),
        ({"waitInit": False}, 1, [], []),
        ({"mode": "hook"}, 1, ["quantmill migrate --wait 600"], ["quantmill migrate --wait 600"]),
        ({"mode": "initContainer"}, 0, ["quantmill migrate"], ["quantmill migrate --wait 600"]),
        ({"mode": "initContainer", "waitInit": False}, 0, ["quantmill migrate"], []),
        ({"mode": "none"}, 0, ["quantmill migrate --wait 600"], ["quantmill migrate --wait 600"]),
    ],
    ids=str,
)
def test_a_mode_says_who_migrates_and_who_waits(
    render: Render, values: dict[str, Any], jobs: int, api: list[str], others: list[str]
) -> None:
    documents = render(migrations(**values))

    assert len(of_kind(documents, "Job")) == jobs
    assert init_containers(documents, "api") == api
    assert [init_containers(documents, component) for component in ("scheduler", "worker-cpu")] == [others, others]


def test_who_waits_knows_the_database_and_nothing_else(render: Render) -> None:
    pod = template(one(render(), "Deployment", "r-quantmill-worker-cpu"))
    [waiting] = pod["spec"]["initContainers"]
    settings = {name for name in environment(waiting) if name.startswith("QUANTMILL_")}

    assert settings == {"QUANTMILL_DATABASE_URL", "QUANTMILL_DATA_DIR"}
    assert "envFrom" not in waiting


# The plain Job

OTHERS = {
    "image": {"image": {"tag": "0.1.1"}},
    "database": {"database": {"external": {"existingSecret": "other"}}},
    "URL": {"database": {"external": {"url": "postgresql://other/d"}}},
    "resources": migrations(resources={"limits": {"memory": "1Gi"}}),
    "limit": migrations(backoffLimit=9),
}  # fmt: skip
SAME = {
    "replicas": {"api": {"replicas": 7}},
    "setting": {"config": {"max_attempts": 9}},
    "pool": {"workers": {"pools": {"gpu": {}}}},
    "annotations": migrations(annotations={"argocd.argoproj.io/sync-wave": "-1"}),
}


@pytest.mark.parametrize("values", OTHERS.values(), ids=OTHERS.keys())
def test_a_job_that_does_something_else_has_another_name(render: Render, values: dict[str, Any]) -> None:
    assert job(render(values))["metadata"]["name"] != job(render())["metadata"]["name"]


@pytest.mark.parametrize("values", SAME.values(), ids=SAME.keys())
def test_what_does_not_concern_it_leaves_the_job_as_it_is(render: Render, values: dict[str, Any]) -> None:
    before, after = job(render()), job(render(values))

    assert after["metadata"]["name"] == before["metadata"]["name"]
    assert after["spec"] == before["spec"]


def test_the_job_is_a_part_of_the_release_without_hooks(render: Render) -> None:
    assert "annotations" not in job(render())["metadata"]


def test_a_job_keeps_no_container_beside_the_one_that_ends(render: Render) -> None:
    documents = render({"extraContainers": {"logs": {}}, "extraInitContainers": {"fetch": {}}})
    spec = template(job(documents))["spec"]

    assert [container["name"] for container in spec["containers"]] == ["migrate"]
    assert [container["name"] for container in spec["initContainers"]] == ["fetch"]


def test_a_migration_may_run_another_image(render: Render) -> None:
    documents = render(migrations(image={"repository": "quantmill/tools", "tag": "7"}))
    [container] = template(job(documents))["spec"]["containers"]

    assert container["image"] == "docker.io/quantmill/tools:7"


# The hook


def test_a_hook_runs_before_installs_and_upgrades(render: Render) -> None:
    found = job(render(migrations(mode="hook", annotations={"team": "a"})))["metadata"]

    assert found["name"] == "r-quantmill-migrate"
    assert found["annotations"] == {
        "helm.sh/hook": "pre-install,pre-upgrade",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
        "helm.sh/hook-weight": "0",
        "team": "a",
    }


def test_a_hook_needs_nothing_that_its_own_release_makes(render: Render) -> None:
    documents = render({"database": {"external": {"url": "postgresql://h/d"}}, **migrations(mode="hook")})
    migrate = template(job(documents))["spec"]

    assert migrate["serviceAccountName"] == "default"
    assert "envFrom" not in migrate["containers"][0]
    assert all("emptyDir" in volume for volume in migrate["volumes"])
    url = environment(migrate["containers"][0])["QUANTMILL_DATABASE_URL"]
    secret = one(documents, "Secret", url["secretKeyRef"]["name"])["metadata"]["annotations"]
    assert secret["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(secret["helm.sh/hook-weight"]) < 0


def test_a_hook_uses_an_account_that_was_there_before(render: Render) -> None:
    documents = render({"serviceAccount": {"create": False, "name": "mill"}, **migrations(mode="hook")})

    assert template(job(documents))["spec"]["serviceAccountName"] == "mill"
