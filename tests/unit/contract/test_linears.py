"""Which tensors are weights of Linears, checked against the models that transformers builds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.linears import Linear, kept_modules, linears, plan_linears, promote_linears
from quantmill.contract.tensors import ModelIndex, TensorInfo, TensorPlan

TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
MODELS = {
    "Llama": {},
    "Mistral": {},
    "Qwen2": {},
    "Qwen3": {},
    "Gemma2": {},
    "Phi3": {},
    "Granite": {},
    "Olmo2": {},
    "StableLm": {},
    "Starcoder2": {},
    "GPTNeoX": {},
}


def index_of(shapes: dict[str, tuple[int, ...]], architecture: str = "LlamaForCausalLM") -> ModelIndex:
    tensors = {name: TensorInfo(name, "BF16", shape, 0) for name, shape in sorted(shapes.items())}
    return ModelIndex({"architectures": [architecture]}, tensors, {}, {})


def built(name: str) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**TINY)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", MODELS)
def test_they_are_the_linears_that_transformers_builds(name: str) -> None:
    torch = pytest.importorskip("torch")
    model = built(name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    expected = {f"{key}.weight" for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}

    found = linears(index_of(shapes, type(model).__name__))

    head = {"embed_out.weight"}  # GPT-NeoX's name for its head
    assert set(found) == expected - head


def test_each_expert_of_a_mixture_is_found_and_its_router_is_not() -> None:
    shapes = {
        "model.layers.0.block_sparse_moe.gate.weight": (2, 16),
        "model.layers.0.block_sparse_moe.experts.0.w1.weight": (32, 16),
        "model.layers.0.block_sparse_moe.experts.0.w2.weight": (16, 32),
        "model.layers.0.block_sparse_moe.experts.0.w3.weight": (32, 16),
        "model.layers.1.mlp.gate.weight": (2, 16),
        "model.layers.1.mlp.shared_expert_gate.weight": (1, 16),
        "model.layers.1.mlp.experts.1.down_proj.weight": (16, 32),
    }

    found = linears(index_of(shapes, "MixtralForCausalLM"))

    assert {linear.module: linear.fused for linear in found.values()} == {
        "model.layers.0.block_sparse_moe.experts.0.w1": (
            "model.layers.0.block_sparse_moe.experts.0.w1",
            "model.layers.0.block_sparse_moe.experts.0.w3",
        ),
        "model.layers.0.block_sparse_moe.experts.0.w2": ("model.layers.0.block_sparse_moe.experts.0.w2",),
        "model.layers.0.block_sparse_moe.experts.0.w3": (
            "model.layers.0.block_sparse_moe.experts.0.w1",
            "model.layers.0.block_sparse_moe.experts.0.w3",
        ),
        "model.layers.1.mlp.experts.1.down_proj": ("model.layers.1.mlp.experts.1.down_proj",),
    }


def test_fused_modules_know_each_other_and_their_block() -> None:
    attention = "model.layers.3.self_attn"
    shapes = {f"{attention}.{name}.weight": (16, 16) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}

    found = linears(index_of({**shapes, "lm_head.weight": (64, 32)}))

    qkv = tuple(f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj"))
    assert found[f"{attention}.k_proj.weight"].fused == qkv
    assert found[f"{attention}.o_proj.weight"].fused == (f"{attention}.o_proj",)
    assert {linear.block for linear in found.values()} == {3, None}


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",  # not in a block
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",  # another tower
        "visual.blocks.0.mlp.down_proj.weight",
    ],
)
def test_what_is_no_linear_of_the_decoder_is_left_alone(name: str) -> None:
    assert linears(index_of({name: (16, 16)})) == {}


def test_transposed_weights_are_left_alone() -> None:
    assert linears(index_of({"transformer.h.0.mlp.c_fc.weight": (16, 64)}, "GPT2LMHeadModel")) == {}


def planned(linear: Linear) -> TensorPlan | str:
    if linear.tensor.shape[1] % 32:
        return "rows of no whole blocks"
    return TensorPlan(linear.tensor.name, linear.tensor.shape, "BF16", "quantize", "INT4", linear.tensor.name, 7)


MIXED = {
    "model.embed_tokens.weight": (64, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 48),
    "model.layers.0.mlp.up_proj.weight": (48, 32),
    "model.layers.0.input_layernorm.weight": (32,),
    "lm_head.weight": (64, 32),
}


def test_a_plan_quantizes_the_linears_and_says_why_it_keeps_the_rest() -> None:
    plan = plan_linears(index_of(MIXED), ("lm_head",), planned)

    assert {row.name: row.reason or row.scheme for row in plan.tensors} == {
        "lm_head.weight": "skip_modules: lm_head",
        "model.embed_tokens.weight": "not the weight of a Linear in a decoder block",
        "model.layers.0.input_layernorm.weight": "not the weight of a Linear in a decoder block",
        "model.layers.0.mlp.down_proj.weight": "rows of no whole blocks",
        "model.layers.0.mlp.up_proj.weight": "INT4",
    }
    assert kept_modules(plan, index_of(MIXED)) == ["lm_head", "model.embed_tokens", "model.layers.0.mlp.down_proj"]
    assert [unit.key for unit in plan.units] == [row.name for row in plan.tensors]


def test_a_tied_head_is_among_the_kept_modules() -> None:
    index = index_of({"model.embed_tokens.weight": (64, 32), "model.layers.0.mlp.up_proj.weight": (48, 32)})
    tied = replace(index, tied={"lm_head.weight": "model.embed_tokens.weight"})

    assert kept_modules(plan_linears(tied, (), planned), tied) == ["model.embed_tokens", "lm_head"]


@pytest.mark.parametrize(
    ("skip_modules", "error", "message"),
    [
        (("lm_head", "*.mpl.*"), ParamsRejected, "skip_modules: '*.mpl.*' matches no Linear of this model"),
        (("*.up_proj", "lm_head"), SourceRejected, "LlamaForCausalLM has nothing to quantize"),
    ],
)
def test_a_plan_that_skips_nothing_or_everything_is_refused(
    skip_modules: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        plan_linears(index_of(MIXED), skip_modules, planned)


def test_a_source_that_is_quantized_already_is_refused() -> None:
    index = index_of(MIXED)
    quantized = replace(index, config={**index.config, "quantization_config": {"quant_method": "gptq"}})

    with pytest.raises(SourceRejected, match=re.escape("quantized already ('gptq')")):
        plan_linears(quantized, (), planned)


@pytest.mark.parametrize(
    ("names", "skipped"),
    [
        (["model.layers.0.mlp.down_proj.weight"], ["lm_head", "model.layers.0.mlp.down_proj"]),
        (
            ["model.layers.0.mlp.up_proj.weight"],
            ["lm_head", "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"],
        ),
        (["model.norm.weight", "lm_head.weight"], None),
        ([], None),
    ],
)
def test_a_promoted_linear_keeps_its_weights_with_those_it_is_fused_with(
    names: list[str], skipped: list[str] | None
) -> None:
    shapes = {f"model.layers.0.mlp.{name}.weight": (32, 32) for name in ("gate_proj", "up_proj", "down_proj")}
    index = index_of(shapes | {"model.norm.weight": (16,), "lm_head.weight": (64, 32)})
    plan = plan_linears(index, ["lm_head"], planned)

    change = promote_linears(index, plan, ["lm_head"], names)

    assert change.get("skip_modules") == skipped
