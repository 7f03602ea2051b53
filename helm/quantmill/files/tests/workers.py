"""Waits until the workers of every pool have registered.

    workers.py SECONDS PODS=COUNT...

PODS is what the names of a pool's pods begin with, COUNT how many there are to be.
"""

import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from quantmill.client import Client

SILENT = timedelta(minutes=5)
PAUSE_SECONDS = 2.0


def missing(client: Client, expected: Mapping[str, int]) -> dict[str, int]:
    """How many workers each pool lacks that has too few."""
    since = datetime.now(UTC) - SILENT
    hosts = {worker.host for worker in client.workers().items if worker.seen_at > since}
    lacking = {pods: count - sum(host.startswith(pods) for host in hosts) for pods, count in expected.items()}
    return {pods: count for pods, count in lacking.items() if count > 0}


def main(seconds: float, *pools: str) -> None:
    expected = {pods: int(count) for pods, _, count in (pool.partition("=") for pool in pools)}
    end = time.monotonic() + seconds
    with Client(os.environ["QUANTMILL_SERVER"]) as client:
        while lacking := missing(client, expected):
            if time.monotonic() >= end:
                sys.exit(f"after {seconds:g} seconds there are still too few workers: {lacking}")
            time.sleep(PAUSE_SECONDS)
    print(f"{sum(expected.values())} workers of {len(expected)} pools have registered")


main(float(sys.argv[1]), *sys.argv[2:])
