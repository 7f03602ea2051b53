"""Images reach a mirror under the names that the chart asks for, and a bundle arrives as it was made or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helm.airgap.bundle import BundleError, make, seal, verify
from helm.images import EVERYTHING, LIST, images

MIRROR = Path(__file__).parents[2] / "helm" / "airgap" / "mirror-images.sh"


def mirror(*arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else None
    return subprocess.run(
        [MIRROR, *arguments], capture_output=True, text=True, check=False, timeout=120, env=environment
    )


# The mirror


def test_every_image_is_mirrored_to_where_the_chart_looks_for_it() -> None:
    asked = images({**EVERYTHING, "global": {"imageRegistry": "registry.example:5000/hub/mirror"}})

    done = mirror("--dry-run", LIST, "registry.example:5000/hub/mirror")

    targets = {line.split()[-1].removeprefix("docker://") for line in done.stdout.splitlines()}
    assert targets == asked


@pytest.mark.parametrize(("given", "verified"), [([], "true"), (["--plain-http"], "false")])
def test_all_platforms_are_copied_by_skopeo_from_verified_registries(
    tmp_path: Path, given: list[str], verified: str
) -> None:
    skopeo = tmp_path / "skopeo"
    skopeo.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    skopeo.chmod(0o755)
    (tmp_path / "images.txt").write_text("# a remark\n\ndocker.io/library/redis:7.2.5\nquay.io/a/b@sha256:12\n")

    done = mirror(*given, tmp_path / "images.txt", "r.example/ns/", path=tmp_path)

    assert done.returncode == 0
    options = f"copy --all --dest-tls-verify={verified}"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{options} docker://docker.io/library/redis:7.2.5 docker://r.example/ns/library/redis:7.2.5",
        f"{options} docker://quay.io/a/b@sha256:12 docker://r.example/ns/a/b@sha256:12",
    ]


def test_the_first_copy_that_fails_ends_the_script(tmp_path: Path) -> None:
    skopeo = tmp_path / "skopeo"
    skopeo.write_text(f"#!/bin/sh\necho x >>{tmp_path}/calls\nexit 1\n")
    skopeo.chmod(0o755)
    (tmp_path / "images.txt").write_text("a.example/b:1\na.example/c:1\n")

    done = mirror(tmp_path / "images.txt", "r.example", path=tmp_path)

    assert (done.returncode, (tmp_path / "calls").read_text()) == (1, "x\n")


@pytest.mark.parametrize("arguments", [[], ["images.txt"], ["--force", "images.txt", "r"], ["a", "b", "c"]])
def test_wrong_use_of_the_script_is_explained(arguments: list[str]) -> None:
    done = mirror(*arguments)

    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_an_image_without_a_registry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("redis:7\n")

    done = mirror("--dry-run", tmp_path / "images.txt", "r.example")

    assert (done.returncode, done.stderr) == (1, "redis:7 names no registry\n")


# The bundle


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse of one package, `tiny` 1.0."""
    folder = tmp_path_factory.mktemp("wheels")
    files = {
        "tiny.py": "ANSWER = 42\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "tiny-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in (files | {"tiny-1.0.dist-info/RECORD": record}).items():
            wheel.writestr(name, text)
    return folder


@pytest.fixture(scope="module")
def made(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("airgap") / "bundle"
    make(folder, wheels)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def test_a_bundle_holds_chart_images_script_wheels_and_docs(made: Path) -> None:
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}

    expected = {
        "README.md", "SHA256SUMS", "images.txt", "mirror-images.sh", "wheels/tiny-1.0-py3-none-any.whl",
        "docs/README.md", "docs/docs/airgap.md", "docs/helm/quantmill/README.md",
    }  # fmt: skip
    assert expected <= names
    [chart] = made.glob("quantmill-*.tgz")
    with tarfile.open(chart) as tar:
        assert "quantmill/Chart.yaml" in tar.getnames()
    assert (made / "mirror-images.sh").stat().st_mode & stat.S_IXUSR


def test_two_bundles_of_the_same_files_are_equal(made: Path, wheels: Path, tmp_path: Path) -> None:
    make(tmp_path / "again", wheels)

    assert (tmp_path / "again" / "SHA256SUMS").read_text() == (made / "SHA256SUMS").read_text()


def test_a_package_is_installed_from_a_bundle_without_a_network(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*command, "--find-links", made / "wheels", "--target", tmp_path, "tiny"], check=True, timeout=120)

    assert (tmp_path / "tiny.py").read_text() == "ANSWER = 42\n"


def test_a_bundle_that_arrived_whole_is_verified(made: Path) -> None:
    assert verify(made) == len((made / "SHA256SUMS").read_text().splitlines())


def test_the_manifest_is_what_sha256sum_reads(made: Path) -> None:
    digest = hashlib.sha256((made / "images.txt").read_bytes()).hexdigest()

    assert f"{digest}  images.txt" in (made / "SHA256SUMS").read_text().splitlines()


def append(bundle: Path) -> None:
    with (bundle / "images.txt").open("a") as file:
        file.write("evil.example/x:1\n")


def link(bundle: Path) -> None:
    (bundle / "docs" / "key").symlink_to("/etc/passwd")


def lead_outside(bundle: Path) -> None:
    (bundle / "SHA256SUMS").write_text(f"{'0' * 64}  ../elsewhere\n")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (append, r"images\.txt has changed"),
        (lambda bundle: (bundle / "images.txt").unlink(), r"images\.txt is missing"),
        (lambda bundle: (bundle / "wheels" / "x.whl").write_text(""), r"wheels/x\.whl is not in SHA256SUMS"),
        (lambda bundle: (bundle / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (link, "docs/key is neither a file nor a folder"),
        (lead_outside, "names no file below the bundle"),
    ],
)
def test_a_bundle_that_was_touched_is_refused(bundle: Path, spoil: object, complaint: str) -> None:
    spoil(bundle)  # type: ignore[operator]

    with pytest.raises(BundleError, match=complaint):
        verify(bundle)


def test_a_bundle_is_not_made_over_another(made: Path, wheels: Path) -> None:
    with pytest.raises(BundleError, match="is there already"):
        make(made, wheels)


def test_what_is_added_on_purpose_can_be_sealed_anew(bundle: Path) -> None:
    (bundle / "values.yaml").write_text("{}\n")

    seal(bundle)

    assert verify(bundle) == len((bundle / "SHA256SUMS").read_text().splitlines())


def test_images_without_skopeo_are_refused_before_anything_is_written(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BundleError, match="skopeo, which is not installed"):
        make(tmp_path / "bundle", wheels, images=True)

    assert not (tmp_path / "bundle").exists()
