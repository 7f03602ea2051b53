"""A comparison's report as one HTML page: no script, no network, readable on a phone, on paper and in grey."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath
from typing import Any

from quantmill.domain.artifacts import Metric
from quantmill.domain.comparisons import shown
from quantmill.domain.escalation import Step
from quantmill.evaluation.plots import pareto, strips
from quantmill.evaluation.report import MeasuredVariant, Report

STYLE = """
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: auto;
  padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.2 } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; width: 100% }
th, td { padding: .35rem .4rem; text-align: right; border-bottom: 1px solid #bbb; overflow-wrap: normal }
td { white-space: nowrap } thead th { vertical-align: bottom }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9.5rem }
tr.best td { font-weight: 700; background: #eee }
tr:has(+ tr.why) td { border: 0 } tr.why td { color: #444; padding-top: 0; font-size: .95em }
small { display: block; color: #444; font-weight: 400; font-size: .75rem }
.advice { border-left: .3rem solid #1a1a1a; padding: .2rem 1rem }
svg { width: 100%; max-width: 35rem; height: auto; display: block } svg text { font: 13px system-ui, sans-serif }
pre { background: #f2f2f2; padding: .5rem .6rem; margin: .4rem 0; font-size: .8rem; white-space: pre-wrap }
.note { color: #444; font-size: .85rem }
@media screen and (max-width: 54rem) {
  thead { display: none } table, tbody, tr { display: block } tr { border-bottom: 1px solid #bbb; padding: .5rem }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; white-space: normal }
  td:first-child, tr.best td:first-child { display: block; font-weight: 700 } tr.best td { font-weight: 400 }
  td:empty { display: none } td[data-label]::before { content: attr(data-label) }
  td small { display: inline; margin-left: .5rem }
  tr.best { background: #eee } tr:has(+ tr.why) { border: 0; padding-bottom: 0 }
  tr.why { padding-top: 0 } tr.why td:first-child { font-weight: 400 }
}
@media print {
  @page { margin: 15mm }
  body { max-width: none; font-size: 11pt; padding: 0 } table { font-size: 8pt } svg { max-width: 30rem }
  th, td { padding: .2rem .2rem } th:first-child, td:first-child { min-width: 6rem } small { font-size: 6pt }
  svg, tr, pre, .advice { break-inside: avoid } h2, tr:has(+ tr.why) { break-after: avoid }
  svg, tr.best td, pre { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


@dataclass(frozen=True)
class Column:
    """A metric in a table: its heading, how it is written, and what stands in the source's row where that was not
    measured. Bytes are written in the report's unit, which stands for {unit} in the heading."""

    metric: str
    title: str
    form: Callable[[float], str]
    source: str = ""
    interval: bool = True
    bytes: bool = False


def _digits(value: float) -> str:
    """Up to four decimals from 0.01 on, else two digits that count."""
    if value == 0 or value >= 0.01:
        return f"{value:.4f}"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.1e}".replace("e-0", "e-")


def _speed(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


LOST = (
    Column("bits_per_weight", "bits per weight", "{:.2f}".format),
    Column("perplexity", "perplexity", "{:.2f}".format),
    Column("retention", "retention, %", "{:.2f}".format, "100"),
    Column("kld_mean", "KL divergence", _digits),
    Column("kld_p99", "KL 99 %", _digits, interval=False),
    Column("top1_agreement", "top-1 agreement", "{:.4f}".format),
    Column("continuation_agreement", "continued alike", "{:.2f}".format),
)
RUN = (
    Column("predicted_memory", "memory, {unit}", "{:.2f}".format, bytes=True),
    Column("measured_memory", "measured memory, {unit}", "{:.2f}".format, bytes=True),
    Column("load_seconds", "load, s", "{:.2f}".format),
    Column("prompt_speed", "reads, token/s", _speed),
    Column("generation_speed", "writes, token/s", _speed),
)


def page(report: Report) -> str:
    """The whole document."""
    best, reason = report.recommend()
    advice = f"Take <strong>{escape(best.name)}</strong>: {escape(reason)}" if best else escape(reason).capitalize()
    commands = "\n".join(f"<pre>{escape(report.command(variant))}</pre>" for variant in report.variants)
    name = escape(_name(report.source))
    document = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{name}: {_count(report)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{name}: {_count(report)} compared</h1>
<p class="advice">{advice}</p>
<h2>What was lost</h2>
{_lost(report, best)}
<p class="note">{escape(report.source)} on {escape(report.text)}{_tokens(report)}. Small figures are 95 % intervals
(paired bootstrap over windows). Perplexity is per token, retention 100 (1 - (p - p source) / p source), KL divergence
from the source in nats per token, top-1 agreement the share of tokens where both models hold the same token for the
most likely{_continued(report)}.</p>
<h2>What it takes</h2>
{_run(report, best)}
<h2>Size against divergence</h2>
{pareto(report)}
<p class="note">Down and left is better. Filled: no other variant is both smaller and nearer. Ringed: the one to take.
Crossed: measured, but not published. Bars are 95 % intervals.{_lossless(report)}</p>
<h2>Error after each block</h2>
{strips(report)}
<p class="note">||output - source's output|| / ||source's output||; darker is more. A block that darkens the strip at
once is the one to give more bits.</p>
<h2>Make them again</h2>
{commands}
<p class="note">quantmill {escape(report.version)}</p>
</body>
</html>
"""
    return document.replace(" %", "\u00a0%")  # no line ends before a percent sign


def _name(source: str) -> str:
    """The last part of a path or URI."""
    return PurePosixPath(source.rstrip("/")).name or source


def _count(report: Report) -> str:
    return "1 variant" if len(report.variants) == 1 else f"{len(report.variants)} variants"


def _tokens(report: Report) -> str:
    found = report.first("perplexity", "source")
    return f", {found.n} tokens" if found else ""


def _lossless(report: Report) -> str:
    names = [escape(variant.name) for variant in report.variants if variant.value("kld_mean") == 0]
    return f" Not in the plot, because nothing was lost: {', '.join(names)}." if names else ""


def _continued(report: Report) -> str:
    found = report.first("continuation_agreement")
    return f", continued alike that of {found.n} tokens which both wrote themselves, greedily" if found else ""


# The tables


def _lost(report: Report, best: MeasuredVariant | None) -> str:
    """What each variant has lost, and why it failed."""
    columns = _measured_columns(report, LOST)
    titles = ["variant", report.unit[1], *(_title(column, report) for column in columns), "verified"]
    rows = [_row([*_source_cells(columns, report), ""], titles)]
    for variant in report.variants:
        verified = "yes" if variant.succeeded else escape(variant.state)
        rows.append(_row([*_cells(variant, columns, report), verified], titles, _attributes(variant, best)))
        rows += [f"<tr class=why><td colspan={len(titles)}>{escape(said)}</td></tr>" for said in _remarks(variant)]
    return _table(titles, rows)


def _run(report: Report, best: MeasuredVariant | None) -> str:
    """What it takes to make each variant, and to run it as far as that was measured."""
    columns = _measured_columns(report, RUN)
    runtimes = {variant.name: _runtime(variant) for variant in report.variants}
    timed = any(runtimes.values())
    named = [_title(column, report) for column in columns]
    titles = ["variant", report.unit[1], *named, *["runtime"] * timed, "job, s"]
    rows = [_row([*_source_cells(columns, report), *[""] * timed, ""], titles)]
    for variant in report.variants:
        cells = [*_cells(variant, columns, report), *[escape(runtimes[variant.name])] * timed]
        seconds = "" if variant.seconds is None else f"{variant.seconds:.1f}"
        rows.append(_row([*cells, seconds], titles, _attributes(variant, best)))
    return f"{_table(titles, rows)}\n<p class=note>{_run_note(report, timed)}</p>"


def _run_note(report: Report, timed: bool) -> str:
    memory, written = report.first("predicted_memory"), report.first("generation_speed")
    at = memory.unit.partition(" at ")[2] if memory else ""
    said = "The seconds of a job are its making, its verification and its evaluation."
    if at:
        said += f" Memory is predicted for one sequence: weights, KV cache and activations at {escape(at)}."
    if timed and written:
        said += f" Loading, reading a prompt and writing {written.n} tokens were measured on the worker."
    return said


def _runtime(variant: MeasuredVariant) -> str:
    """Where it was timed; empty where it was not."""
    found = variant.metric("load_seconds")
    return found.unit.partition(" in ")[2] if found else ""


def _measured_columns(report: Report, columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if report.first(column.metric) or column.source]


def _title(column: Column, report: Report) -> str:
    return column.title.format(unit=report.unit[1])


def _attributes(variant: MeasuredVariant, best: MeasuredVariant | None) -> str:
    return " class=best" if variant is best else ""


def _table(titles: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    return "\n".join(["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>", *rows, "</tbody>", "</table>"])


def _remarks(variant: MeasuredVariant) -> Iterator[str]:
    """Which smaller attempts missed the gates, and why it failed."""
    if variant.steps:
        changed = variant.made_with or variant.params
        yield f"Gates were not met with {'; '.join(_step(step, changed) for step in variant.steps)}."
    if not variant.succeeded:
        yield variant.error or variant.state


def _step(step: Step, changed: Mapping[str, Any]) -> str:
    """What a step had in place of the changed parameters, and the gates that it missed."""
    params = " ".join(f"{name}={shown(step.params.get(name))}" for name in changed)
    missed = [each for each in step.gates if not each.passed]
    said = [f"{each.gate}: {'not measured' if each.observed is None else f'{each.observed:.4g}'}" for each in missed]
    return f"{params} ({', '.join(said)})"


def _row(cells: list[str], titles: list[str], attributes: str = "") -> str:
    return f"<tr{attributes}>{''.join(_labelled(cells, titles))}</tr>"


def _labelled(cells: list[str], titles: list[str]) -> Iterator[str]:
    """Cells that carry their column's title, for where there is no room for columns."""
    yield f"<td>{cells[0]}</td>"
    for cell, title in zip(cells[1:], titles[1:], strict=True):
        yield f'<td data-label="{title}">{cell}</td>' if cell else "<td></td>"


def _source_cells(columns: Sequence[Column], report: Report) -> list[str]:
    values = [_measured(report.first(column.metric, "source"), column, report) or column.source for column in columns]
    return ["source", f"{report.source_bytes / report.unit[0]:.2f}", *values]


def _cells(variant: MeasuredVariant, columns: Sequence[Column], report: Report) -> list[str]:
    """Also of a variant that did not succeed, as far as it was measured."""
    return [
        escape(variant.name),
        "" if variant.size is None else f"{variant.size / report.unit[0]:.2f}",
        *(_measured(variant.metric(column.metric), column, report) for column in columns),
    ]


def _measured(metric: Metric | None, column: Column, report: Report) -> str:
    if metric is None or not math.isfinite(metric.value):
        return ""
    divisor = report.unit[0] if column.bytes else 1.0
    low, high = metric.ci_low, metric.ci_high
    value = column.form(metric.value / divisor)
    if not column.interval or low is None or high is None or low == high:
        return f"<span>{value}</span>"
    return f"<span>{value}<small>{column.form(low / divisor)}–{column.form(high / divisor)}</small></span>"


# By the suffix of its file
FORMS: Mapping[str, Callable[[Report], str]] = {"html": page, "json": Report.to_json, "csv": Report.to_csv}
