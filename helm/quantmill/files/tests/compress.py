"""Has a tiny model compressed by the release's workers, as a user would, and fetches what came out.

    compress.py SECONDS [SOURCE]

Without SOURCE a model of random numbers is made in the data folder, and removed at the end.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantmill.client import Client
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.domain.jobs import FINAL, State


@contextmanager
def random_model() -> Iterator[str]:
    root = Path(os.environ["QUANTMILL_DATA_DIR"]) / "sources"
    root.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="helm-test-", dir=root) as folder:
        Path(folder).chmod(0o755)  # workers may run under another user id
        yield str(SyntheticLlama(hidden=64, ffn=128, blocks=1, heads=2, kv_heads=1).write(Path(folder)))


def compress(client: Client, source: str, seconds: float) -> str:
    """The digest of what became of `source`."""
    job = client.wait(client.submit(source, "gguf", {"type": "Q8_0"}, labels={"test": "helm"}).id, seconds)
    if job.state not in FINAL:
        client.wait(client.cancel(job.id).id, seconds)
        sys.exit(f"job {job.id} was still {job.state.value} after {seconds:g} seconds: {job.status_reason}")
    if job.state is not State.SUCCEEDED or job.artifact_digest is None:
        sys.exit(f"job {job.id} has {job.state.value}: {job.error}")
    return job.artifact_digest


def main(seconds: float, *given: str) -> None:
    with Client(os.environ["QUANTMILL_SERVER"]) as client, tempfile.TemporaryDirectory() as folder:
        if given:
            digest = compress(client, given[0], seconds)
        else:
            with random_model() as source:
                digest = compress(client, source, seconds)
        files = client.download(digest, Path(folder)).files
        print(f"{digest}: {len(files)} files fetched, each with its own digest")


main(float(sys.argv[1]), *sys.argv[2:])
