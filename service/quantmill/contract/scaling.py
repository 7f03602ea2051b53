"""AWQ's scales (Lin et al. 2023, arXiv 2306.00978): where they can go in each architecture, and which are tried.

Scales go to what puts out the channels that a group of Linears takes.

Names are of modules, in a decoder block. A norm can be divided where nothing else takes what it puts out; v_proj and
up_proj where o_proj and down_proj are linear in them, channel by channel. What is in no row is quantized as it is:
OLMo2 has no norms before its Linears, GPT-NeoX's and StarCoder2's activation functions stand between the others, and
what a mixture's router and experts share is not divided.

AutoAWQ 0.2.9 has the same pairs (models/), and like it leaves o_proj alone where heads share values.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from quantmill.contract.tensors import FloatArray, Fold, ModelIndex

EXPERT = "*"  # stands for the number of an expert


@dataclass(frozen=True)
class Pair:
    """`producer` is divided by what the inputs of `consumers` are multiplied by.

    offset  a norm multiplies by its weight plus this
    last    the channels are the last of the producer's rows: gate and up in one
    """

    producer: str
    consumers: tuple[str, ...]
    offset: float = 0.0
    last: bool = False


QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
VALUES = Pair("self_attn.v_proj", ("self_attn.o_proj",))
DOWN = Pair("mlp.up_proj", ("mlp.down_proj",))
ATTENTION = (Pair("input_layernorm", QKV), VALUES)
LLAMA = (*ATTENTION, Pair("post_attention_layernorm", GATE_UP), DOWN)
MOE_DOWN = (
    Pair(f"mlp.experts.{EXPERT}.up_proj", (f"mlp.experts.{EXPERT}.down_proj",)),
    Pair("mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",)),
)
GEMMA = (
    Pair("input_layernorm", QKV, offset=1.0),
    VALUES,
    Pair("pre_feedforward_layernorm", GATE_UP, offset=1.0),
    DOWN,
)
PARALLEL = "use_parallel_residual"  # of config.json: one norm before attention and feed-forward network

FAMILIES: Mapping[str, tuple[Pair, ...]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GraniteForCausalLM"),
            LLAMA,
        ),
        "MixtralForCausalLM": (
            *ATTENTION,
            Pair(f"block_sparse_moe.experts.{EXPERT}.w3", (f"block_sparse_moe.experts.{EXPERT}.w2",)),
        ),
        **dict.fromkeys(("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"), (*LLAMA, *MOE_DOWN)),
        **dict.fromkeys(("Gemma2ForCausalLM", "Gemma3ForCausalLM"), GEMMA),
        "Phi3ForCausalLM": (
            Pair("input_layernorm", ("self_attn.qkv_proj",)),
            Pair("post_attention_layernorm", ("mlp.gate_up_proj",)),
            Pair("mlp.gate_up_proj", ("mlp.down_proj",), last=True),
        ),
        "Olmo2ForCausalLM": (VALUES, DOWN),
        "StableLmForCausalLM": LLAMA,
        f"StableLmForCausalLM {PARALLEL}": (Pair("input_layernorm", (*QKV, *GATE_UP)), VALUES, DOWN),
        "Starcoder2ForCausalLM": (*ATTENTION, Pair("post_attention_layernorm", ("mlp.c_fc",))),
        "GPTNeoXForCausalLM": (
            Pair("input_layernorm", ("attention.query_key_value",)),
            Pair("post_attention_layernorm", ("mlp.dense_h_to_4h",)),
        ),
    }
)

_PLACE = re.compile(r"^(?P<block>.+?\.\d+)\.(?P<module>.+)\.weight$")
_EXPERT = re.compile(r"(?<=\.)experts\.(\d+)(?=\.)")


def folds_of(index: ModelIndex, quantized: frozenset[str]) -> Iterator[Fold]:
    """The folds among the weights that are `quantized`, norms' before Linears'.

    A group of which one weight is not quantized has none: it would have to be stored in other values than its own.
    """
    architecture = index.architecture
    parallel = f"{architecture} {PARALLEL}"
    pairs = FAMILIES.get(parallel if index.config.get(PARALLEL) and parallel in FAMILIES else architecture, ())
    for block, modules in _blocks(index).items():
        for pair in pairs:
            for expert in modules if EXPERT in pair.producer else [""]:
                fold = _fold(index, quantized, block, pair, expert)
                if fold is not None:
                    yield fold


def _blocks(index: ModelIndex) -> Mapping[str, list[str]]:
    """The experts of each block, by their numbers; none where it is no mixture."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for name in index.tensors:
        if (place := _PLACE.match(name)) is not None:
            experts = found[place["block"]]
            if (expert := _EXPERT.search(place["module"])) is not None:
                experts.setdefault(expert[1])
    return {block: list(experts) for block, experts in found.items()}


def _fold(index: ModelIndex, quantized: frozenset[str], block: str, pair: Pair, expert: str) -> Fold | None:
    producer, *consumers = (
        f"{block}.{module.replace(EXPERT, expert)}.weight" for module in (pair.producer, *pair.consumers)
    )
    divided = index.tensors.get(producer)
    if divided is None or not quantized.issuperset(consumers):
        return None
    channels, rows = index.tensors[consumers[0]].shape[1], divided.shape[0]
    if len(divided.shape) == 2 and producer not in quantized:
        return None
    if rows != (2 * channels if pair.last else channels):
        return None
    bias = f"{producer.removesuffix('.weight')}.bias"
    return Fold(
        producer,
        tuple(consumers),
        bias if bias in index.tensors else "",
        rows - channels if pair.last else 0,
        pair.offset,
    )


# Which are tried

LEAST = 1e-4  # AutoAWQ's, of means and of scales
FURTHEST = 1024.0  # a scale is at most this, and at least one over it
CHUNK_VALUES = 1 << 19  # of a weight, looked at at once


def candidates(
    mean_abs: FloatArray, magnitudes: FloatArray, n_grid: int, duo_scaling: bool | str
) -> Iterator[FloatArray]:
    """Scales (in,) to try, the one that changes nothing first.

    For r = 0, 1/n, ..., (n-1)/n they are mean_abs^r / magnitudes^(1-r) with `duo_scaling`, mean_abs^r without, both in
    turn with "both"; each divided by the root of its largest times its smallest.
    """
    yield np.ones_like(mean_abs)
    kinds = {True: (True,), False: (False,), "both": (False, True)}[duo_scaling]
    for ratio in np.arange(n_grid) / n_grid:
        for duo in kinds:
            power = mean_abs.astype(np.float64) ** ratio
            scales = np.maximum(power / (magnitudes ** (1 - ratio) + LEAST) if duo else power, LEAST)
            scales /= np.sqrt(scales.max() * scales.min())
            yield np.clip(scales, 1 / FURTHEST, FURTHEST).astype(np.float32)


def magnitudes(weights: Sequence[FloatArray], group_size: int) -> FloatArray:
    """The mean over all rows of |w| as a share of the largest of its group: float32 (in,)."""
    total, rows = np.zeros(weights[0].shape[1]), 0
    for weight in weights:
        step = max(16, CHUNK_VALUES // weight.shape[1])
        for start in range(0, len(weight), step):
            groups = np.abs(weight[start : start + step]).reshape(-1, weight.shape[1] // group_size, group_size)
            groups /= groups.max(axis=2, keepdims=True) + np.float32(1e-6)
            total += groups.sum(axis=0, dtype=np.float64).reshape(-1)
        rows += len(weight)
    return (total / rows).astype(np.float32)
