"""The plots of a report as SVG: no script, black on white, shades that keep their order in grey."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from quantmill.domain.artifacts import Metric
from quantmill.domain.comparisons import shown
from quantmill.evaluation.report import MeasuredVariant, Report

INK = "#1a1a1a"
WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 14, 12, 46
FONT_SIZE = 13
LETTER_WIDTH = 7.8  # of that font, at most on average
LONGEST_LABEL = 24
STRIP_HEIGHT, STRIP_LABEL = 26, 20
NARROWEST_NUMBER = 44  # a cell below it has no room for its value
LIGHTEST, DARKEST = 96, 22  # per cent
SHADES = 6  # of the strips' legend

Box = tuple[float, float, float, float]  # left, top, right, bottom


# Size against divergence


@dataclass(frozen=True)
class Axis:
    """Values to pixels; `low` and `high` are logarithms to the base of ten where it is logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        place = math.log10(value) if self.logarithmic else value
        return self.start + (self.end - self.start) * (place - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        return self._powers() if self.logarithmic else self._steps()

    def _steps(self) -> list[float]:
        step = _step(self.high - self.low)
        return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def _powers(self) -> list[float]:
        """Powers of ten; where there are fewer than two, numbers between them too."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for times in ((1,), (1, 2, 5), tuple(range(1, 10))):
            values = [time * 10.0**power for power in powers for time in times]
            ticks = [value for value in values if self.low <= math.log10(value) <= self.high]
            if len(ticks) > 1:
                break
        return ticks


def linear(values: Sequence[float], start: float, end: float) -> Axis:
    """With a sixth of the range free on either side."""
    span = (max(values) - min(values)) or 0.4 * max(values)
    return Axis(max(0.0, min(values) - span / 6), max(values) + span / 6, start, end, False)


def logarithmic(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.2, (high - low) / 8)
    return Axis(low - room, high + room, start, end, True)


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are at most six."""
    power = 10.0 ** math.floor(math.log10(span / 6))
    return next(power * times for times in (1, 2, 5, 10) if power * times * 6 >= span)


def pareto(report: Report) -> str:
    """Size against mean KL divergence (logarithmic), what was measured without being published among it."""
    points = [each for each in report.variants if each.size and 0 < each.value("kld_mean") < math.inf]
    if not points:
        return "<p>Nothing to plot.</p>"
    divisor, unit = report.unit
    x = linear([(each.size or 0) / divisor for each in points], LEFT, WIDTH - RIGHT)
    y = logarithmic([end for each in points for end in _ends(each)], HEIGHT - BOTTOM, TOP)
    best, _ = report.recommend()
    places = {id(each): (x.at((each.size or 0) / divisor), y.at(each.value("kld_mean"))) for each in points}
    line = " ".join("{:.1f},{:.1f}".format(*places[id(each)]) for each in report.frontier if id(each) in places)
    marks = "".join(_mark(each, *places[id(each)], y, each in report.frontier, each is best) for each in points)
    labels = "".join(_labels([(_label(each, report), *places[id(each)]) for each in points]))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="size in {unit} against mean KL divergence">'
        f'{"".join(_axes(x, y, unit))}<polyline points="{line}" fill="none" stroke="#777" stroke-dasharray="5 4"/>'
        f"{marks}{labels}</svg>"
    )


def _axes(x: Axis, y: Axis, unit: str) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    for value in y.ticks():
        place = y.at(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 6}" y="{place + 5:.1f}" text-anchor="end">{value:g}</text>'
    for value in x.ticks():
        place = x.at(value)
        yield f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{base}" y2="{base + 5}" stroke="{INK}"/>'
        yield f'<text x="{place:.1f}" y="{base + 20}" text-anchor="middle">{value:g}</text>'
    yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}" stroke="{INK}"/>'
    yield f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">size, {unit}</text>'
    middle = (TOP + base) / 2
    yield f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">KL divergence, nats</text>'


def _mark(variant: MeasuredVariant, x: float, y: float, axis: Axis, filled: bool, best: bool) -> str:
    """A bar for the interval; a disc on the frontier, a circle off it, a cross for what was not published."""
    low, high = (axis.at(end) for end in _ends(variant))
    bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{INK}"/>'
    ring = f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="{INK}"/>' if best else ""
    if not variant.succeeded:
        return f'{bar}<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10" stroke="{INK}" stroke-width="2"/>'
    fill = INK if filled else "#fff"
    return f'{bar}<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{INK}"/>{ring}'


def _ends(variant: MeasuredVariant) -> tuple[float, float]:
    """The interval of the mean divergence, or the value itself; above zero, for the logarithm."""
    metric = variant.metric("kld_mean")
    assert metric is not None
    low, high = metric.ci_low, metric.ci_high
    return low if low and low > 0 else metric.value, high if high and high < math.inf else metric.value


