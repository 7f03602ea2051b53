"""The report of a comparison: what it recommends, and that it stands alone."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser

import pytest

from quantmill.domain.artifacts import Metric
from quantmill.evaluation.page import page
from quantmill.evaluation.report import MeasuredVariant, Report


def variant(type_: str, size: int, ratio: float, kld: float) -> MeasuredVariant:
    return MeasuredVariant(
        method="gguf",
        params={"type": type_},
        state="succeeded",
        seconds=3.25,
        size=size,
        digest="sha256:" + "0" * 64,
        metrics=(
            Metric("perplexity", 32.0, "per token", "source", 1022, False, 30.0, 34.0),
            Metric("perplexity", 32.0 * ratio, "per token", "artifact", 1022, False, 30.0 * ratio, 34.0 * ratio),
            Metric("perplexity_ratio", ratio, "", "artifact", 1022, False, ratio - 0.005, ratio + 0.005),
            Metric("retention", 100 * (2 - ratio), "%", "artifact", 1022, True),
            Metric("kld_mean", kld, "nat", "artifact", 1022, False, kld * 0.9, kld * 1.1),
            Metric("kld_max", float("nan"), "nat", "artifact", 1022, False),
            Metric("top1_agreement", 1 - kld, "share", "artifact", 1022, True),
            *(
                Metric("output_error", kld * (1 + block), "", f"model.layers.{block}", 1022, False)
                for block in (10, 2, 0, 1)
            ),
        ),
    )


FINE = variant("Q8_0", 4_600_000, 1.001, 0.0005)
GOOD = variant("Q5_K_M", 3_000_000, 1.012, 0.008)
DOMINATED = variant("Q5_0", 3_100_000, 1.02, 0.02)
COARSE = variant("Q4_0", 2_500_000, 1.06, 0.05)
FAILED = MeasuredVariant("gguf", {"type": "Q2_K"}, "failed", 1.0, error="<script>alert(1)</script>")
ALL = (FINE, GOOD, DOMINATED, COARSE, FAILED)


def compared(*variants: MeasuredVariant) -> Report:
    return Report("/models/my model", 8_400_000, "text.txt", variants, "0.1.0")


def test_the_frontier_leaves_out_what_another_beats_in_size_and_divergence():
    assert compared(*ALL).frontier == [COARSE, GOOD, FINE]


def test_the_smallest_that_keeps_its_perplexity_is_recommended_with_the_reason():
    best, reason = compared(*ALL).recommend()

    assert best is GOOD
    assert "at most 3 % above" in reason
    assert "+1.20 %" in reason


def test_the_nearest_is_recommended_where_none_keeps_its_perplexity():
    best, reason = compared(COARSE, FAILED).recommend()

    assert best is COARSE
    assert "none keeps its perplexity" in reason


def test_nothing_is_recommended_where_nothing_succeeded():
    assert compared(FAILED).recommend() == (None, "no variant succeeded.")


def test_json_and_csv_hold_every_variant():
    report = compared(*ALL)
    whole = json.loads(report.to_json())
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))

    assert [each["name"] for each in whole["variants"]] == [line["variant"] for line in lines]
    assert whole["recommendation"]["variant"] == "gguf type=Q5_K_M"
    assert [line["state"] for line in lines] == ["succeeded"] * 4 + ["failed"]
    assert (lines[0]["kld_mean"], lines[0]["kld_max"], lines[4]["kld_mean"]) == ("0.0005", "", "")


def test_a_command_makes_a_variant_again():
    assert compared(GOOD).command(GOOD) == (
        "quantmill quantize '/models/my model' --method gguf --set type=Q5_K_M --evaluate text.txt --output gguf-Q5_K_M"
    )


def test_blocks_are_in_the_order_of_the_model():
    assert [each.subject.split(".")[-1] for each in FINE.blocks] == ["0", "1", "2", "10"]


class Seen(HTMLParser):
    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src", "action", "xlink:href"}]


@pytest.mark.parametrize("variants", [ALL, (FINE,), (FAILED,), (variant("F16", 8_000_000, 1.0, 0.0),)], ids=len)
def test_the_page_needs_no_network_and_runs_no_script(variants):
    document = page(compared(*variants))
    seen = Seen(document)

    assert "script" not in seen.tags
    assert seen.addresses == ["data:,"]
    assert "http://" not in document
    assert "https://" not in document
    assert "url(" not in document


def test_the_page_shows_a_plot_strips_and_a_row_for_each_variant():
    seen = Seen(page(compared(*ALL)))

    assert seen.tags.count("tr") == 1 + 1 + len(ALL)
    assert seen.tags.count("circle") == 4
    assert seen.tags.count("rect") == 4 * 4


def test_what_a_model_or_an_error_says_is_escaped():
    document = page(Report("<img src=x>", 1, "<b>", (FAILED,), "0"))

    assert "<img" not in document
    assert "<script" not in document
    assert "&lt;script&gt;" in document
