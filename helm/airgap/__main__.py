"""python -m helm.airgap make FOLDER [--wheels DIR | --extras worker,postgres,redis] [--images]
python -m helm.airgap verify FOLDER"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from helm.airgap.bundle import BundleError, make, verify


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m helm.airgap", description="Bundles for networks without a way out."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make", help="write a bundle into a new folder")
    making.add_argument("folder", type=Path)
    making.add_argument("--wheels", type=Path, help="folder with the wheels; without it they are built and downloaded")
    making.add_argument(
        "--extras", default="worker,postgres,redis", help="extras of quantmill that wheels are fetched for"
    )
    making.add_argument(
        "--images", action="store_true", help="put the images themselves into the bundle (needs skopeo)"
    )
    verbs.add_parser("verify", help="compare a bundle with its manifest").add_argument("folder", type=Path)
    given = parser.parse_args()
    try:
        if given.verb == "make":
            make(given.folder, given.wheels, extras=given.extras, images=given.images)
        print(f"{verify(given.folder)} files are as {given.folder}/SHA256SUMS says")
    except BundleError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