def _label(variant: MeasuredVariant, report: Report) -> str:
    """The parameters' values, after the method's name where there are several methods."""
    several = len({each.method for each in report.variants}) > 1
    values = [shown(value) for value in variant.made_params.values()]
    return shortened(" ".join([variant.method, *values] if several or not values else values), LONGEST_LABEL)


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _labels(points: list[tuple[str, float, float]]) -> Iterator[str]:
    """Each label at the nearest place to its mark that is free, with a line to the mark where that is not beside it."""
    taken: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for _, x, y in points]
    for text, x, y in points:
        own = (x - 9, y - 9, x + 9, y + 9)
        boxes = [box for box in _boxes(len(text) * LETTER_WIDTH, x, y) if _inside(box)]
        free = (box for box in boxes if not any(_overlap(box, each) for each in taken if each != own))
        box = next(free, (boxes or [(x, y, x, y)])[0])
        taken.append(box)
        left, top, right, bottom = box
        if max(top - y, y - bottom) > FONT_SIZE:
            end = bottom if bottom < y else top
            near = min(max(x, left), right)
            yield f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{near:.1f}" y2="{end:.1f}" stroke="#777" stroke-width=".7"/>'
        middle = (left + right) / 2
        yield f'<text class="label" x="{middle:.1f}" y="{bottom - 3:.1f}" text-anchor="middle">{escape(text)}</text>'


def _boxes(width: float, x: float, y: float) -> Iterator[Box]:
    """Places around a mark, nearest first: beside it, then further and further above and below."""
    for far in range(6):
        for down in (-1, 1):
            middle = y + down * FONT_SIZE * (1 + 1.25 * far)
            for left in (x + 6, x - 6 - width, x - width / 2):
                yield left, middle - FONT_SIZE / 2, left + width, middle + FONT_SIZE / 2


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# The strips


def strips(report: Report) -> str:
    """A strip for each variant with a cell for each block, all on one scale, and the scale below."""
    measured = [each for each in report.variants if each.blocks]
    errors = [block.value for each in measured for block in each.blocks if 0 < block.value < math.inf]
    if not errors:
        return "<p>Nothing was measured.</p>"
    scale = _Shades(min(errors), max(errors))
    pitch = STRIP_HEIGHT + STRIP_LABEL + 4
    rows = "".join(_strip(each, number * pitch, scale) for number, each in enumerate(measured))
    base = len(measured) * pitch
    longest = max(measured, key=lambda each: len(each.blocks)).blocks
    return (
        f'<svg viewBox="0 0 {WIDTH} {base + 62}" role="img" aria-label="output error after each block">{rows}'
        f"{''.join(_numbers(longest, base + 12))}{''.join(_legend(scale, base + 36))}</svg>"
    )


class _Shades:
    """Errors to shades, evenly by their logarithm."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def lightness(self, error: float) -> float:
        """Per cent; what is not finite is darkest, zero lightest."""
        if not error > 0 or self.high <= self.low:
            return LIGHTEST
        share = math.log(error / self.low) / math.log(self.high / self.low) if math.isfinite(error) else 1.0
        return LIGHTEST - (LIGHTEST - DARKEST) * min(1.0, max(0.0, share))

    def colour(self, error: float) -> str:
        return f"hsl(215 30% {self.lightness(error):.0f}%)"


def _strip(variant: MeasuredVariant, top: int, scale: _Shades) -> str:
    width = WIDTH / len(variant.blocks)
    cells = "".join(
        _cell(block, number * width, top + STRIP_LABEL, width, scale) for number, block in enumerate(variant.blocks)
    )
    name = escape(shortened(variant.name, int(WIDTH / LETTER_WIDTH)))
    return f'<text x="0" y="{top + STRIP_LABEL - 6}">{name}</text>{cells}'


def _cell(block: Metric, x: float, y: float, width: float, scale: _Shades) -> str:
    title = f"<title>{escape(block.subject)}: {block.value:.4g}</title>"
    cell = (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{STRIP_HEIGHT}" fill="{scale.colour(block.value)}" '
        f'stroke="{"#fff" if width > 4 else "none"}">{title}</rect>'
    )
    if width < NARROWEST_NUMBER:
        return cell
    ink = "#fff" if scale.lightness(block.value) < 50 else INK
    return (
        f'{cell}<text x="{x + width / 2:.1f}" y="{y + 18}" text-anchor="middle" fill="{ink}">{block.value:.2g}</text>'
    )


def _numbers(blocks: Sequence[Metric], y: float) -> Iterator[str]:
    """Below the strips: which block is which, as many as there is room for."""
    width = WIDTH / len(blocks)
    every = max(1, math.ceil(_step(len(blocks)) if len(blocks) > 12 else 1))
    for number in range(0, len(blocks), every):
        name = escape(blocks[number].subject.rpartition(".")[2])
        yield f'<text x="{(number + 0.5) * width:.1f}" y="{y}" text-anchor="middle">{name}</text>'


def _legend(scale: _Shades, y: float) -> Iterator[str]:
    low, high = f"{scale.low:.2g}", f"{scale.high:.2g}"
    x = len(low) * LETTER_WIDTH + 8
    yield f'<text x="0" y="{y + 14}">{low}</text>'
    for number in range(SHADES):
        error = scale.low * (scale.high / scale.low) ** (number / (SHADES - 1))
        yield f'<path d="M{x + 24 * number:.1f} {y}h24v18h-24z" fill="{scale.colour(error)}" stroke="#bbb"/>'
    yield f'<text x="{x + 24 * SHADES + 8:.1f}" y="{y + 14}">{high}</text>'
