"""`quantmill compare`: several variants of one model, one report; made here or on a service."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from uuid import UUID

import typer

from quantmill.cli import options
from quantmill.cli.exits import OF_STATE
from quantmill.cli.local import embedded_store, files_of, give_up_unplaceable, interruptible, with_real_files
from quantmill.cli.logs import log_to_stderr
from quantmill.cli.output import note, say, show_table
from quantmill.cli.progress import watch
from quantmill.cli.remote import as_seen_there
from quantmill.contract.errors import RequestRejected, ResourceExhausted
from quantmill.domain.comparisons import ComparisonRequest, VariantRequest
from quantmill.domain.jobs import FINAL

if TYPE_CHECKING:
    from quantmill.api.schemas import ComparisonView, ReportForm
    from quantmill.client import Client
    from quantmill.services import Services

POLL_SECONDS = 0.2
FORMS: tuple[ReportForm, ...] = ("html", "json", "csv")
COLUMNS = {  # of the table: metric of the report, and how many of its units make one of the column's
    "bits per weight": ("bits_per_weight", 1.0),
    "perplexity": ("perplexity", 1.0),
    "retention %": ("retention", 1.0),
    "KLD": ("kld_mean", 1.0),
    "top-1": ("top1_agreement", 1.0),
    "continued": ("continuation_agreement", 1.0),
    "memory MB": ("predicted_memory", 1e6),
    "token/s": ("generation_speed", 1.0),
}

Variants = Annotated[
    list[str],
    typer.Option(
        "--variant",
        metavar="METHOD:KEY=VALUE,...",
        help="As 'gguf:type=Q4_K_M', or with the parameters as a JSON object; repeat for each variant.",
    ),
]
ReportFile = Annotated[
    Path, typer.Option("--report", metavar="FILE.html", help="A self-contained page; .json and .csv go beside it.")
]
OnServer = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="Run the jobs on this service, not on this machine.")
]


def compare(
    model: options.Model,
    variant: Variants,
    text: Annotated[str, typer.Option("--text", metavar="FILE", help="UTF-8 text to evaluate on.")],
    report: ReportFile,
    measures: options.Measures = None,
    gate: options.Gates = None,
    escalate: options.Escalate = None,
    escalate_mb: options.EscalateMb = None,
    escalate_by: options.EscalateBy = None,
    calibration: options.Calibrate = None,
    calibrate: options.Samples = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    server: OnServer = None,
    as_json: options.Json = False,
) -> int:
    """Make several variants of MODEL, measure what each has lost, and write one report. Ctrl-C cancels."""
    if report.suffix != ".html":
        raise RequestRejected(f"{report} must end in .html; its .json and .csv are written beside it")
    variants = tuple(map(parse_variant, variant))
    request = ComparisonRequest(
        as_seen_there(model),
        as_seen_there(text),
        variants,
        seed=seed,
        gates=tuple(gate or ()),
        evaluation=options.parse_measures(measures),
        escalation=options.parse_escalation(escalate, escalate_mb, escalate_by),
        calibration=options.parse_calibration(as_seen_there(calibration) if calibration else None, calibrate),
    )
    with place(request, server, data_dir, threads) as chosen, interruptible():
        ended = see_through(chosen, request, as_json)
        written = {form: chosen.report(ended.id, form) for form in FORMS}
    paths = write_report(written, report)
    show(written["json"], paths, as_json)
    return OF_STATE[ended.state]


def parse_variant(text: str) -> VariantRequest:
    """`gguf:type=Q4_K_M,other=1` or `gguf:{"type": "Q4_K_M"}` as a method and its parameters."""
    method, _, params = text.partition(":")
    if not method:
        raise RequestRejected(f"{text!r} names no method; write it as gguf:type=Q4_K_M")
    if not params.startswith("{"):
        return VariantRequest(method, options.parse_sets([pair for pair in params.split(",") if pair]))
    try:
        return VariantRequest(method, json.loads(params))
    except ValueError as error:
        raise RequestRejected(f"{text!r}: its parameters are no JSON object ({error})") from None


# Where it runs


class Place(Protocol):
    """This machine or a service."""

    def submit(self, request: ComparisonRequest) -> ComparisonView: ...

    def look(self, comparison_id: UUID) -> ComparisonView: ...

    def cancel(self, comparison_id: UUID) -> ComparisonView: ...

    def report(self, comparison_id: UUID, form: ReportForm) -> str: ...


class Here:
    """The embedded store, with a worker in this process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def submit(self, request: ComparisonRequest) -> ComparisonView:
        from quantmill.api.schemas import ComparisonView
        from quantmill.jobs import comparisons

        variants = tuple(replace(each, params=with_real_files(each.method, each.params)) for each in request.variants)
        return ComparisonView.of(comparisons.submit(self._services, replace(request, variants=variants)))

    def look(self, comparison_id: UUID) -> ComparisonView:
        from quantmill.api.schemas import ComparisonView
        from quantmill.jobs import comparisons

        found = comparisons.get(self._services, comparison_id)
        try:
            for variant in found.variants:
                give_up_unplaceable(self._services, variant.job)
        except ResourceExhausted:
            comparisons.cancel(self._services, comparison_id)
            raise
        return ComparisonView.of(found)

    def cancel(self, comparison_id: UUID) -> ComparisonView:
        from quantmill.api.schemas import ComparisonView
        from quantmill.jobs import comparisons

        return ComparisonView.of(comparisons.cancel(self._services, comparison_id))

    def report(self, comparison_id: UUID, form: ReportForm) -> str:
        from quantmill.evaluation.page import FORMS
        from quantmill.jobs import comparisons

        return FORMS[form](comparisons.report(self._services, comparison_id))


