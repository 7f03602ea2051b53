"""Packages the chart: the same files give the same bytes.

    python -m helm.package FOLDER                     writes FOLDER/quantmill-VERSION.tgz
    python -m helm.package FOLDER --key NAME --keyring FILE [--passphrase-file FILE]    ... and its .prov

Helm decides what belongs into the archive (.helmignore) and how Chart.yaml is written; times, owners and order, which
it takes from the machine, are replaced. FILE is a secret keyring in GnuPG's old format (`gpg --export-secret-keys`).
"""

from __future__ import annotations

import argparse
import gzip
import io
import tarfile
import tempfile
from pathlib import Path

import helm_python as helm

CHART = Path(__file__).parent / "quantmill"


def package(folder: Path, chart: Path = CHART) -> Path:
    """Write `chart` into `folder` and give the archive's path."""
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(helm.package(chart, destination=scratch))
        archive = folder / packed.name
        folder.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(normalized(packed.read_bytes()))
    return archive


def normalized(archive: bytes) -> bytes:
    """The same files, sorted by name, of nobody and from 1970, in a gzip stream without a time."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as given:
        files = {member.name: given.extractfile(member).read() for member in given if member.isfile()}  # type: ignore[union-attr]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as written:
        # Chart.yaml first, as Helm has it: a reader of the stream knows at once what it reads
        for name in sorted(files, key=lambda name: (name.count("/") > 1 or not name.endswith("/Chart.yaml"), name)):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(files[name]), 0o644, 0
            written.addfile(member, io.BytesIO(files[name]))
    return gzip.compress(tar.getvalue(), compresslevel=9, mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Package the chart.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", help="identity of the key that signs the archive")
    parser.add_argument("--keyring", type=Path, help="secret keyring with that key")
    parser.add_argument("--passphrase-file", type=Path)
    given = parser.parse_args()
    if bool(given.key) != bool(given.keyring):
        parser.error("--key and --keyring belong together")
    archive = package(given.folder)
    print(archive)
    if given.key:
        print(helm.sign(archive, key=given.key, keyring=given.keyring, passphrase_file=given.passphrase_file))


if __name__ == "__main__":
    main()
