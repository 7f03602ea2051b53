"""The bundle: chart, list of images, wheels, docs, and a manifest with the digest of every file.

FOLDER/
  SHA256SUMS             of every other file; `sha256sum --check SHA256SUMS` and `verify` read it
  README.md              what to do on the other side
  quantmill-VERSION.tgz  the chart
  images.txt             what mirror-images.sh copies
  mirror-images.sh
  images/                archives of these images, where asked for
  wheels/                every Python package at the pinned version
  docs/                  the documentation
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from helm.images import LIST
from helm.package import package

ROOT = Path(__file__).parents[2]
MANIFEST = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (?!/)([^\n]+)")
DOCS = ("README.md", "CHANGELOG.md", "LICENSE", "docs/*.md", "helm/quantmill/*.md")


class BundleError(Exception):
    """What is wrong with a bundle, and with which file."""


def make(folder: Path, wheels: Path | None = None, *, extras: str = "", images: bool = False) -> None:
    """Write a bundle into the new folder `folder`.

    `wheels`: packages that are there already; without it they are built and downloaded for this machine's Python, the
    service's with `extras` such as "worker,postgres,redis". `images`: pull the images into the bundle (needs skopeo).
    """
    if folder.exists():
        raise BundleError(f"{folder} is there already; a bundle is made in a new folder")
    if images and shutil.which("skopeo") is None:
        raise BundleError("images are fetched by skopeo, which is not installed; install it or leave --images out")
    folder.mkdir(parents=True)
    package(folder)
    shutil.copy(LIST, folder / "images.txt")
    shutil.copy(Path(__file__).parent / "mirror-images.sh", folder)
    shutil.copy(Path(__file__).parent / "README.md", folder)
    for source in sorted(path for pattern in DOCS for path in ROOT.glob(pattern)):
        target = folder / "docs" / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if wheels is not None:
        shutil.copytree(wheels, folder / "wheels", copy_function=shutil.copyfile)
    else:
        _download(folder / "wheels", extras)
    if images:
        _archive(folder / "images")
    seal(folder)


def seal(folder: Path) -> None:
    """Write the manifest of what lies in `folder` now."""
    lines = (f"{digest(folder / name)}  {name}\n" for name in sorted(_files(folder)))
    (folder / MANIFEST).write_text("".join(lines))


def verify(folder: Path) -> int:
    """The number of files, if they are all there, no other is, and none has changed.

    Raises BundleError, which names the first file that is not as the manifest says.
    """
    listed = _listed(folder / MANIFEST)
    there = set(_files(folder))
    for name in sorted(there | listed.keys()):
        if name not in there:
            raise BundleError(f"{name} is missing")
        if name not in listed:
            raise BundleError(f"{name} is not in {MANIFEST}")
        if digest(folder / name) != listed[name]:
            raise BundleError(f"{name} has changed")
    return len(listed)


def digest(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(manifest: Path) -> dict[str, str]:
    if not manifest.is_file():
        raise BundleError(f"{MANIFEST} is missing: {manifest.parent} is no bundle")
    listed = {}
    for line in manifest.read_text().splitlines():
        found = LINE.fullmatch(line)
        if found is None or ".." in Path(found[2]).parts:
            raise BundleError(f"{MANIFEST} has a line that names no file below the bundle: {line[:100]!r}")
        listed[found[2]] = found[1]
    return listed


def _files(folder: Path) -> Iterator[str]:
    """Files below `folder`, by path; a link or a device would not be copied as what it is."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"{name} is neither a file nor a folder")
        if path.is_file() and name != MANIFEST:
            yield name


def _download(wheels: Path, extras: str) -> None:
    """Build the service's wheel, and fetch everything that it needs as constraints.txt pins it."""
    service = f"{ROOT}[{extras}]" if extras else str(ROOT)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    subprocess.run([*command, "--constraint", str(ROOT / "constraints.txt"), service], check=True)


def _archive(images: Path) -> None:
    """Each image of the list as an archive that `skopeo copy oci-archive:... docker://...` takes to a registry."""
    images.mkdir()
    for image in LIST.read_text().split():
        archive = images / (re.sub(r"[^A-Za-z0-9.-]+", "_", image) + ".tar")
        subprocess.run(["skopeo", "copy", "--all", f"docker://{image}", f"oci-archive:{archive}:{image}"], check=True)
