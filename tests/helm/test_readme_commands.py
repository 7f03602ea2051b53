"""The commands by which the chart's README installs quantmill, run as they stand there, on a cluster in memory."""

from __future__ import annotations

import base64
import re
import shlex

import pytest
import yaml
from tests.helm.releases import CHART, SECONDS, Installation, Values, installation

ROOT = CHART.parents[1]


def blocks() -> list[list[list[str]]]:
    """The README's indented blocks: the words of each of their commands."""
    text = (CHART / "README.md").read_text().replace("\\\n", "")
    found = re.findall(r"(?:^ {4}\S.*\n)+", text, re.MULTILINE)
    return [[shlex.split(line) for line in block.splitlines()] for block in found]


INSTALLING = [block for block in blocks() if any(command[:2] == ["helm", "install"] for command in block)]


def values_of(options: list[str]) -> Values:
    """What `--set a.b=c` gives."""
    values: Values = {}
    for option, setting in zip(options[::2], options[1::2], strict=True):
        assert option == "--set"
        path, value = setting.split("=", 1)
        *sections, key = path.split(".")
        here = values
        for section in sections:
            here = here.setdefault(section, {})
        here[key] = yaml.safe_load(value)
    return values


def run(release: Installation, command: list[str]) -> None:
    match command:
        case ["kubectl", "create", "secret", "generic", name, *literals]:
            pairs = [literal.removeprefix("--from-literal=").split("=", 1) for literal in literals]
            data = {key: base64.b64encode(value.encode()).decode() for key, value in pairs}
            secret = {"metadata": {"name": name}, "type": "Opaque", "data": data}
            release.cluster.create(release.cluster.kind("Secret"), "ns", secret, "kubectl")
        case ["helm", "install", name, chart, *options]:
            release.config.install(ROOT / chart, name, values_of(options), wait="watcher", timeout=SECONDS)
        case _:
            raise AssertionError(f"the test does not know {shlex.join(command)}")


@pytest.mark.parametrize("block", INSTALLING, ids=lambda block: shlex.join(block[-1][2:])[:60])
def test_what_the_readme_says_installs_a_release_that_comes_up(block: list[list[str]]) -> None:
    with installation() as release:
        for command in block:
            run(release, command)

        ready = {
            name: (item["status"]["readyReplicas"], item["spec"]["replicas"])
            for (kind, name), item in release.objects().items()
            if kind == "Deployment"
        }

    assert {"quantmill-api", "quantmill-scheduler", "quantmill-worker-cpu"} <= ready.keys()
    assert all(up == wanted for up, wanted in ready.values()), ready


def test_there_are_such_commands() -> None:
    assert [command[0] for block in INSTALLING for command in block].count("helm") == 2
