"""The facts table, and what plugins add to it."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from quantmill.contract import Fact, FormatFacts, HardwareNeed, Measured, Scheme, hookimpl
from quantmill.hardware.facts import KNOWN, combine
from quantmill.hardware.runtimes import ON_GPU, ON_PROCESSOR, RUNTIMES
from quantmill.plugins import load_plugins

ROWS = combine(load_plugins().format_facts)


@pytest.mark.parametrize("fact", ROWS.facts, ids=lambda fact: f"{fact.format} {fact.runtime} {fact.kernel}")
def test_a_fact_names_its_source_and_a_runtime_that_is_known(fact: Fact) -> None:
    assert fact.source
    assert fact.runtime in RUNTIMES
    assert fact.support != "unsupported" or fact.note
    assert fact.support == "unsupported" or fact.kernel
    assert fact.format in {scheme.format for scheme in ROWS.schemes}


@pytest.mark.parametrize("scheme", ROWS.schemes, ids=lambda scheme: scheme.name)
def test_a_scheme_names_its_source_and_that_of_each_figure(scheme: Scheme) -> None:
    assert scheme.source
    assert all(figure.source for figure in scheme.quality)
    assert any(fact.format == scheme.format for fact in ROWS.facts)
    assert bool(scheme.method) == bool(scheme.params)


def test_every_runtime_has_its_place_in_both_orders() -> None:
    assert set(ON_GPU) == set(ON_PROCESSOR) == set(RUNTIMES)


def test_gguf_is_told_by_its_plugin_alone() -> None:
    assert "gguf" not in {fact.format for fact in KNOWN.facts}
    assert "gguf" in {fact.format for fact in ROWS.facts}


def told(kernel: str) -> FormatFacts:
    need = HardwareNeed("gpu", ("acme",))
    return FormatFacts(
        (Scheme("anvil-4bit", "anvil", {"bits": 4}, "anvil", 4, 4.5, 16, 16, "acme"),),
        (Fact("anvil", "vllm", need, "native", kernel, "acme"), Fact("awq", "vllm", need, "native", kernel, "acme")),
    )


def test_a_plugins_word_on_a_format_in_a_runtime_takes_the_place_of_ours() -> None:
    rows = combine([told("hammer")])

    assert [fact.kernel for fact in rows.facts if (fact.format, fact.runtime) == ("awq", "vllm")] == ["hammer"]
    assert len([fact for fact in rows.facts if (fact.format, fact.runtime) == ("awq", "transformers")]) > 1
    assert "anvil-4bit" in {scheme.name for scheme in rows.schemes}


def test_the_order_of_plugins_makes_no_difference() -> None:
    other = FormatFacts((Scheme("b", "b", {}, "b", 4, 4, 4, 4, "b", quality=(Measured("x", 1, "b"),)),))

    assert combine([told("hammer"), other]) == combine([other, told("hammer")])


def test_a_plugin_tells_its_facts_through_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ModuleType("acme_plugin")
    plugin.quantmill_runtimes = hookimpl(quantmill_runtimes)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acme_plugin", plugin)

    loaded = load_plugins([EntryPoint("acme", "acme_plugin", "quantmill.plugins")])

    assert loaded.failures == ()
    assert loaded.format_facts == (told("hammer"),)


def test_a_plugin_whose_facts_cannot_be_had_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ModuleType("acme_plugin")
    plugin.quantmill_runtimes = hookimpl(broken)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acme_plugin", plugin)

    loaded = load_plugins([EntryPoint("acme", "acme_plugin", "quantmill.plugins")])

    assert [failure.reason for failure in loaded.failures] == ["ValueError: no anvil"]


def quantmill_runtimes() -> list[FormatFacts]:
    return [told("hammer")]


def broken() -> list[FormatFacts]:
    raise ValueError("no anvil")
