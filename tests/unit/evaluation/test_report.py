"""The report of a comparison: what it recommends, and that it stands alone."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from quantmill.domain.artifacts import Metric
from quantmill.domain.escalation import Step
from quantmill.domain.gates import GateVerdict
from quantmill.evaluation.page import page
from quantmill.evaluation.plots import linear, logarithmic
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


def test_a_command_carries_the_seed_and_names_a_plain_folder():
    mixed = replace(GOOD, params={"type": "Q4_0", "overrides": {"blk.*": "Q6_K"}})

    command = replace(compared(mixed), seed=7).command(mixed)

    assert "--seed 7" in command
    assert """--set 'overrides={"blk.*": "Q6_K"}'""" in command
    assert command.endswith("--output gguf-Q4_0-blk.-Q6_K")


def test_a_command_calibrates_a_variant_that_was_calibrated():
    calibrated = replace(GOOD, calibration={"text": "/texts/a b.txt", "samples": 64, "packing": "documents"})

    command = compared(calibrated).command(calibrated)

    assert "--calibration '/texts/a b.txt' --calibrate samples=64 --calibrate packing=documents --evaluate" in command


def test_a_command_measures_as_the_comparison_did():
    report = replace(compared(GOOD), evaluation={"window": 256, "tasks": ["piqa", "arc_easy"]})

    assert "--measure window=256 --measure tasks=piqa --measure tasks=arc_easy --output" in report.command(GOOD)
    assert json.loads(report.to_json())["evaluation"] == {"window": 256, "tasks": ["piqa", "arc_easy"]}


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


def running(made: MeasuredVariant) -> MeasuredVariant:
    """With what it takes to run it."""
    found = (
        Metric("continuation_agreement", 0.875, "share", "artifact", 2560, True, 0.85, 0.9),
        Metric("predicted_memory", 12_345_678, "byte at 512 tokens", "source"),
        Metric("predicted_memory", 6_543_210, "byte at 512 tokens"),
        Metric("load_seconds", 0.256, "s in llama.cpp", n=1),
        Metric("generation_speed", 123.4, "token/s in llama.cpp", "artifact", 160, True, 120.0, 125.6),
    )
    return replace(made, metrics=made.metrics + found)


def test_the_page_says_what_it_takes_to_run_what_was_measured():
    document = page(compared(running(GOOD), COARSE))
    lost, run = re.findall(r"<table>.*?</table>", document, re.DOTALL)

    assert "0.88<small>0.85–0.90" in lost
    assert re.findall(r"<th>([^<]*)</th>", run) == [
        "variant", "MB", "memory, MB", "load, s", "writes, token/s", "runtime", "job, s",
    ]  # fmt: skip
    figures = (">12.35<", ">6.54<", ">0.26<", ">123<small>120–126<", ">llama.cpp<", ">3.2<")
    assert [each for each in figures if each not in run] == []
    assert "activations at 512 tokens" in document
    assert "writing 160 tokens" in document


def test_csv_holds_what_it_takes_to_run_a_variant():
    (line, _) = csv.DictReader(io.StringIO(compared(running(GOOD), COARSE).to_csv()))

    assert (line["predicted_memory"], line["load_seconds"], line["measured_memory"]) == ("6543210", "0.256", "")
    assert (line["generation_speed"], line["continuation_agreement"]) == ("123.4", "0.875")


def test_the_page_shows_a_plot_strips_and_a_row_for_each_variant():
    seen = Seen(page(compared(*ALL)))

    assert seen.tags.count("tr") == 2 * (1 + 1 + len(ALL)) + 1  # two heads and sources, and why one failed
    assert seen.tags.count("circle") == 4 + 1  # one is ringed
    assert seen.tags.count("rect") == 4 * 4


def test_what_missed_a_gate_is_crossed_and_neither_on_the_frontier_nor_recommended():
    missed = replace(FINE, state="failed", digest=None, error="not met: size_mb <= 4: 4.6 was observed.")
    report = compared(missed, GOOD)

    assert report.frontier == [GOOD]
    assert report.recommend()[0] is GOOD
    assert page(report).count("l10 10m0 -10l-10 10") == 1
    assert "4.6 was observed" in page(report)


def test_an_escalated_variant_is_named_and_made_again_by_what_it_became():
    step = Step({"type": "Q5_0", "pure": False}, 3_100_000, (GateVerdict("kld.mean <= 0.01", 0.02, False),))
    grown = replace(GOOD, params={"type": "Q5_0"}, made_with={"type": "Q5_K_M"}, steps=(step,))
    report = compared(grown)

    assert grown.name == "gguf type=Q5_0 → type=Q5_K_M"
    assert "--set type=Q5_K_M" in report.command(grown)
    assert "Gates were not met with type=Q5_0 (kld.mean &lt;= 0.01: 0.02)." in page(report)
    (written,) = json.loads(report.to_json())["variants"]
    assert (written["params"], written["made_with"]) == ({"type": "Q5_0"}, {"type": "Q5_K_M"})
    assert written["steps"][0]["size"] == 3_100_000


def test_worse_blocks_are_darker_whatever_the_colour():
    cells = re.findall(r"hsl\(215 30% (\d+)%\)\"[^>]*><title>[^:]*: ([^<]*)</title>", page(compared(*ALL)))
    by_error = [int(lightness) for lightness, error in sorted(cells, key=lambda cell: float(cell[1]))]

    assert len(by_error) == 16
    assert by_error == sorted(by_error, reverse=True)
    assert by_error[0] - by_error[-1] > 70


@pytest.mark.parametrize(
    ("sizes", "ticks"),
    [
        ([2.77, 4.6], ["2.5", "3", "3.5", "4", "4.5"]),
        ([4.0], ["3.8", "3.9", "4", "4.1", "4.2"]),
        ([0.0, 70.0], ["0", "20", "40", "60", "80"]),
    ],
)
def test_sizes_have_round_ticks(sizes, ticks):
    assert [f"{tick:g}" for tick in linear(sizes, 0, 100).ticks()] == ticks


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0001, 0.015], ["0.0001", "0.001", "0.01"]),
        ([0.011, 0.013], ["0.01", "0.02"]),
        ([0.3], ["0.2", "0.3", "0.4"]),
    ],
)
def test_divergences_have_two_ticks_or_more(values, ticks):
    assert [f"{tick:g}" for tick in logarithmic(values, 0, 100).ticks()] == ticks


def test_sizes_of_large_models_are_in_gigabytes():
    large = replace(GOOD, size=4_300_000_000)

    assert ">4.30<" in page(Report("m", 16_060_000_000, "t", (large,), "0"))


def test_what_a_model_or_an_error_says_is_escaped():
    document = page(Report("<img src=x>", 1, "<b>", (FAILED,), "0"))

    assert "<img" not in document
    assert "<script" not in document
    assert "&lt;script&gt;" in document
