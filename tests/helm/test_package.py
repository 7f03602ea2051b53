"""The chart as an archive: what is in it, that it is made the same way twice, and that it can be signed."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import helm_python as helm
import pytest

from helm.package import package

ROOT = Path(__file__).parents[2]
SIGNER = "quantmill tests <tests@quantmill.invalid>"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("chart"))


def test_the_same_files_give_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    copied = tmp_path / "quantmill"
    shutil.copytree(ROOT / "helm" / "quantmill", copied, copy_function=shutil.copyfile)  # other times

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
