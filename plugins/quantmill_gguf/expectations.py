"""What llama.cpp must be told of a model, by its config.json: verification's own reading of it.

Shares nothing with families/, so that an error there shows as a difference. Whatever the plan accepted is well
formed.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantmill.contract.card import Card
from quantmill.contract.gguf import Scalar

Config = Mapping[str, Any]
Settings = dict[str, Scalar]


@dataclass(frozen=True)
class Expected:
    """One architecture: its name in GGUF, the end of its embedding's name, and its own settings beside usual ones."""

    name: str
    embedding: str
    own: Callable[[Config], Settings]


def _llama(config: Config) -> Settings:
    return _rms(config, 1e-6) | _rotated(config)


def _mixtral(config: Config) -> Settings:
    experts = {"expert_count": config.get("num_local_experts", 8), "expert_used_count": config["num_experts_per_tok"]}
    return _rms(config, 1e-5) | _rotated(config) | experts


def _qwen_moe(config: Config) -> Settings:
    keys = {
        "expert_count": _first(config, "num_experts", "num_local_experts"),
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
    }
    if config["architectures"][0] == "Qwen2MoeForCausalLM":
        keys["expert_shared_feed_forward_length"] = config["shared_expert_intermediate_size"]
    return _llama(config) | keys


def _gemma2(config: Config) -> Settings:
    keys: Settings = {"attention.sliding_window": config.get("sliding_window", 4096)}
    for key, usual in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        keys[key] = single(config.get(key) or usual)
    return _llama(config) | keys


def _gemma3(config: Config) -> Settings:
    keys = _rms(config, 1e-6) | _rotated(config, 1e6)
    by_kind = config.get("rope_parameters") or {}
    local = by_kind.get("sliding_attention", {}).get("rope_theta") or config.get("rope_local_base_freq") or 1e4
    keys |= {"rope.freq_base_swa": single(local), "attention.sliding_window": config.get("sliding_window", 4096)}
    if capping := config.get("final_logit_softcapping"):
        keys["final_logit_softcapping"] = single(capping)
    return keys


def _phi3(config: Config) -> Settings:
    keys = _rms(config, 1e-5) | _rotated(config) | {"attention.sliding_window": 0}
    rope = _rope(config)
    if _rope_type(rope) == "longrope":
        original = rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
        longer = config["max_position_embeddings"] / original
        scale = math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 else 1.0
        keys |= {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": single(scale),
        }
    return keys