class There:
    """A service."""

    def __init__(self, client: Client) -> None:
        self.look = client.comparison
        self.cancel = client.cancel_comparison
        self.report = client.report
        self._client = client

    def submit(self, request: ComparisonRequest) -> ComparisonView:
        asked = [(variant.method, variant.params) for variant in request.variants]
        return self._client.compare(
            request.source,
            request.evaluation_text,
            asked,
            seed=request.seed,
            gates=list(request.gates),
            evaluation=request.evaluation.asked(),
            escalation=request.escalation.asked() if request.escalation else None,
            calibration=request.calibration.asked() if request.calibration else None,
        )


@contextmanager
def place(
    request: ComparisonRequest, server: str | None, data_dir: Path | None, threads: int | None
) -> Iterator[Place]:
    if server is not None:
        if data_dir is not None or threads is not None:
            raise RequestRejected("--data-dir and --threads are the service's own; leave them out with --server")
        with options.client(server) as client:
            yield There(client)
        return
    from quantmill.dispatch.embedded import Embedded

    log_to_stderr(level=logging.ERROR)
    named = [Path(request.source), Path(request.evaluation_text)]
    named += [Path(request.calibration.text)] if request.calibration else []
    named += [path for variant in request.variants for path in files_of(variant)]
    with (
        embedded_store(data_dir, named, threads) as services,
        Embedded(services),
    ):
        yield Here(services)


def see_through(chosen: Place, request: ComparisonRequest, as_json: bool) -> ComparisonView:
    """Submit, and follow each variant in turn to its end; an interrupt cancels those that have not ended."""
    comparison = chosen.submit(request)
    try:
        for position in range(len(comparison.variants)):
            comparison = follow(chosen, comparison, position, as_json)
    except KeyboardInterrupt:
        note("canceling")
        comparison = chosen.cancel(comparison.id)
        while comparison.state not in FINAL:
            time.sleep(POLL_SECONDS)
            comparison = chosen.look(comparison.id)
    return comparison


def follow(chosen: Place, comparison: ComparisonView, position: int, as_json: bool) -> ComparisonView:
    if not as_json:
        note(comparison.variants[position].name)
    said: list[str] = []
    with watch(as_json) as watching:
        while True:
            variant = comparison.variants[position]
            watching.show(variant)
            if variant.state in FINAL:
                return comparison
            if variant.missing and not as_json and variant.missing != said:
                note(f"{variant.status_reason}: {'; '.join(variant.missing)}")
                said = variant.missing
            time.sleep(POLL_SECONDS)
            comparison = chosen.look(comparison.id)


# What came out


def write_report(written: Mapping[ReportForm, str], report: Path) -> list[Path]:
    """The page, and its JSON and CSV beside it; each whole or not at all."""
    from quantmill.files.atomic import atomic_file

    report.parent.mkdir(parents=True, exist_ok=True)
    for form, content in written.items():
        with atomic_file(report.with_suffix(f".{form}"), "w") as file:
            file.write(content)
    return [report.with_suffix(f".{form}") for form in written]


def show(written: str, paths: Sequence[Path], as_json: bool) -> None:
    """The report's JSON as it is, or its table and its advice."""
    if as_json:
        say(written.rstrip())
        return
    report = json.loads(written)
    columns = measured_columns(report["variants"])
    rows = [row(each, columns) for each in report["variants"]]
    show_table(("variant", "MB", *columns, "seconds", "verified"), rows)
    best, reason = report["recommendation"]["variant"], report["recommendation"]["reason"]
    say(f"take {best}: {reason}" if best else reason)
    say(f"report: {', '.join(map(str, paths))}")


def measured_columns(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that some variant has a value for."""
    measured = {name for variant in variants for subject, name in measured_of(variant) if subject == "artifact"}
    return [title for title, (metric, _) in COLUMNS.items() if metric in measured]


def row(variant: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    """A line of the table from a variant of the report's JSON; what was not measured is None."""
    megabytes = None if variant["size"] is None else variant["size"] / 1e6
    verified = "yes" if variant["digest"] else variant["state"]
    values = [value_in(variant, title) for title in columns]
    return (variant["name"], megabytes, *values, variant["seconds"], verified)


def value_in(variant: Mapping[str, Any], column: str) -> float | None:
    metric, units = COLUMNS[column]
    value = measured_of(variant).get(("artifact", metric))
    return None if value is None else value / units


def measured_of(variant: Mapping[str, Any]) -> dict[tuple[str, str], float | None]:
    """The values of a variant's metrics by subject and name."""
    return {(each["subject"], each["name"]): each["value"] for each in variant["metrics"]}
