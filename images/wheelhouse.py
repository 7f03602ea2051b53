"""Fills a folder with all that an image is built from, so that the build needs no network.

    python images/wheelhouse.py service build/images/service
    buildah bud -f images/service.Containerfile build/images/service

The folder then holds wheels/ (quantmill's own wheel, built from this checkout, and those of locks/NAME.txt and
locks/tools.txt, each checked against its hash), and requirements.txt and tools.txt, which the build installs with
--no-index and --require-hashes. `--lock FILE` takes another list in the place of locks/NAME.txt: for other extras,
another platform, or a build of torch for CUDA.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = Path(__file__).resolve().parent / "locks"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def own_wheel(folder: Path) -> Path:
    """The wheel of this checkout, native kernels included; what the editable install compiled is not compiled again."""
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("quantmill-*.whl")
    return wheel


def download(lock: Path, folder: Path) -> None:
    """The lock's wheels; pip refuses one whose hash is not the lock's."""
    options = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
    subprocess.run([*PIP, "download", *options, "-r", lock, "-d", folder], check=True)


def pinned(wheel: Path) -> str:
    """A requirement that only this very wheel meets."""
    name, version, *_ = wheel.name.split("-")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def fill(folder: Path, lock: Path, own: Path | None = None) -> None:
    """Make `folder` the wheelhouse of `lock`, in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    wheel = own_wheel(wheels) if own is None else Path(shutil.copy(own, wheels))
    download(lock, wheels)
    download(LOCKS / "tools.txt", wheels)
    (folder / "requirements.txt").write_text(f"{lock.read_text()}{pinned(wheel)}\n")
    shutil.copy(LOCKS / "tools.txt", folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="service or worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=Path, help="requirements with hashes, instead of locks/NAME.txt")
    given = parser.parse_args()
    fill(given.folder, given.lock or LOCKS / f"{given.name}.txt")


if __name__ == "__main__":
    main()