def _granite(config: Config) -> Settings:
    names = {
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
    return _llama(config) | {output: single(config.get(key) or 1.0) for output, key in names.items()}


def _olmo2(config: Config) -> Settings:
    return _rms(config, 1e-5) | _rotated(config)


def _stablelm(config: Config) -> Settings:
    parallel = bool(config.get("use_parallel_residual"))
    rotated = _rotated(config, share=_rope(config).get("partial_rotary_factor") or config.get("partial_rotary_factor"))
    return _centred(config, "layer_norm_eps", 1e-5) | rotated | {"use_parallel_residual": parallel}


def _starcoder2(config: Config) -> Settings:
    return _centred(config, "norm_epsilon", 1e-5) | _rotated(config)


def _gpt_neox(config: Config) -> Settings:
    parallel = config.get("use_parallel_residual")
    share = _rope(config).get("partial_rotary_factor") or config.get("rotary_pct")
    keys = _centred(config, "layer_norm_eps", 1e-5)
    keys |= _rotated(config, base=config.get("rotary_emb_base") or 1e4, share=share)
    return keys | {"use_parallel_residual": True if parallel is None else parallel}


def _gpt2(config: Config) -> Settings:
    return _centred(config, "layer_norm_epsilon", 1e-5)


def _falcon(config: Config) -> Settings:
    return _centred(config, "layer_norm_epsilon", 1e-5) | _rotated(config)


def _bert(config: Config) -> Settings:
    return _centred(config, "layer_norm_eps", 1e-12) | {"attention.causal": False}


OUTPUT_WANTED = ("qwen2moe", "olmo2", "stablelm", "gptneox")  # llama.cpp's src/models/*.cpp: output is required

EMBED_TOKENS = "model.embed_tokens"
EXPECTED: Mapping[str, Expected] = {
    "LlamaForCausalLM": Expected("llama", EMBED_TOKENS, _llama),
    "MistralForCausalLM": Expected("llama", EMBED_TOKENS, _llama),
    "MixtralForCausalLM": Expected("llama", EMBED_TOKENS, _mixtral),
    "Qwen2ForCausalLM": Expected("qwen2", EMBED_TOKENS, _llama),
    "Qwen2MoeForCausalLM": Expected("qwen2moe", EMBED_TOKENS, _qwen_moe),
    "Qwen3ForCausalLM": Expected("qwen3", EMBED_TOKENS, _llama),
    "Qwen3MoeForCausalLM": Expected("qwen3moe", EMBED_TOKENS, _qwen_moe),
    "Gemma2ForCausalLM": Expected("gemma2", EMBED_TOKENS, _gemma2),
    "Gemma3ForCausalLM": Expected("gemma3", EMBED_TOKENS, _gemma3),
    "Phi3ForCausalLM": Expected("phi3", EMBED_TOKENS, _phi3),
    "GraniteForCausalLM": Expected("granite", EMBED_TOKENS, _granite),
    "Olmo2ForCausalLM": Expected("olmo2", EMBED_TOKENS, _olmo2),
    "StableLmForCausalLM": Expected("stablelm", EMBED_TOKENS, _stablelm),
    "Starcoder2ForCausalLM": Expected("starcoder2", EMBED_TOKENS, _starcoder2),
    "GPTNeoXForCausalLM": Expected("gptneox", "gpt_neox.embed_in", _gpt_neox),
    "GPT2LMHeadModel": Expected("gpt2", "wte", _gpt2),
    "FalconForCausalLM": Expected("falcon", "transformer.word_embeddings", _falcon),
    "BertModel": Expected("bert", "embeddings.word_embeddings", _bert),
}


# What is said of the model

CARD_TEXTS = {
    "name": "name model_name",
    "author": "author model_author model_creator",
    "organization": "organization model_organization",
    "version": "version model_version",
    "description": "description model_description",
    "license.name": "license_name",
    "license.link": "license_link",
    "source.url": "url model_url",
    "source.repo_url": "repo_url model_repo_url",
}


def expected_general(card: Card, given: Mapping[str, str]) -> tuple[Settings, dict[str, list[str]]]:
    """Keys below `general.`, and those that are lists: the job's, then the card's where the job says nothing."""
    own_license, own_base = "license" in given, any(key[:10] == "base_model" for key in given)
    wanted: Settings = {}
    for key, names in CARD_TEXTS.items():
        for name in reversed(names.split()):
            if name in card.texts and not (own_license and key[:7] == "license"):
                wanted[key] = card.texts[name]
    if "license" in card.lists:
        wanted["license"] = ",".join(card.lists["license"])
    referred = {"dataset": ("datasets", "datasets/"), "base_model": ("base_model", "")}
    if "base_model" not in card.lists:
        referred["base_model"] = ("base_models", "")
    if own_base:
        wanted["base_model.count"] = 1
        del referred["base_model"]
    for kind, (name, below) in referred.items():
        ids = card.lists.get(name, ())
        wanted |= {f"{kind}.count": len(ids)} if ids else {}
        for number, id_ in enumerate(ids):
            wanted |= {f"{kind}.{number}.{key}": value for key, value in _reference(id_, below)}
    lists = {
        "tags": [*card.lists.get("tags", ()), *card.lists.get("pipeline_tag", ())],
        "languages": [*card.lists.get("languages", ()), *card.lists.get("language", ())],
    }
    return wanted | dict(given), {key: values for key, values in lists.items() if values}


def _reference(id_: str, below: str) -> Iterator[tuple[str, str]]:
    """A model or data set: an id of the hub has two names with a slash between, perhaps behind the hub's address."""
    bare = re.sub(r"^https?://huggingface\.co/(datasets/)?", "", id_)
    names = bare.split("/")
    if len(names) == 2 and all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) for name in names):
        yield from (("organization", _title(names[0])), ("name", _title(names[1])))
        yield "repo_url", f"https://huggingface.co/{below}{bare}"
    elif "://" in id_:
        yield "repo_url", id_
    else:
        yield "name", _title(id_)


def _title(name: str) -> str:
    """Dashes are spaces; small words get a capital, but for versions and sizes."""
    return re.sub(
        r"[^\s-]+",
        lambda word: word[0].title() if word[0].islower() and not re.match(r"(v\d+(\.\d+)*$|\d)", word[0]) else word[0],
        re.sub(r"[\s-]+", " ", name.strip(" -")),
    )


def embedding_of(config: Config, names: Mapping[str, Any]) -> str:
    """The name of the embedding among the checkpoint's tensors."""
    ending = f"{EXPECTED[config['architectures'][0]].embedding}.weight"
    return next(name for name in names if name == ending or name.endswith(f".{ending}"))


