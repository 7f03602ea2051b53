"""A comparison's report as one HTML page: no script, no network, readable on a phone, on paper and in grey."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from html import escape

from quantmill.domain.artifacts import Metric
from quantmill.evaluation.report import MeasuredVariant, Report

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: auto;
  padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.2 } h2 { font-size: 1.15rem; margin-top: 2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #bbb; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.best td { font-weight: 700; background: #eee }
small { display: block; color: #444; font-weight: 400 } thead th { white-space: normal; vertical-align: bottom }
.advice { border-left: .3rem solid #1a1a1a; padding: .2rem 1rem }
svg { width: 100%; max-width: 44rem; height: auto; display: block } svg text { font: 14px system-ui, sans-serif }
pre { background: #f2f2f2; padding: .6rem; overflow-x: auto; font-size: .8rem } .note { color: #444; font-size: .85rem }
@media print { body { max-width: none; font-size: 11pt } pre { white-space: pre-wrap } .wide { overflow: visible }
  table { font-size: 8pt } th, td { padding: .2rem .3rem } svg, tr, pre { break-inside: avoid } }
"""

WIDTH, HEIGHT = 520, 360
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 16, 48
CELL_HEIGHT = 26
LIGHTEST, DARKEST = 96, 25  # per cent


def page(report: Report) -> str:
    """The whole document."""
    best, reason = report.recommend()
    advice = f"<strong>{escape(best.name)}</strong>: {escape(reason)}" if best else escape(reason)
    commands = "\n".join(escape(report.command(variant)) for variant in report.variants)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(report.source)}: {len(report.variants)} variants</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(report.source)}: {len(report.variants)} variants compared</h1>
<p class="advice">Take {advice}</p>
<h2>What was lost</h2>
<div class="wide"><table>
<thead><tr><th>variant<th>bits per weight<th>MB<th>perplexity<th>KL divergence<th>KL 99 %<th>top-1 agreement
<th>retention<th>seconds<th>verified</tr></thead>
<tbody>
{_source_row(report)}
{"".join(_row(variant, variant is best) for variant in report.variants)}</tbody>
</table></div>
<p class="note">On {escape(report.text)}{_tokens(report)}. Small figures are 95 % intervals (paired bootstrap
over windows). Perplexity is per token, KL divergence from the source in nats per token, top-1 agreement the share of
tokens where both models hold the same token for the most likely, retention 100 (1 - (p - p source) / p source) %.</p>
<h2>Size against divergence</h2>
{_plot(report)}
<p class="note">Down and left is better. Filled: no other variant is both smaller and nearer. Bars are
95 % intervals.</p>
<h2>Error after each block</h2>
{_strips(report)}
<p class="note">||output - source's output|| / ||source's output||; darker is more. A block that
darkens the strip at once is the one to give more bits.</p>
<h2>Make them again</h2>
<pre>{commands}</pre>
<p class="note">quantmill {escape(report.version)}</p>
</body>
</html>
"""


def _tokens(report: Report) -> str:
    found = report.source_perplexity
    return f", {found.n} tokens" if found else ""


def _source_row(report: Report) -> str:
    perplexity = _with_interval(report.source_perplexity, ".3f")
    return f"<tr><td>source<td><td>{report.source_bytes / 1e6:.2f}<td>{perplexity}<td><td><td><td>100 %<td><td></tr>"


def _row(variant: MeasuredVariant, best: bool) -> str:
    name = escape(variant.name)
    seconds = "" if variant.seconds is None else f"{variant.seconds:.1f}"
    if not variant.succeeded:
        why = escape(variant.error or variant.state)
        return f'<tr><td>{name}<small>{why}</small><td colspan="7"><td>{seconds}<td>{escape(variant.state)}</tr>\n'
    cells = [
        name,
        _with_interval(variant.metric("bits_per_weight"), ".2f"),
        f"{(variant.size or 0) / 1e6:.2f}",
        _with_interval(variant.metric("perplexity"), ".3f"),
        _with_interval(variant.metric("kld_mean"), ".4f"),
        _with_interval(variant.metric("kld_p99"), ".3f"),
        _with_interval(variant.metric("top1_agreement"), ".4f"),
        _with_interval(variant.metric("retention"), ".2f", " %"),
        seconds,
        "yes",
    ]
    return f"<tr{' class=best' if best else ''}><td>{'<td>'.join(cells)}</tr>\n"


def _with_interval(metric: Metric | None, form: str, unit: str = "") -> str:
    if metric is None or not math.isfinite(metric.value):
        return ""
    shown = f"{metric.value:{form}}{unit}"
    if metric.ci_low is None or metric.ci_high is None:
        return shown
    return f"{shown}<small>{metric.ci_low:{form}} to {metric.ci_high:{form}}</small>"


# The plot


def _plot(report: Report) -> str:
    """Size (linear) against mean KL divergence (logarithmic)."""
    points = [each for each in report.succeeded if each.value("kld_mean") > 0]
    if not points:
        return "<p>Nothing to plot.</p>"
    lows = [_ends(each)[0] for each in points]
    highs = [_ends(each)[1] for each in points]
    bottom, top = math.floor(math.log10(min(lows))), math.ceil(math.log10(max(highs)))
    scale = _Scale(1.1 * max(each.size or 0 for each in points) / 1e6, bottom, max(top, bottom + 1))
    frontier = [each for each in report.frontier if each in points]
    line = " ".join(f"{scale.x((each.size or 0) / 1e6):.1f},{scale.y(each.value('kld_mean')):.1f}" for each in frontier)
    marks = "".join(_mark(each, scale, each in frontier) for each in points)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="size in MB against mean KL divergence">'
        f'{"".join(_axes(scale))}<polyline points="{line}" fill="none" stroke="#777" stroke-dasharray="5 4"/>'
        f"{marks}</svg>"
    )


class _Scale:
    """Megabytes and nats to the plot's coordinates."""

    def __init__(self, most_mb: float, bottom: int, top: int) -> None:
        """`bottom` and `top` are powers of ten."""
        self.most_mb, self.bottom, self.top = most_mb, bottom, top

    def x(self, mb: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * mb / self.most_mb

    def y(self, kld: float) -> float:
        share = (math.log10(kld) - self.bottom) / (self.top - self.bottom)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _axes(scale: _Scale) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    for power in range(scale.bottom, scale.top + 1):
        y = scale.y(10.0**power)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">{10.0**power:g}</text>'
    step = _step(scale.most_mb)
    for number in range(int(scale.most_mb / step) + 1):
        x = scale.x(number * step)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 5}" stroke="#1a1a1a"/>'
        yield f'<text x="{x:.1f}" y="{base + 20}" text-anchor="middle">{number * step:g}</text>'
    yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}" stroke="#1a1a1a"/>'
    yield f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">size, MB</text>'
    yield f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">KL divergence, nats</text>'


