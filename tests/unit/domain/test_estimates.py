"""Estimates: a formula, corrected by what such jobs took before."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmill.domain.estimates import Estimate, Features, Interval, Run, error_of, predict


def test_without_history_the_formula_stands_and_its_interval_is_wide():
    assert predict(12.0, []) == Interval(12.0, 4.0, 36.0)


def test_one_run_scales_the_formula():
    found = predict(20.0, [(10.0, 30.0)])

    assert found.expected == pytest.approx(60.0)
    assert found.least < 45 < found.most < 120


def test_runs_of_several_sizes_give_a_line():
    runs = [(size, 4.0 + 2.5 * size) for size in (1.0, 2.0, 5.0, 10.0)]

    found = predict(40.0, runs)

    assert found.expected == pytest.approx(104.0)


def test_runs_of_one_size_give_a_factor():
    found = predict(20.0, [(10.0, 30.0), (10.0, 32.0), (10.1, 31.0)])

    assert found.expected == pytest.approx(62.0, rel=0.02)


def test_outliers_do_not_move_the_line():
    runs = [(size, 4.0 + 2.5 * size) for size in (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 13.0, 20.0)]
    runs += [(2.5, 900.0), (9.0, 1200.0)]

    assert predict(40.0, runs).expected == pytest.approx(104.0, rel=0.05)


def test_after_twenty_runs_the_error_is_that_of_the_noise():
    random_ = random.Random(0)

    def took(size):
        return (3.0 + 1.7 * size) * random_.lognormvariate(0, 0.15)

    runs = [(size, took(size)) for size in (random_.uniform(1, 50) for _ in range(20))]
    later = [(size, took(size)) for size in (random_.uniform(1, 50) for _ in range(200))]

    guesses = [(predict(size, runs), seconds) for size, seconds in later]
    errors = sorted(abs(guess.expected - seconds) / seconds for guess, seconds in guesses)

    assert errors[100] < 0.15
    assert errors[180] < 0.35
    assert sum(guess.least <= seconds <= guess.most for guess, seconds in guesses) > 170


@given(
    feature=st.floats(0.1, 1e6),
    runs=st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.001, 1e7)), max_size=12),
)
def test_whatever_came_before_an_interval_holds_what_is_expected(feature, runs):
    found = predict(feature, runs)

    assert 0 < found.least <= found.expected <= found.most


def test_an_estimate_reads_back_and_knows_its_error():
    seconds, memory = Interval(12.0, 6.0, 24.0), Interval(9e8, 8e8, 1e9)
    estimate = Estimate(100, memory, 300, seconds, Features(10.0, 800), 4, "Xeon, 2 CPUs")

    assert Estimate.from_json(estimate.to_json()) == estimate
    assert error_of(estimate, Run(estimate.features, 10.0, 1_000_000_000)) == pytest.approx((0.2, 0.1))