def expected_settings(config: Config, embedding: str, rows: int) -> Settings:
    """Every key below the architecture's name, with it, but for the tokenizer's; and the checkpoint's prefix."""
    expected = EXPECTED[config["architectures"][0]]
    hidden, heads = _first(config, "hidden_size", "n_embd"), _first(config, "num_attention_heads", "n_head")
    inner = _first(config, "intermediate_size", "n_inner", "ffn_hidden_size") or 4 * hidden
    shared = 1 if expected.name == "falcon" else config.get("num_key_value_heads") or heads
    keys: Settings = {
        "vocab_size": rows,
        "context_length": _first(config, "max_position_embeddings", "n_positions") or USUAL_CONTEXT[expected.name],
        "embedding_length": hidden,
        "block_count": _first(config, "num_hidden_layers", "n_layer"),
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": shared,
        "attention.key_length": head_size(config),
        "attention.value_length": head_size(config),
        **expected.own(config),
    }
    settings = {f"{expected.name}.{key}": value for key, value in keys.items()}
    prefix = embedding.removesuffix(f"{expected.embedding}.weight")
    if prefix:
        settings["quantmill.source_prefix"] = prefix
    return settings


def is_copied(config: Config, names: Mapping[str, Any]) -> bool:
    """Whether llama.cpp wants an output matrix that the checkpoint leaves to its embedding."""
    head = {"gptneox": "embed_out.weight"}.get(EXPECTED[config["architectures"][0]].name, "lm_head.weight")
    return EXPECTED[config["architectures"][0]].name in OUTPUT_WANTED and head not in names


def expected_factors(config: Config) -> dict[str, list[float]]:
    """The divisors of rope frequencies that the file has as tensors: Llama 3's, and longrope's."""
    rope = _rope(config)
    type_ = _rope_type(rope)
    if type_ == "llama3":
        return {"rope_freqs.weight": list(_llama3_divisors(config, rope))}
    if type_ == "longrope":
        return {f"rope_factors_{kind}.weight": list(map(float, rope[f"{kind}_factor"])) for kind in ("long", "short")}
    return {}


def single(value: float) -> float:
    """As float32 holds it, which is what the file has."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def head_size(config: Config) -> int:
    usual = {"gemma2": 256, "gemma3": 256}.get(EXPECTED[config["architectures"][0]].name)
    hidden, heads = _first(config, "hidden_size", "n_embd"), _first(config, "num_attention_heads", "n_head")
    return int(config.get("head_dim") or usual or hidden // heads)


USUAL_CONTEXT = {"falcon": 2048, "gemma3": 131072}


def _first(config: Config, *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _rms(config: Config, usual: float) -> Settings:
    return {"attention.layer_norm_rms_epsilon": single(config.get("rms_norm_eps") or usual)}


def _centred(config: Config, key: str, usual: float) -> Settings:
    return {"attention.layer_norm_epsilon": single(config.get(key) or usual)}


def _rope(config: Config) -> Mapping[str, Any]:
    rope: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    full: Mapping[str, Any] = rope.get("full_attention", rope)
    return full


def _rope_type(rope: Mapping[str, Any]) -> str:
    type_ = str(rope.get("rope_type", rope.get("type", "default")))
    return "longrope" if type_ == "su" else type_


def _rotated(config: Config, base: float = 1e4, share: float | None = None) -> Settings:
    rope = _rope(config)
    if share is None:
        share = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor")
    if share is None:
        share = {"stablelm": 0.25, "gptneox": 0.25}.get(EXPECTED[config["architectures"][0]].name, 1.0)
    keys: Settings = {
        "rope.dimension_count": int(head_size(config) * share),
        "rope.freq_base": single(_rope_base(config, rope, base)),
    }
    if _rope_type(rope) == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": single(rope["factor"])}
    return keys


def _rope_base(config: Config, rope: Mapping[str, Any], usual: float = 1e4) -> float:
    return float(rope.get("rope_theta") or config.get("rope_theta") or usual)


def _llama3_divisors(config: Config, rope: Mapping[str, Any]) -> Iterator[float]:
    """Plain frequency over scaled frequency, after transformers' `_compute_llama3_parameters`."""
    size, base, factor = head_size(config), _rope_base(config, rope), float(rope["factor"])
    low, high = float(rope.get("low_freq_factor") or 1.0), float(rope.get("high_freq_factor") or 4.0)
    context = float(rope.get("original_max_position_embeddings") or 8192)
    for pair in range(size // 2):
        plain = base ** (-2 * pair / size)
        wavelength = 2 * math.pi / plain
        if wavelength < context / high:
            scaled = plain
        elif wavelength > context / low:
            scaled = plain / factor
        else:
            smooth = (context / wavelength - low) / (high - low)
            scaled = (1 - smooth) * plain / factor + smooth * plain
        yield plain / scaled
