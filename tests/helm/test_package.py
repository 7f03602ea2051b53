"""The chart as an archive: what is in it, that it is made the same way twice, and that it can be signed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from helm.images import EVERYTHING, LIST, generated
from helm.package import CHART, package
from servers.registry import RegistryServer

VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
OUTSIDE_A_NAMESPACE = {
    "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace", "PersistentVolume", "PriorityClass",
    "StorageClass",
}  # fmt: skip
SIGNER = "quantmill tests <tests@quantmill.invalid>"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("chart"))


def test_the_same_files_give_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    copied = tmp_path / "quantmill"
    shutil.copytree(CHART, copied, copy_function=shutil.copyfile)  # other times

    assert package(tmp_path / "again", copied).read_bytes() == archive.read_bytes()


def test_an_archive_names_nothing_of_the_machine_that_made_it(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()

    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert members[0].name == "quantmill/Chart.yaml"


def test_a_packed_chart_renders_as_the_folder_does(archive: Path, chart: helm.Chart) -> None:
    with helm.Chart.load(archive) as packed:
        assert packed.render({}, name="r", namespace="ns") == chart.render({}, name="r", namespace="ns")


def test_an_archive_has_no_file_that_only_developers_need(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = {name.removeprefix("quantmill/") for name in tar.getnames()}

    assert {"Chart.yaml", "README.md", "values.yaml", "values.schema.json", "templates/NOTES.txt"} <= names
    assert not [name for name in names if name.startswith("ci/")]


# Provenance


@pytest.fixture(scope="module")
def gnupg() -> Iterator[Path]:
    """A GnuPG folder with one key that signs without a passphrase, and its keyrings `secret.gpg` and `public.gpg`."""
    if shutil.which("gpg") is None:
        pytest.skip("gpg is not installed (Debian: gnupg)")
    # GnuPG's agent wants a socket path of at most 107 characters
    with tempfile.TemporaryDirectory(prefix="qm-gpg-") as name:
        folder = Path(name)

        def gpg(*arguments: str) -> bytes:
            given = ["gpg", "--homedir", name, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
            return subprocess.run([*given, *arguments], check=True, capture_output=True, timeout=120).stdout

        gpg("--quick-gen-key", SIGNER, "rsa2048", "sign", "never")
        (folder / "secret.gpg").write_bytes(gpg("--export-secret-keys"))
        (folder / "public.gpg").write_bytes(gpg("--export"))
        yield folder
        subprocess.run(["gpgconf", "--homedir", name, "--kill", "all"], check=False, capture_output=True, timeout=60)


@pytest.fixture
def signed(archive: Path, gnupg: Path, tmp_path: Path) -> Path:
    copied = Path(shutil.copy(archive, tmp_path))
    helm.sign(copied, key=SIGNER, keyring=gnupg / "secret.gpg")
    return copied


def test_a_signed_archive_is_verified_by_its_public_key(signed: Path, gnupg: Path) -> None:
    verified = helm.verify(signed, gnupg / "public.gpg")

    assert verified["signed_by"] == [SIGNER]


def test_one_changed_byte_breaks_the_signature(signed: Path, gnupg: Path) -> None:
    signed.write_bytes(signed.read_bytes()[:-1] + b"\x01")

    with pytest.raises(helm.HelmChartInvalidError):
        helm.verify(signed, gnupg / "public.gpg")


# Registry


def test_a_chart_comes_back_from_a_registry_as_it_was_pushed(
    archive: Path, registry: RegistryServer, tmp_path: Path
) -> None:
    helm.push(archive, f"oci://{registry.host}/charts", plain_http=True)
    helm.pull(f"oci://{registry.host}/charts/quantmill", version=VERSION, destination=str(tmp_path), plain_http=True)

    assert (tmp_path / archive.name).read_bytes() == archive.read_bytes()
    assert registry.ask("charts/quantmill/tags/list") == {"name": "charts/quantmill", "tags": [VERSION]}


# What chart-verifier and Artifact Hub ask of a chart


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return yaml.safe_load((CHART / "Chart.yaml").read_text())  # type: ignore[no-any-return]


def test_the_chart_says_what_registries_of_charts_show(metadata: dict[str, Any]) -> None:
    assert metadata["apiVersion"] == "v2"
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert metadata["kubeVersion"] == ">=1.27.0-0"
    assert metadata["icon"].startswith("data:image/svg+xml;base64,")
    assert metadata["description"]
    assert metadata["keywords"]
    assert metadata["maintainers"]
    assert {"charts.openshift.io/name", "artifacthub.io/license", "artifacthub.io/images"} <= metadata[
        "annotations"
    ].keys()


def test_the_chart_brings_a_readme_values_and_their_schema() -> None:
    assert all((CHART / name).is_file() for name in ("README.md", "values.yaml", "values.schema.json"))


def test_the_chart_changes_nothing_but_its_namespace() -> None:
    kinds = {item["kind"] for item in rendered(EVERYTHING)}

    assert not (CHART / "crds").exists()
    assert kinds.isdisjoint(OUTSIDE_A_NAMESPACE)


def test_the_chart_needs_no_chart_from_elsewhere(metadata: dict[str, Any]) -> None:
    for dependency in metadata.get("dependencies", []):
        assert dependency["repository"] == f"file://charts/{dependency['name']}"
        assert (CHART / "charts" / dependency["name"] / "Chart.yaml").is_file()


def test_a_new_version_of_the_chart_is_above_all_that_were_released(metadata: dict[str, Any]) -> None:
    released = [path.stem.removeprefix("quantmill-") for path in (Path(__file__).parent / "released").glob("*.tgz")]

    assert released
    assert all(number(version) < number(metadata["version"]) for version in released)


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        texts = [text for path, text in chart.render(values).items() if not path.endswith(".txt")]
    return [item for text in texts for item in yaml.safe_load_all(text) if item]


def number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


# Images


def test_the_list_of_images_and_the_annotation_are_current() -> None:
    stale = [path.name for path, text in generated().items() if path.read_text() != text]

    assert stale == [], "run `python -m helm.images`"


def test_artifact_hub_is_told_the_same_images(metadata: dict[str, Any]) -> None:
    told = yaml.safe_load(metadata["annotations"]["artifacthub.io/images"])

    assert sorted(entry["image"] for entry in told) == LIST.read_text().split()
