"""The Containerfiles and the lists of what goes into images, without building any."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
CONTAINERFILES = sorted(IMAGES.glob("*.Containerfile"))
LOCKS = sorted((IMAGES / "locks").glob("*.txt"))
LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ]+) --hash=sha256:[0-9a-f]{64}")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    """Versions by package of a lock, every line of which has a version and a hash."""
    lines = [line for line in (IMAGES / "locks" / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    return {normal(match["name"]): match["version"] for match in found if match}


def constraints() -> dict[str, str]:
    pairs = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    return {normal(name): version for name, version in pairs}


def asked(*extras: str) -> set[str]:
    """The packages that pyproject.toml names for an installation with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [each for extra in extras for each in project["optional-dependencies"][extra]]
    return {normal(re.match(r"[A-Za-z0-9._-]+", each)[0]) for each in wanted}


def last_stage(file: Path) -> list[str]:
    """The instructions of the image itself, continued lines joined."""
    text = file.read_text().replace("\\\n", " ")
    return re.split(r"^FROM .*$", text, flags=re.MULTILINE)[-1].splitlines()


def instruction(file: Path, word: str) -> str:
    (found,) = [line.partition(" ")[2].strip() for line in last_stage(file) if line.startswith(f"{word} ")]
    return found


def test_hadolint_finds_nothing():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--format", "json", *CONTAINERFILES],
        capture_output=True,
        check=False,
    )

    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.stem)
def test_an_image_needs_no_shell_no_root_and_gets_its_signals_itself(file):
    assert instruction(file, "USER") == "10001:0"
    assert json.loads(instruction(file, "ENTRYPOINT")) == ["quantmill"]
    assert len(json.loads(instruction(file, "CMD"))) == 1
    assert instruction(file, "STOPSIGNAL") == "SIGTERM"
    assert not [line for line in last_stage(file) if line.startswith(("RUN", "HEALTHCHECK"))]


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.stem)
def test_nothing_is_fetched_while_an_image_is_built(file):
    text = file.read_text()

    assert "--no-index" in text
    assert "--require-hashes" in text
    assert not re.search(r"apt-get|apk |curl|wget|https?://", text)


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.stem)
def test_a_base_is_named_once_and_can_be_another(file):
    bases = re.findall(r"^(?:FROM|ARG BASE).*$", file.read_text(), flags=re.MULTILINE)

    assert bases == [
        "ARG BASE=docker.io/library/python:3.11-slim-bookworm",
        "FROM ${BASE} AS build",
        "FROM ${BASE}",
        "ARG BASE",
    ]


def test_both_images_are_built_alike():
    """So that what the first one built serves the second."""
    stages = [
        re.search(r"^FROM .* AS build$(.*?)^FROM", file.read_text(), re.MULTILINE | re.DOTALL)
        for file in CONTAINERFILES
    ]

    assert len({stage[1] for stage in stages}) == 1


def test_folders_that_are_written_to_are_named_by_variables():
    """What a runner inherits of them, it finds in the worker's image."""
    from quantmill.worker.child import INHERITED

    text = (IMAGES / "worker.Containerfile").read_text()
    named = dict(re.findall(r"([A-Z_]+)=(/\S*)", text))
    caches = {
        name for name in INHERITED if name.endswith(("CACHE_HOME", "CACHE_DIR", "CACHE_PATH", "CONFIGDIR", "HF_HOME"))
    }

    assert caches <= set(named)
    assert all(named[name].startswith("/cache") for name in caches)


@pytest.mark.parametrize(
    ("name", "extras"),
    [("service", ("postgres", "redis")), ("worker", ("worker", "onnx", "postgres", "redis"))],
)
def test_a_lock_has_all_that_its_image_needs_in_the_versions_of_the_constraints(name, extras):
    versions, known = locked(name), constraints()

    assert asked(*extras) - {"psycopg", "celery"} <= set(versions), "run images/lock.py"
    assert {"psycopg-binary", "celery"} <= set(versions)
    assert {each: known[each] for each in versions if each in known} == {
        each: version.partition("+")[0] for each, version in versions.items() if each in known
    }
    assert set(versions) - set(known) <= {"async-timeout", "setuptools"}, "run images/lock.py"


def test_the_service_has_no_torch():
    assert not {"torch", "transformers", "onnxruntime"} & set(locked("service"))


def test_the_tools_of_the_build_are_locked():
    assert {"pip", "cyclonedx-bom"} <= set(locked("tools"))
