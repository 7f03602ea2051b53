"""What is recommended for a Llama of 8 billion parameters on every class of device, the articles' choices among it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantmill.hardware.choices import CHOICES
from quantmill.hardware.recommend import Answer

# device, objective, verdict of the best plan, its scheme, the runtime that is named first
CASES = [
    # balanced
    ("H100", "balanced", "yes", "fp8-dynamic", "vllm"),
    ("L4", "balanced", "yes", "fp8-dynamic", "vllm"),
    ("RTX 4090", "balanced", "yes", "fp8-dynamic", "vllm"),
    ("RTX 4060", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("A100 80GB", "balanced", "yes", "awq-4bit-g128", "vllm"),
    ("RTX 3090", "balanced", "yes", "awq-4bit-g128", "vllm"),
    ("T4", "balanced", "yes", "gptq-4bit-g128", "vllm"),
    ("RTX 2080 Ti", "balanced", "yes", "gptq-4bit-g128", "vllm"),
    ("V100 32GB", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Tesla P40", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("GTX 1080", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Tesla K80", "balanced", "no", "", ""),
    ("B200", "balanced", "yes", "nvfp4a16", "vllm"),
    ("RTX 5090", "balanced", "yes", "nvfp4a16", "vllm"),
    ("RTX 5060", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("MI300X", "balanced", "yes", "fp8-dynamic", "vllm"),
    ("MI210", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("RX 7900 XTX", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Arc A770", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Gaudi 3", "balanced", "yes", "bnb-nf4", "transformers"),
    ("M1 16GB", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("M2 Max 64GB", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("EPYC Genoa", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Xeon Sapphire Rapids", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Core i7-2600K", "balanced", "degraded", "gguf-Q4_K_M", "llama.cpp"),
    ("Graviton3", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Raspberry Pi 5 8GB", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Raspberry Pi 4 8GB", "balanced", "degraded", "gguf-Q4_K_M", "llama.cpp"),
    ("Snapdragon 8 Elite", "balanced", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("Edge TPU", "balanced", "no", "", ""),
    ("Hexagon", "balanced", "no", "", ""),
    ("Inferentia2", "balanced", "no", "", ""),
    ("TPU v5e", "balanced", "no", "", ""),
    # quality
    ("H100", "quality", "yes", "fp8-dynamic", "vllm"),
    ("RTX 4090", "quality", "yes", "fp8-dynamic", "vllm"),
    ("RTX 4060", "quality", "yes", "awq-4bit-g128", "transformers"),
    ("A100 80GB", "quality", "yes", "gptq-8bit-g128", "vllm"),
    ("RTX 3090", "quality", "yes", "gptq-8bit-g128", "vllm"),
    ("RTX 3060", "quality", "yes", "gptq-8bit-g128", "transformers"),
    ("T4", "quality", "yes", "gptq-8bit-g128", "vllm"),
    ("RTX 2080 Ti", "quality", "yes", "gguf-Q8_0", "llama.cpp"),
    ("Tesla P40", "quality", "yes", "gptq-8bit-g128", "vllm"),
    ("B200", "quality", "yes", "fp8-dynamic", "vllm"),
    ("MI300X", "quality", "yes", "fp8-dynamic", "vllm"),
    ("RX 6800", "quality", "yes", "gguf-Q8_0", "llama.cpp"),
    ("Arc B580", "quality", "yes", "gguf-Q8_0", "llama.cpp"),
    ("M4 Pro 48GB", "quality", "yes", "gguf-Q8_0", "llama.cpp"),
    ("EPYC Milan", "quality", "yes", "gguf-Q8_0", "llama.cpp"),
    ("Raspberry Pi 5 8GB", "quality", "yes", "gguf-Q5_K_M", "llama.cpp"),
    ("Edge TPU", "quality", "no", "", ""),
    # speed
    ("H100", "speed", "yes", "gptq-4bit-g128", "vllm"),
    ("RTX 4090", "speed", "yes", "gptq-4bit-g128", "vllm"),
    ("A100 80GB", "speed", "yes", "gptq-4bit-g128", "vllm"),
    ("RTX 3060", "speed", "yes", "gptq-4bit-g128", "vllm"),
    ("T4", "speed", "yes", "gptq-4bit-g128", "vllm"),
    ("V100 32GB", "speed", "yes", "gguf-Q4_0", "llama.cpp"),
    ("B200", "speed", "yes", "nvfp4", "vllm"),
    ("RTX 5090", "speed", "yes", "nvfp4", "vllm"),
    ("MI300X", "speed", "yes", "gguf-Q4_0", "llama.cpp"),
    ("RX 6800", "speed", "yes", "gguf-Q4_0", "llama.cpp"),
    ("M2 Max 64GB", "speed", "yes", "gguf-Q4_0", "llama.cpp"),
    ("Ryzen 9 7950X", "speed", "yes", "gguf-Q4_0", "llama.cpp"),
    ("Graviton3", "speed", "yes", "gguf-Q4_0", "llama.cpp"),
    # size
    ("RTX 4090", "size", "yes", "hqq-2bit-g64", "transformers"),
    ("T4", "size", "yes", "hqq-2bit-g64", "transformers"),
    ("MI210", "size", "yes", "gguf-Q2_K", "llama.cpp"),
    ("M1 16GB", "size", "yes", "gguf-Q2_K", "llama.cpp"),
    ("M2 Max 64GB", "size", "yes", "gguf-Q2_K", "llama.cpp"),
    ("EPYC Milan", "size", "yes", "gguf-Q2_K", "llama.cpp"),
    ("Raspberry Pi 4 8GB", "size", "degraded", "gguf-Q2_K", "llama.cpp"),
    # fine-tuning
    ("H100", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("RTX 4090", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("RTX 3060", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("T4", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("GTX 1080", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("MI300X", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("Arc A770", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("Gaudi 3", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("M2 Max 64GB", "fine-tuning", "no", "", ""),
    ("EPYC Genoa", "fine-tuning", "yes", "bnb-nf4", "transformers"),
    ("EPYC Milan", "fine-tuning", "degraded", "bnb-nf4", "transformers"),
    ("Edge TPU", "fine-tuning", "no", "", ""),
    # prototyping
    ("H100", "prototyping", "yes", "bnb-nf4", "transformers"),
    ("RTX 4060", "prototyping", "yes", "bnb-nf4", "transformers"),
    ("T4", "prototyping", "yes", "bnb-nf4", "transformers"),
    ("B200", "prototyping", "yes", "bnb-nf4", "transformers"),
    ("RX 7900 XTX", "prototyping", "yes", "bnb-nf4", "transformers"),
    ("M2 Max 64GB", "prototyping", "yes", "gguf-Q4_K_M", "llama.cpp"),
    ("EPYC Genoa", "prototyping", "yes", "gguf-Q4_K_M", "llama.cpp"),
]


@pytest.mark.parametrize(("device", "objective", "answer", "scheme", "runtime"), CASES)
def test_the_best_plan_for_an_8b_model(
    recommended: Callable[..., Answer], device: str, objective: str, answer: str, scheme: str, runtime: str
) -> None:
    found = recommended(device, "8B", objective)

    if answer == "no":
        assert (found.plans, bool(found.nearest)) == ((), True)
    else:
        best = found.plans[0]
        assert (best.verdict.answer, best.scheme.name, best.runtime) == (answer, scheme, runtime)
        assert best.why
        assert best.verdict.reasons


# The articles' own sentences: hardware and wish -> schemes that must be among the first three
ARTICLES = [
    ("A100 80GB", "quality", {"gptq-8bit-g128"}),  # NVIDIA for quality: 8 bits,
    ("RTX 4060", "quality", {"awq-4bit-g128"}),  # AWQ or HQQ where 8 bits do not fit
    ("A100 80GB", "speed", {"gptq-4bit-g128", "awq-4bit-g128"}),  # NVIDIA for speed: 4 bits with Marlin
    ("H100", "balanced", {"fp8-dynamic"}),  # production on H100 and Ada: FP8 in vLLM
    ("L40S", "balanced", {"fp8-dynamic"}),
    ("A10", "balanced", {"awq-4bit-g128", "gptq-4bit-g128"}),  # Ampere: W4A16 with Marlin
    ("T4", "balanced", {"gptq-4bit-g128", "awq-4bit-g128"}),  # Turing: without Marlin
    ("EPYC Genoa", "balanced", {"gguf-Q4_K_M", "gguf-Q5_K_M"}),  # CPU and Mac, balanced
    ("M3 Pro", "balanced", {"gguf-Q4_K_M", "gguf-Q5_K_M"}),
    ("Core i9-14900K", "size", {"gguf-Q2_K", "gguf-Q3_K_S"}),  # CPU and Mac, smallest
    ("M2 16GB", "size", {"gguf-Q2_K", "gguf-Q3_K_S"}),
    ("RTX 3090", "fine-tuning", {"bnb-nf4"}),
    ("RTX 5080", "balanced", {"nvfp4a16", "mxfp4a16"}),  # Blackwell: FP4
    ("RTX 3090", "prototyping", {"bnb-nf4"}),
    ("RTX 3070", "balanced", {"gguf-Q4_K_M"}),  # up to 8 GB: GGUF Q4_K_M
]


@pytest.mark.parametrize(("device", "objective", "schemes"), ARTICLES)
def test_the_articles_choices_are_ours(
    recommended: Callable[..., Answer], device: str, objective: Any, schemes: set[str]
) -> None:
    first = recommended(device, "8B", objective).plans[:3]

    assert schemes <= {plan.scheme.name for plan in first}


@pytest.mark.parametrize("device", ["T4", "RTX 2080 Ti", "Quadro RTX 8000"])
def test_turing_is_never_given_what_only_marlin_runs(recommended: Callable[..., Answer], device: str) -> None:
    found = recommended(device, "8B", "speed", runtime="vllm")

    assert not {"hqq-4bit-g64", "gptq-w4a16-g128"} & {plan.scheme.name for plan in found.plans}
    assert all("arlin" not in (plan.verdict.fact.kernel if plan.verdict.fact else "") for plan in found.plans)


def test_a_choice_names_schemes_that_exist_and_its_source(known: Any) -> None:
    names = {scheme.name for scheme in known.schemes}

    assert {name for row in CHOICES for name in row.schemes} <= names
    assert all(row.source and row.why for row in CHOICES)
