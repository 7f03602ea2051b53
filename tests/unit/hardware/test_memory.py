"""Bytes: weights, KV cache and what is left for a runtime, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from quantmill.contract.errors import SourceRejected
from quantmill.contract.facts import FormatFacts
from quantmill.hardware.models import ModelShape, shape_of
from quantmill.hardware.verdicts import Verdict
from quantmill.jobs.match import Question, answer, described_machine, read_model
from quantmill.jobs.plan import plan_folder
from quantmill.plugins import load_plugins

MODEL = Path(__file__).parents[2] / "data" / "millstone-4m"

PARAMETERS = [
    ("8B", 8_030_261_248),  # the checkpoint's own count of Llama-3.1-8B
    ("70B", 70_553_706_496),  # and of Llama-3.1-70B
    ("8x7B", 46_701_744_128),  # Mixtral, without its routers
]


@pytest.mark.parametrize(("model", "parameters"), PARAMETERS)
def test_parameters_follow_from_the_dimensions(models: Mapping[str, ModelShape], model: str, parameters: int) -> None:
    assert models[model].parameters == parameters


CACHES = [
    ("8B", False, 2 * 8 * 128 * 32),  # keys and values of 8 of 32 heads: GQA
    ("70B", False, 2 * 8 * 128 * 80),
    ("13B", False, 2 * 40 * 128 * 40),  # every head its own
    ("MLA", True, (512 + 64) * 61),  # the latent and the rope part
    ("MLA", False, 128 * (192 + 128) * 61),  # keys and values of all heads
]


@pytest.mark.parametrize(("model", "compressed", "values"), CACHES)
def test_a_token_takes_this_many_values_of_cache(
    models: Mapping[str, ModelShape], model: str, compressed: bool, values: int
) -> None:
    cache = models[model].cache

    assert cache is not None
    assert cache.values(1, compressed=compressed) == values


def test_windowed_layers_keep_their_window_only() -> None:
    layers = ["sliding_attention"] * 5 + ["full_attention"]
    config = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 10, "head_dim": 16}

    cache = shape_of(config | {"layer_types": layers, "sliding_window": 512}).cache

    assert cache is not None
    assert cache.values(4096, compressed=False) == 2 * 4 * 16 * (4096 + 5 * 512)


def test_a_mixture_reads_only_the_experts_that_a_token_uses(models: Mapping[str, ModelShape]) -> None:
    assert models["8x7B"].active_share == pytest.approx(12.6 / 46.4, rel=0.01)  # 2 of 8 experts, all of the attention
    assert models["8B"].active_share == 1


def test_decoding_is_bound_by_the_bytes_of_a_token(verdict: Callable[..., Verdict]) -> None:
    found = verdict("RTX 4090", "gguf-Q8_0", "llama.cpp", "8B", context=1)

    assert found.placement is not None
    assert found.placement.tokens_per_second == pytest.approx(1008e9 / (8.03e9 * 8.5 / 8), rel=0.01)


def test_where_a_bandwidth_is_not_known_no_speed_is_told(verdict: Callable[..., Verdict]) -> None:
    found = verdict("T4", "gguf-Q4_K_M", "llama.cpp", "8B")

    assert found.placement is not None
    assert found.placement.tokens_per_second is None


@pytest.mark.parametrize("type_", ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0"])
def test_weights_are_the_plans_where_the_method_is_installed(type_: str) -> None:
    plugins = load_plugins()
    planned = plan_folder(plugins.method("gguf"), MODEL, {"type": type_})

    found = answer(plugins, described_machine("RTX 4090"), read_model(MODEL), Question())
    plan = next(each for each in found.plans if each.scheme.name == f"gguf-{type_}")

    assert plan.verdict.placement is not None
    assert plan.verdict.placement.memory.weights == planned.plan.nbytes
    assert plan.verdict.placement.memory.exact_weights


@pytest.mark.parametrize("type_", ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0"])
def test_a_schemes_bits_come_close_to_its_plan(known: FormatFacts, type_: str) -> None:
    planned = plan_folder(load_plugins().method("gguf"), MODEL, {"type": type_})
    scheme = next(scheme for scheme in known.schemes if scheme.name == f"gguf-{type_}")

    assert read_model(MODEL).shape.weights(scheme).nbytes == pytest.approx(planned.plan.nbytes, rel=0.03)


NONSENSE = [
    ({"hidden_size": -1}, "hidden_size must be a positive integer"),
    ({"hidden_size": 10**30}, "hidden_size must be a positive integer"),
    ({"hidden_size": True}, "hidden_size must be a positive integer"),
    ({"num_hidden_layers": None}, "no num_hidden_layers"),
    ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 key/value heads"),
    ({"num_experts": 4, "num_experts_per_tok": 5}, "a token uses 5 experts of 4"),
]


@pytest.mark.parametrize(("change", "said"), NONSENSE, ids=[said for _, said in NONSENSE])
def test_figures_that_no_model_has_are_refused_by_name(change: dict[str, object], said: str) -> None:
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 10}

    with pytest.raises(SourceRejected, match=said):
        shape_of(config | change)
