#!/usr/bin/env python3
"""The main job on real input: start the service, submit a comparison over REST, wait, and print it.

Uses the shipped model and text, the embedded default (SQLite, no broker), and build/demo/ for everything it writes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quantmill.cli.comparing import COLUMNS, FORMS, measured_columns, measured_of, value_in, write_report
from quantmill.client import Client, ServiceUnreachable

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "tests/data/millstone-4m"
TEXT = REPOSITORY / "tests/data/text/evaluation.txt"
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
START_SECONDS = 30
DIGITS = {"bits per weight": 2, "perplexity": 3, "retention %": 2, "memory MB": 2, "token/s": 1}  # after the point
LOSSLESS = {"bits per weight": "16.00", "retention %": "100.00", "KLD": "0", "top-1": "1", "continued": "1"}


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


def table(report: dict[str, Any]) -> Table:
    shown = Table(title="millstone-4m, measured on evaluation.txt")
    columns = measured_columns(report["variants"])
    for column in ("type", "MB", *columns, "seconds", "verified"):
        shown.add_column(column, justify="left" if column == "type" else "right")
    source = [LOSSLESS.get(title) or figure(source_value(report, title), title) for title in columns]
    shown.add_row("source (BF16)", f"{report['source_bytes'] / 1e6:.2f}", *source, "", "")
    for variant in report["variants"]:
        values = [figure(value_in(variant, title), title) for title in columns]
        seconds = f"{variant['seconds']:.1f}"
        shown.add_row(variant["params"]["type"], f"{variant['size'] / 1e6:.2f}", *values, seconds, "yes")
    return shown


def source_value(report: dict[str, Any], title: str) -> float | None:
    metric, units = COLUMNS[title]
    value = measured_of(report["variants"][0]).get(("source", metric))
    return None if value is None else value / units


def figure(value: float | None, title: str) -> str:
    return "" if value is None else f"{value:.{DIGITS.get(title, 4)}f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build/demo", help="emptied first")
    folder: Path = parser.parse_args().folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    console = Console(width=max(Console().width, 130))
    with service(folder) as client:
        variants = [("gguf", {"type": type_}) for type_ in TYPES]
        comparison = client.compare(str(MODEL), str(TEXT), variants, idempotency_key="demo")
        console.print(f"{len(variants)} jobs submitted to {client.server}")
        comparison = client.wait_for_comparison(comparison.id)
        for variant in comparison.variants:
            if variant.artifact_digest is None:
                console.print(f"{variant.name}: {variant.state} {variant.error}")
                return 1
            path = folder / str(variant.params["type"])
            client.download(variant.artifact_digest, path)
            console.print(f"{variant.name}: {variant.state}, {path.relative_to(REPOSITORY)}", highlight=False)
        written = {form: client.report(comparison.id, form) for form in FORMS}
    report = json.loads(written["json"])
    console.print(table(report))
    console.print("take {variant}: {reason}".format(**report["recommendation"]), highlight=False, soft_wrap=True)
    page, *_ = write_report(written, folder / "report.html")
    console.print(f"The whole comparison: {page}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
