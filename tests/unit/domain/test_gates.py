"""Gates: a small grammar, and verdicts that leave no doubt."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmill.contract.errors import RequestRejected, describe
from quantmill.domain.artifacts import Metric
from quantmill.domain.gates import MEASURES, Gate, GateVerdict, judge, parse, refusal

MEASURED = [
    Metric("kld_mean", 0.04, "nat"),
    Metric("perplexity", 40.0, "per token"),
    Metric("perplexity", 20.0, "per token", "source"),
    Metric("size", 4_000_000, "byte"),
    Metric("kld_max", math.nan, "nat"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kld.mean <= 0.05", ("kld.mean", "<=", 0.05)),
        ("  ppl.ratio<1.03 ", ("ppl.ratio", "<", 1.03)),
        ("top1 >= 95e-2", ("top1", ">=", 0.95)),
        ("size_mb > 4000", ("size_mb", ">", 4000.0)),
        ("retention >= -3", ("retention", ">=", -3.0)),
    ],
)
def test_a_gate_is_a_name_a_comparison_and_a_number(text, expected):
    assert parse(text) == Gate(text, *expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kld.mean",
        "kld.mean <=",
        "<= 0.05",
        "kld.mean = 0.05",
        "kld.mean == 0.05",
        "kld.mean != 0.05",
        "kld.mean <= nan",
        "kld.mean <= inf",
        "kld.mean <= 0x10",
        "kld.mean <= 1_000",
        "kld.mean <= .5",
        "kld.mean <= 0.05 and top1 > 0",
        "kld.mean <= __import__('os')",
        "kld.mean <= ١",
        "0.05 >= kld.mean",
        "KLD.MEAN <= 0.05",
    ],
)
def test_anything_else_is_not_a_gate(text):
    with pytest.raises(RequestRejected, match="is not a gate"):
        parse(text)


def test_a_number_beyond_all_bounds_is_refused():
    with pytest.raises(RequestRejected, match="not a finite number"):
        parse("ppl <= 1e999")


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(RequestRejected, match=r"'loss' is not measured; .* kld\.mean, "):
        parse("loss <= 1")


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_refused(text):
    try:
        gate = parse(text)
    except RequestRejected:
        return
    assert gate.name in MEASURES


@pytest.mark.parametrize(
    ("gate", "observed", "passed"),
    [
        ("kld.mean <= 0.04", 0.04, True),
        ("kld.mean < 0.04", 0.04, False),
        ("kld.mean >= 0.04", 0.04, True),
        ("kld.mean > 0.04", 0.04, False),
        ("ppl <= 30", 40.0, False),
        ("size_mb <= 4", 4.0, True),
        ("kld.max <= 100", None, False),
        ("flips <= 1", None, False),
    ],
    ids=str,
)
def test_a_gate_is_met_or_not(gate, observed, passed):
    assert judge([gate], MEASURED) == (GateVerdict(gate, observed, passed),)


def test_a_refusal_names_what_was_missed_and_keeps_everything_that_was_measured():
    error = refusal(judge(["kld.mean <= 0.05", "ppl <= 30", "flips <= 1"], MEASURED), MEASURED)

    assert "ppl <= 30: 40 was observed; flips <= 1: not measured" in error.detail
    assert "kld" not in error.detail
    kept = json.loads(json.dumps(describe(error), allow_nan=False))
    assert (kept["type"], kept["kind"]) == ("/problems/GateFailed", "policy")
    assert [gate["passed"] for gate in kept["gates"]] == [True, False, False]
    assert len(kept["metrics"]) == len(MEASURED)
