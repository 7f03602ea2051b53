"""`quantmill compare`: several variants of one model, one report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmill.cli import options
from quantmill.cli.exits import OF_STATE, ExitCode
from quantmill.cli.local import embedded_store, follow, interruptible
from quantmill.cli.logs import log_to_stderr
from quantmill.cli.output import note, say, show_table
from quantmill.cli.progress import watch
from quantmill.contract.errors import RequestRejected
from quantmill.domain.jobs import Job, JobRequest, State

if TYPE_CHECKING:
    from quantmill.evaluation.report import Comparison, Variant
    from quantmill.services import Services

Variants = Annotated[
    list[str],
    typer.Option("--variant", metavar="METHOD:KEY=VALUE,...", help="As 'gguf:type=Q4_K_M'; repeat for each variant."),
]
Report = Annotated[
    Path, typer.Option("--report", metavar="FILE.html", help="A self-contained page; .json and .csv go beside it.")
]


def compare(
    model: options.LocalModel,
    variant: Variants,
    text: options.Text,
    report: Report,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> int:
    """Make several variants of MODEL, measure what each has lost, and write one report. Ctrl-C cancels."""
    from quantmill.dispatch.embedded import Embedded

    if report.suffix != ".html":
        raise RequestRejected(f"{report} must end in .html; its .json and .csv are written beside it")
    wanted = [parse_variant(each) for each in variant]
    log_to_stderr(level=logging.ERROR)
    requests = [
        JobRequest(str(model.resolve()), method, params, evaluation_text=str(text.resolve()), seed=seed)
        for method, params in wanted
    ]
    with embedded_store(data_dir, model, text, threads) as services:
        with Embedded(services), interruptible():
            jobs = run_all(services, requests, as_json)
        comparison = comparison_of(services, requests, jobs, model, text)
    written = write_report(comparison, report)
    show(comparison, written, as_json)
    return max((OF_STATE[job.state] for job in jobs), default=ExitCode.DONE)


def parse_variant(text: str) -> tuple[str, dict[str, Any]]:
    """`gguf:type=Q4_K_M,other=1` as a method and its parameters."""
    method, _, params = text.partition(":")
    if not method:
        raise RequestRejected(f"{text!r} names no method; write it as gguf:type=Q4_K_M")
    return method, options.parse_sets([pair for pair in params.split(",") if pair])


def run_all(services: Services, requests: Sequence[JobRequest], as_json: bool) -> list[Job]:
    """Queue all and follow each to its end; an interrupt cancels those that have not ended."""
    from quantmill.jobs.cancel import cancel
    from quantmill.jobs.submit import submit

    jobs = [submit(services, request) for request in requests]
    ended: list[Job] = []
    try:
        for job in jobs:
            watching = watch(as_json)
            with watching:
                ended.append(follow(services, job.id, watching))
    except KeyboardInterrupt:
        note("canceling")
        for job in jobs[len(ended) :]:
            cancel(services, job.id)
        ended += [follow(services, job.id, watch(True)) for job in jobs[len(ended) :]]
    return ended


def comparison_of(
    services: Services, requests: Sequence[JobRequest], jobs: Sequence[Job], model: Path, text: Path
) -> Comparison:
    """Variants are named by what was asked for, not by the defaults that the method filled in."""
    from quantmill.checkpoints import open_checkpoint
    from quantmill.evaluation.report import Comparison

    with open_checkpoint(model) as checkpoint:
        nbytes = checkpoint.index.nbytes
    pairs = zip(requests, jobs, strict=True)
    variants = tuple(variant_of(services, job, request.params) for request, job in pairs)
    return Comparison(str(model), nbytes, str(text), variants, version("quantmill"))


def variant_of(services: Services, job: Job, params: Mapping[str, Any]) -> Variant:
    from quantmill.evaluation.report import Variant
    from quantmill.jobs import artifacts

    seconds = (job.ended_at - job.started_at).total_seconds() if job.ended_at and job.started_at else None
    shown: dict[str, Any] = {"method": job.request.method, "params": params, "state": job.state.value}
    if job.artifact_digest is None:
        error = (job.error or {}).get("detail")
        return Variant(**shown, seconds=seconds, error=error)
    artifact, metrics = artifacts.get(services, job.artifact_digest)
    return Variant(**shown, seconds=seconds, size=artifact.size, digest=artifact.digest, metrics=tuple(metrics))


def write_report(comparison: Comparison, report: Path) -> list[Path]:
    """The page, and its JSON and CSV beside it; each whole or not at all."""
    from quantmill.evaluation.page import page
    from quantmill.files.atomic import atomic_file

    report.parent.mkdir(parents=True, exist_ok=True)
    written = {".html": page(comparison), ".json": comparison.to_json(), ".csv": comparison.to_csv()}
    for suffix, content in written.items():
        with atomic_file(report.with_suffix(suffix), "w") as file:
            file.write(content)
    return [report.with_suffix(suffix) for suffix in written]


def show(comparison: Comparison, written: Sequence[Path], as_json: bool) -> None:
    if as_json:
        say(comparison.to_json().rstrip())
        return
    columns = ("variant", "MB", "bits per weight", "perplexity", "retention %", "KLD", "top-1", "seconds", "verified")
    show_table(columns, [_row(variant) for variant in comparison.variants])
    best, reason = comparison.recommend()
    say(f"take {best.name}: {reason}" if best else reason)
    say(f"report: {', '.join(map(str, written))}")


def _row(variant: Variant) -> tuple[Any, ...]:
    if not variant.succeeded:
        return (variant.name, *[None] * 6, variant.seconds, variant.state)
    measured = [
        variant.value(name) for name in ("bits_per_weight", "perplexity", "retention", "kld_mean", "top1_agreement")
    ]
    verified = "yes" if variant.state == State.SUCCEEDED else "no"
    return (variant.name, (variant.size or 0) / 1e6, *measured, variant.seconds, verified)
