#!/usr/bin/env python3
"""The main job on real input: start the service, submit over REST, wait, and print the comparison.

Uses the shipped model and text, the embedded default (SQLite, no broker), and build/demo/ for everything it writes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quantmill.api.schemas import ArtifactView, JobView
from quantmill.cli.comparing import write_report
from quantmill.client import Client, ServiceUnreachable
from quantmill.domain.artifacts import Metric
from quantmill.domain.jobs import State
from quantmill.evaluation.report import Comparison, Variant

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "tests/data/millstone-4m"
TEXT = REPOSITORY / "tests/data/text/evaluation.txt"
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
START_SECONDS = 30


@contextmanager
def service(folder: Path) -> Iterator[Client]:
    """`quantmill serve` on a free port, stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(Path(sys.executable).with_name("quantmill"), "serve", "--port", str(port)),
        *("--data-dir", folder / "data", "--source-root", REPOSITORY / "tests/data"),
    ]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_until_ready(client, process, folder / "serve.log")
            yield client
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.methods()
            return
        except ServiceUnreachable:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service did not start:\n{log.read_text()}")
            time.sleep(0.1)


def variant_of(job: JobView, artifact: ArtifactView) -> Variant:
    assert job.started_at is not None
    assert job.ended_at is not None
    measured = [each for each in artifact.metrics if each.value is not None]
    return Variant(
        method=job.method,
        params={"type": job.params["type"]},
        state=job.state.value,
        seconds=(job.ended_at - job.started_at).total_seconds(),
        size=artifact.size,
        digest=artifact.digest,
        metrics=tuple(Metric(**dict(each)) for each in measured),
    )


def table(comparison: Comparison) -> Table:
    shown = Table(title="millstone-4m, measured on evaluation.txt")
    for column in ("type", "bits/weight", "MB", "perplexity", "retention %", "KLD", "top-1", "seconds", "verified"):
        shown.add_column(column, justify="left" if column == "type" else "right")
    source = comparison.source_perplexity
    assert source is not None
    baseline = [f"{comparison.source_bytes / 1e6:.2f}", f"{source.value:.3f}", "100.00", "0", "1", "", ""]
    shown.add_row("source (BF16)", "16.00", *baseline)
    for each in comparison.variants:
        shown.add_row(
            str(each.params["type"]),
            f"{each.value('bits_per_weight'):.2f}",
            f"{(each.size or 0) / 1e6:.2f}",
            f"{each.value('perplexity'):.3f}",
            f"{each.value('retention'):.2f}",
            f"{each.value('kld_mean'):.4f}",
            f"{each.value('top1_agreement'):.4f}",
            f"{each.seconds:.1f}",
            "yes",
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build/demo", help="emptied first")
    folder: Path = parser.parse_args().folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    console = Console(width=max(Console().width, 110))
    variants = []
    with service(folder) as client:
        jobs = [
            client.submit(
                str(MODEL), "gguf", {"type": type_}, evaluation_text=str(TEXT), idempotency_key=f"demo-{type_}"
            )
            for type_ in TYPES
        ]
        console.print(f"{len(jobs)} jobs submitted to {client.server}")
        for job in jobs:
            job = client.wait(job.id)
            if job.state is not State.SUCCEEDED or job.artifact_digest is None:
                console.print(f"{job.params['type']}: {job.state} {job.error}")
                return 1
            path = folder / str(job.params["type"])
            variants.append(variant_of(job, client.download(job.artifact_digest, path)))
            console.print(f"{job.params['type']}: {job.state}, {path.relative_to(REPOSITORY)}", highlight=False)
    source, text = (str(path.relative_to(REPOSITORY)) for path in (MODEL, TEXT))
    nbytes = (MODEL / "model.safetensors").stat().st_size
    comparison = Comparison(source, nbytes, text, tuple(variants), version("quantmill"))
    console.print(table(comparison))
    best, reason = comparison.recommend()
    console.print(f"{best.name if best else 'nothing'} is {reason}", highlight=False)
    page, *_ = write_report(comparison, folder / "report.html")
    console.print(f"The whole comparison: {page}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
