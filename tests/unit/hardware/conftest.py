"""Models by their public config.json, and the matcher with the facts of the installed plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from quantmill.contract.facts import FormatFacts
from quantmill.hardware.catalogue import catalogue
from quantmill.hardware.facts import combine
from quantmill.hardware.memory import Load
from quantmill.hardware.models import ModelShape, shape_of
from quantmill.hardware.profiles import Machine
from quantmill.hardware.verdicts import Requirement, Verdict
from quantmill.hardware.verdicts import match as match_verdict
from quantmill.jobs.match import Answer, Asked, Question, answer, described_machine
from quantmill.plugins import load_plugins

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "8B": LLAMA,
    "70B": LLAMA | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                    "num_attention_heads": 64},
    "13B": LLAMA | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
                    "num_key_value_heads": 40, "vocab_size": 32000, "max_position_embeddings": 4096},
    "odd": LLAMA | {"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "head_dim": 64,
                    "num_attention_heads": 64},
    "8x7B": LLAMA | {"architectures": ["MixtralForCausalLM"], "vocab_size": 32000, "num_local_experts": 8,
                     "num_experts_per_tok": 2, "max_position_embeddings": 32768},
    "MLA": {
        "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432,
        "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128, "max_position_embeddings": 163840,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def known() -> FormatFacts:
    return combine(load_plugins().format_facts)


@pytest.fixture(scope="session")
def models() -> Mapping[str, ModelShape]:
    return {name: shape_of(config, name=name) for name, config in CONFIGS.items()}


@pytest.fixture(scope="session")
def recommended(models: Mapping[str, ModelShape]) -> Callable[..., Answer]:
    """Ask for the plans for a model on a device of the catalogue."""
    plugins = load_plugins()

    def ask(device: str, model: str = "8B", objective: Any = "balanced", **more: Any) -> Answer:
        machine = described_machine(device, count=more.pop("count", 1), ram_gb=more.pop("ram", None))
        return answer(plugins, machine, Asked(models[model], None), Question(objective, **more))

    return ask


@pytest.fixture(scope="session")
def verdict(known: FormatFacts, models: Mapping[str, ModelShape]) -> Callable[..., Verdict]:
    """Ask whether a scheme runs in a runtime on a device of the catalogue."""
    schemes = {scheme.name: scheme for scheme in known.schemes}

    def ask(device: str, scheme: str, runtime: str, model: str | None = None, **more: Any) -> Verdict:
        machine: Machine = described_machine(device, count=more.pop("count", 1), ram_gb=more.pop("ram", None))
        load = Load(**more)
        shape = models[model] if model else None
        requirement = Requirement(schemes[scheme], runtime, shape, None, load)
        return match_verdict(machine, requirement, known.facts, catalogue())

    return ask
