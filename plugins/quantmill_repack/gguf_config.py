"""config.json for a GGUF file: the one beside it, compared with the file, or one rebuilt from the file's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.gguf import GgufSource
from quantmill.contract.model_folder import CONFIG, JSON_LIMIT, PLACES, QUANTIZATION
from quantmill.contract.strictjson import parse_object, shown
from quantmill.contract.tensors import ModelIndex
from quantmill_repack.gguf_model import EMBEDDING, Described, number

EPSILON, BASE = "attention.layer_norm_rms_epsilon", "rope.freq_base"
SCALING, FACTOR, ORIGINAL = "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")  # of its rope_scaling
PUT_BESIDE = "put the model's config.json beside the file"

# Keys below the architecture's name that a rebuilt config.json says, or that follow from those it says
SAID = frozenset(
    (
        *("block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size"),
        *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
        *(EPSILON, BASE, SCALING, FACTOR, "rope.dimension_count"),
        *("expert_count", "expert_used_count", "expert_feed_forward_length"),
    )
)
# Keys of config.json that make loaders run code of the model
REMOTE_CODE = ("auto_map", "trust_remote_code")
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
TOKEN_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def config_of(index: ModelIndex, source: GgufSource, described: Described) -> Mapping[str, Any]:
    """The result's config.json, without its `quantization_config`.

    Raises SourceRejected for one beside the file that contradicts it, and for metadata that no config.json is rebuilt
    from.
    """
    stated = _stated(source, described)
    if CONFIG in index.files:
        beside = _read(index.files[CONFIG])
        _compare(beside, stated, described)
        return {key: value for key, value in beside.items() if key not in (*PLACES, QUANTIZATION)}
    return _rebuilt(source, described, stated)


def _stated(source: GgufSource, described: Described) -> dict[str, Any]:
    """What the file says of the model, by config.json's names."""
    scaling = _scaling(source, described)
    stated = {
        "num_hidden_layers": described.blocks,
        "hidden_size": described.hidden,
        "intermediate_size": described.ffn,
        "num_attention_heads": described.heads,
        "num_key_value_heads": described.kv_heads,
        "head_dim": described.head_dim,
        "vocab_size": described.vocab,
        "max_position_embeddings": number(source, "context_length"),
        "rms_norm_eps": _real(source, EPSILON),
        "rope_theta": _real(source, BASE, 10000.0),
        "rope_type": scaling,
        "hidden_act": "silu",  # the graphs of these architectures know no other
        **described.biases,
        **_of_experts(source, described),
    }
    return stated | _of_rope(source, scaling)


def _scaling(source: GgufSource, described: Described) -> str:
    """config.json's rope_type. A factor without a type is linear to llama.cpp (llama-model.cpp, load_hparams)."""
    usual = "linear" if _has(source, FACTOR) else "none"
    kind = source.metadata.get(f"{source.architecture}.{SCALING}", usual)
    if described.scaled:
        return "llama3" if kind == "none" else f"llama3 and {kind}"
    return "default" if kind == "none" else str(kind)


def _of_rope(source: GgufSource, scaling: str) -> dict[str, Any]:
    stated: dict[str, Any] = {}
    if scaling == "linear" or (scaling == "yarn" and _has(source, FACTOR)):
        stated["rope_factor"] = _real(source, FACTOR)
    if scaling == "yarn" and _has(source, ORIGINAL):
        stated["original_max_position_embeddings"] = number(source, ORIGINAL)
    return stated


def _has(source: GgufSource, key: str) -> bool:
    return f"{source.architecture}.{key}" in source.keys


def _of_experts(source: GgufSource, described: Described) -> dict[str, Any]:
    family = described.family
    if not family.experts:
        return {}
    used = number(source, "expert_used_count")
    counts = {family.experts: described.experts, "num_experts_per_tok": used}
    return {**counts, family.expert_ffn[1]: described.expert_ffn, **family.fixed}


def _real(source: GgufSource, key: str, default: float | None = None) -> float:
    """A number of the file, which has float32, in the fewest digits that say it."""
    name = f"{source.architecture}.{key}"
    value = source.metadata.get(name, default)
    if not isinstance(value, float) or not 0 < value < 1e12:
        raise SourceRejected(f"the GGUF file's {name} is {shown(value)}, not a positive number", key=name)
    return float(str(np.float32(value)))


# Beside the file


