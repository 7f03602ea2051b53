"""The report in a browser: on a phone, on a screen and on paper."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantmill.domain.artifacts import Metric
from quantmill.evaluation.page import page
from quantmill.evaluation.report import MeasuredVariant, Report
from servers.chromium import Page

if TYPE_CHECKING:
    from servers.chromium import Chromium

PHONE, DESKTOP, PAPER = 390, 1000, 680  # CSS pixels; the last is A4 without its margins
OUTSIDE = """
[...document.querySelectorAll('body *')].filter(part => part.getBoundingClientRect().right > innerWidth + 1)
    .map(part => part.outerHTML.slice(0, 80))
"""
SCROLLED = """
[...document.querySelectorAll('body *:not(svg *)')].filter(part => part.scrollWidth > part.clientWidth + 1)
    .filter(part => getComputedStyle(part).display != 'inline').map(part => part.outerHTML.slice(0, 80))
"""
OVERLAPPING = """
(() => {
    const boxes = [...document.querySelectorAll('svg .label')].map(label => label.getBoundingClientRect());
    const beside = (one, other) => one.right <= other.left || other.right <= one.left;
    const above = (one, other) => one.bottom <= other.top + 3 || other.bottom <= one.top + 3;
    return boxes.some((one, index) => boxes.slice(index + 1).some(other => !beside(one, other) && !above(one, other)));
})()
"""


def measured(method: str, params: dict[str, Any], size: int, kld: float, error: str | None = None) -> MeasuredVariant:
    """A variant of a model of 48 blocks; one with an error missed its gates."""
    chance = random.Random(size)
    values = [
        Metric("bits_per_weight", size * 8 / 8e9, "bit"),
        Metric("perplexity", 6.0, "", "source", 70518, False, 5.7, 6.3),
        Metric("perplexity", 6 + 6 * kld, "", "artifact", 70518, False, 5.7 + 6 * kld, 6.3 + 6 * kld),
        Metric("perplexity_ratio", 1 + kld, "", "artifact", 70518, False, 1 + 0.9 * kld, 1 + 1.1 * kld),
        Metric("retention", 100 - 100 * kld, "%", "artifact", 70518, True, 100 - 110 * kld, 100 - 90 * kld),
        Metric("kld_mean", kld, "nat", "artifact", 70518, False, 0.7 * kld, 1.4 * kld),
        Metric("kld_p99", 9 * kld, "nat"),
        Metric("top1_agreement", 1 - kld, "share", "artifact", 70518, True, 1 - 1.2 * kld, 1 - 0.8 * kld),
        Metric("continuation_agreement", 1 - 4 * kld / (1 + 4 * kld), "share", "artifact", 2560, True, 0.2, 0.999),
        Metric("predicted_memory", 17.6e9, "byte at 8192 tokens", "source"),
        Metric("predicted_memory", size + 1.5e9, "byte at 8192 tokens"),
        Metric("load_seconds", 12.25, "s in llama.cpp", n=1),
        Metric("prompt_speed", 410.6, "token/s in llama.cpp", n=128),
        Metric("generation_speed", 41.23, "token/s in llama.cpp", "artifact", 160, True, 40.01, 42.22),
        Metric("measured_memory", size + 9e8, "byte in llama.cpp", n=1),
        *(Metric("output_error", (1 + kld) * chance.random(), "", f"model.layers.{block}") for block in range(48)),
    ]
    digest = None if error else "sha256:" + "0" * 64
    return MeasuredVariant(
        method, params, "failed" if error else "succeeded", 4711.5, size, digest, error, tuple(values)
    )


MIXED = {"type": "Q4_K_M", "overrides": {"blk.*.ffn_down.weight": "Q6_K", "blk.1?.attn_v.weight": "Q8_0"}}
LARGE = Report(
    "/models/an-organisation-with-a-long-name/Some-Model-8B-Instruct",
    16_060_000_000,
    "/texts/evaluation.txt",
    (
        measured("gguf", {"type": "F16"}, 16_000_000_000, 0.0),
        measured("gguf", {"type": "Q8_0"}, 8_500_000_000, 2e-5),
        measured("gguf", {"type": "Q4_K_M"}, 4_920_000_000, 0.011),
        measured("gguf", MIXED, 5_000_000_000, 0.0105),
        measured("gptq", {"bits": 4, "group_size": 128}, 4_950_000_000, 0.014),
        measured("awq", {"bits": 4}, 4_910_000_000, 0.0125),
        measured("hqq", {"nbits": 2}, 2_600_000_000, 0.6, "not met: kld.mean <= 0.05: 0.6 was observed."),
        MeasuredVariant(
            "bnb", {}, "failed", 1.5, error="A tensor holds NaN: model.layers.3.mlp.down_proj.weight row 7"
        ),
    ),
    "0.1.0",
)


@pytest.fixture(params=["of a service", "of a large model"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a report is: one of jobs that have run, over HTTP, and one with long names, many blocks and failures."""
    if request.param == "of a service":
        service, compared = (request.getfixturevalue(name) for name in ("service", "compared"))
        return f"{service.url}{compared.report['html']}"
    path = tmp_path / "report.html"
    path.write_text(page(LARGE))
    return path.as_uri()


@pytest.mark.parametrize(("width", "media"), [(PHONE, "screen"), (DESKTOP, "screen"), (PAPER, "print")])
def test_the_report_fits_and_the_browser_has_nothing_to_say(chromium: Chromium, url, width, media, tmp_path):
    shown = Page(chromium, url, width, media=media)

    shot = shown.screenshot(tmp_path / f"{media}-{width}.png")

    assert shown.complaints() == []
    assert {address for address in shown.requests() if not address.startswith("data:")} == {url}
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    assert shown.evaluate(OUTSIDE) == []
    assert shown.evaluate(SCROLLED) == []
    assert shown.evaluate(OVERLAPPING) is False
    assert shot.stat().st_size > 20_000


def test_the_report_can_be_printed(chromium: Chromium, url):
    assert Page(chromium, url, DESKTOP).pdf().startswith(b"%PDF-")