def _step(most: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are at most eight ticks."""
    power = 10.0 ** math.floor(math.log10(most / 8))
    return next(power * times for times in (1, 2, 5, 10) if power * times * 8 >= most)


def _mark(variant: MeasuredVariant, scale: _Scale, filled: bool) -> str:
    x, y = scale.x((variant.size or 0) / 1e6), scale.y(variant.value("kld_mean"))
    low, high = (scale.y(end) for end in _ends(variant))
    label = escape(" ".join(str(value) for value in variant.params.values()) or variant.method)
    anchor, shift = ("end", -9) if x > WIDTH * 0.75 else ("start", 9)
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="#1a1a1a"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{"#1a1a1a" if filled else "#fff"}" stroke="#1a1a1a"/>'
        f'<text x="{x + shift:.1f}" y="{y - 7:.1f}" text-anchor="{anchor}">{label}</text>'
    )


def _ends(variant: MeasuredVariant) -> tuple[float, float]:
    """The interval of the mean divergence, or the value itself; never zero, for the logarithm."""
    metric = variant.metric("kld_mean")
    assert metric is not None
    low, high = metric.ci_low or metric.value, metric.ci_high or metric.value
    return low, high


# The strips


def _strips(report: Report) -> str:
    measured = [each for each in report.succeeded if each.blocks]
    errors = [block.value for each in measured for block in each.blocks if 0 < block.value < math.inf]
    if not errors:
        return "<p>Nothing was measured.</p>"
    low, high = math.log(min(errors)), math.log(max(errors))
    height = len(measured) * (CELL_HEIGHT + 22) + 4
    rows = "".join(_strip(each, number * (CELL_HEIGHT + 22), low, high) for number, each in enumerate(measured))
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="output error of each block">{rows}</svg>'


def _strip(variant: MeasuredVariant, top: int, low: float, high: float) -> str:
    blocks = variant.blocks
    width = WIDTH / len(blocks)
    cells = "".join(_cell(block, number * width, top + 20, width, low, high) for number, block in enumerate(blocks))
    return f'<text x="0" y="{top + 15}">{escape(variant.name)}</text>{cells}'


def _cell(block: Metric, x: float, y: int, width: float, low: float, high: float) -> str:
    share = 0.0
    if block.value > 0 and high > low:
        share = min(1.0, (math.log(block.value) - low) / (high - low)) if math.isfinite(block.value) else 1.0
    light = LIGHTEST - (LIGHTEST - DARKEST) * share
    title = f"<title>{escape(block.subject)}: {block.value:.4g}</title>"
    cell = (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{CELL_HEIGHT}" fill="hsl(215 30% {light:.0f}%)" '
        f'stroke="#fff">{title}</rect>'
    )
    if width < 48:
        return cell
    ink = "#fff" if light < 60 else "#1a1a1a"
    return (
        f'{cell}<text x="{x + width / 2:.1f}" y="{y + 18}" text-anchor="middle" fill="{ink}">{block.value:.2g}</text>'
    )


# By the suffix of its file
FORMS: Mapping[str, Callable[[Report], str]] = {"html": page, "json": Report.to_json, "csv": Report.to_csv}