def _read(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > JSON_LIMIT:
        raise _contradicts(f"is larger than {JSON_LIMIT} bytes")
    try:
        return parse_object(path.read_bytes(), non_finite=True)
    except ValueError as error:
        raise _contradicts(f"cannot be read: {error}") from error


def _compare(beside: Mapping[str, Any], stated: Mapping[str, Any], described: Described) -> None:
    classes = beside.get("architectures")
    if not isinstance(classes, list) or not classes or classes[0] not in described.family.classes:
        raise _contradicts(
            f"has the architectures {shown(classes)}, and the GGUF file's is {' or '.join(described.family.classes)}"
        )
    for key in REMOTE_CODE:
        if beside.get(key):
            raise _contradicts(f"has the key {key!r}: it points at code that comes with the model; remove it")
    found = _effective(beside, described.family.defaults)
    for key, wanted in stated.items():
        if not _same(found.get(key), wanted):
            raise _contradicts(f"says {key} {shown(found.get(key))}, and the GGUF file {shown(wanted)}")
    if described.tied and beside.get("tie_word_embeddings", False) is not True:
        raise _contradicts("does not tie the embedding to the output matrix, which the GGUF file does not have")


def check_divisors(config: Mapping[str, Any], divisors: NDArray[np.float32], head_dim: int) -> None:
    """Llama 3's scaling, as config.json has it, comes to the file's divisors of rope's frequencies, (head_dim / 2,).

    As `_compute_llama3_parameters` has it (transformers 5.23, modeling_rope_utils.py). Raises SourceRejected.
    """
    rope = config.get("rope_parameters") or config["rope_scaling"]
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    settings = [rope.get(key) for key in LLAMA3]
    if not all(isinstance(each, int | float) and 0 < each < 1e12 for each in settings) or settings[1] >= settings[2]:
        raise _contradicts(f"says {shown(dict(zip(LLAMA3, settings, strict=True)))} of rope, which cannot be")
    if divisors.shape != (head_dim // 2,):
        raise SourceRejected(f"the GGUF file has {divisors.size} divisors of rope for heads of {head_dim} values")
    factor, low, high, context = map(float, settings)
    exponents = np.arange(0, head_dim, 2) / head_dim
    turns = context / (2 * np.pi * np.power(float(base), exponents))  # of a frequency in that context
    part = np.clip((turns - low) / (high - low), 0, 1)
    wanted = 1 / ((1 - part) / factor + part)
    if not np.allclose(divisors, wanted, rtol=1e-4, atol=0):
        worst = int(np.argmax(np.abs(divisors - wanted) / wanted))
        raise _contradicts(
            f"divides rope's frequency {worst} by {wanted[worst]:.6g}, and the GGUF file by {divisors[worst]:.6g}"
        )


def _effective(beside: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What loaders take where a key is left out."""
    given = {key: value for key, value in beside.items() if value is not None}
    heads, hidden = given.get("num_attention_heads"), given.get("hidden_size")
    usual = hidden // heads if type(hidden) is int and type(heads) is int and heads > 0 else None
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    rope = rope if isinstance(rope, Mapping) else {}
    return {
        "num_key_value_heads": heads,
        "head_dim": usual,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 10000.0,
        **defaults,
        **({"num_experts": given["num_local_experts"]} if "num_local_experts" in given else {}),
        **given,
        **({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}),
        "rope_type": rope.get("rope_type", rope.get("type", "default")),
        "rope_factor": rope.get("factor"),
        "original_max_position_embeddings": rope.get(
            "original_max_position_embeddings", given.get("max_position_embeddings")
        ),
    }


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):  # as float32, which the file has
        real = isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e30
        return real and bool(np.float32(found) == np.float32(wanted))
    return type(found) is type(wanted) and bool(found == wanted)


def _contradicts(what: str) -> SourceRejected:
    return SourceRejected(f"{CONFIG} beside the GGUF file {what}", file=CONFIG)


# Rebuilt


def _rebuilt(source: GgufSource, described: Described, stated: Mapping[str, Any]) -> dict[str, Any]:
    for reason in _unknown(source, described, stated):
        raise SourceRejected(f"no config.json is rebuilt for the GGUF file: {reason}; {PUT_BESIDE}")
    embedding = next(each for each in described.held if each.source == f"{EMBEDDING}.weight")
    scaling = {"rope_type": "linear", "factor": stated["rope_factor"]} if "rope_factor" in stated else None
    return {
        "architectures": [described.family.classes[0]],
        "model_type": described.family.model_type,
        **{key: value for key, value in stated.items() if key not in ("rope_type", "rope_factor")},
        **({"rope_scaling": scaling} if scaling else {}),
        "tie_word_embeddings": described.tied,
        **_token_ids(source, described),
        "torch_dtype": DTYPES[embedding.type.name],
        "use_cache": True,
    }


def _unknown(source: GgufSource, described: Described, stated: Mapping[str, Any]) -> Iterator[str]:
    """Why config.json would not say all that the file does."""
    begin = f"{source.architecture}."
    for key in sorted(key.removeprefix(begin) for key in source.keys if key.startswith(begin)):
        if key not in SAID:
            yield f"{begin}{key} says what is not known here"
    if stated["rope_type"] not in ("default", "linear"):
        yield f"rope is scaled as {stated['rope_type']}, whose parameters it does not say"
    for key in ("attention.value_length", "rope.dimension_count"):
        if number(source, key, described.head_dim) != described.head_dim:
            yield f"{begin}{key} is not the {described.head_dim} values of a head"
    if number(source, "vocab_size", described.vocab) != described.vocab:
        yield f"{begin}vocab_size is not the {described.vocab} rows of the embedding"


def _token_ids(source: GgufSource, described: Described) -> dict[str, int]:
    found = {key: source.metadata.get(f"tokenizer.ggml.{role}_token_id") for key, role in TOKEN_IDS.items()}
    return {key: id_ for key, id_ in found.items() if type(id_) is int and 0 <= id_ < described.vocab}
