"""Rotary position embedding: what config.json asks for, and what GGUF is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantmill.contract.errors import ArchitectureUnsupported, SourceRejected
from quantmill_gguf.families.config import Config

FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
GENERATED = (FACTORS, LONG_FACTORS, SHORT_FACTORS)  # tensors that are in no checkpoint

# Older names of rope types
RENAMED = {"su": "longrope"}


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of one model.

    base               theta of the lowest pair
    type               default, linear, llama3, yarn or longrope
    share              of a head's values that are rotated
    local_base         theta of blocks with a sliding window, where it is another one
    long, short        longrope's divisor of each frequency, beyond and within the original context
    """

    base: float
    type: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    share: float = 1.0
    local_base: float | None = None
    long: tuple[float, ...] = ()
    short: tuple[float, ...] = ()

    def rotated(self, head_dim: int) -> int:
        """How many values of a head are rotated, in pairs."""
        return int(head_dim * self.share)


def rope_of(config: Config, types: tuple[str, ...], head_dim: int) -> Rope:
    """The model's rope. Raises ArchitectureUnsupported for a type that is not one of `types`, and SourceRejected.

    transformers 5 writes `rope_parameters`, by kind of block where there are several; earlier versions `rope_scaling`
    beside `rope_theta`, `rope_local_base_freq` and `partial_rotary_factor` (`rotary_pct` in GPT-NeoX).
    """
    asked, local_base = _asked(config)
    read = Config(asked)
    named = read.get("rope_type", read.get("type", "default"))
    type_ = RENAMED.get(named, named) if isinstance(named, str) else named
    if type_ not in types:
        raise ArchitectureUnsupported(f"config.json: rope type {type_!r} is not one of {', '.join(types)}")
    base = read.positive("rope_theta", config.positive("rope_theta", 10000.0))
    share = read.positive("partial_rotary_factor", config.positive("partial_rotary_factor", 1.0))
    if share > 1:
        raise SourceRejected(f"config.json: partial_rotary_factor {share} is above 1", key="partial_rotary_factor")
    rope = Rope(base, type_, share=share, local_base=local_base)
    rotated = rope.rotated(head_dim)
    if rotated < 2 or rotated % 2:
        raise SourceRejected(f"config.json: rope rotates pairs, and needs an even number of a head's {rotated} values")
    return _SCALED[type_](rope, read, config, rotated // 2)


def _asked(config: Config) -> tuple[Mapping[str, Any], float | None]:
    """The parameters of blocks that attend to everything, and the base of those that do not."""
    asked = config.section("rope_parameters") or config.section("rope_scaling")
    if "full_attention" in asked or "sliding_attention" in asked:
        full, local = (Config(asked).section(kind) for kind in ("full_attention", "sliding_attention"))
        return full, Config(local).positive("rope_theta")
    local_base = config.get("rope_local_base_freq")
    return asked, None if local_base is None else config.positive("rope_local_base_freq")


def _plain(rope: Rope, read: Config, config: Config, pairs: int) -> Rope:
    return rope


def _linear(rope: Rope, read: Config, config: Config, pairs: int) -> Rope:
    return _with(rope, factor=read.positive("factor"))


def _llama3(rope: Rope, read: Config, config: Config, pairs: int) -> Rope:
    scaled = _with(
        rope,
        factor=read.positive("factor"),
        low_freq_factor=read.positive("low_freq_factor", 1.0),
        high_freq_factor=read.positive("high_freq_factor", 4.0),
        original_context=read.count("original_max_position_embeddings", 8192),
    )
    if scaled.high_freq_factor <= scaled.low_freq_factor:
        raise SourceRejected("config.json: rope's high_freq_factor must be above its low_freq_factor")
    return scaled


def _longrope(rope: Rope, read: Config, config: Config, pairs: int) -> Rope:
    context = config.count("max_position_embeddings")
    original = read.count("original_max_position_embeddings", config.count("original_max_position_embeddings", context))
    return _with(
        rope,
        factor=context / original,
        original_context=original,
        long=read.positives("long_factor", pairs),
        short=read.positives("short_factor", pairs),
    )


_SCALED = {"default": _plain, "linear": _linear, "llama3": _llama3, "longrope": _longrope}


def _with(rope: Rope, **values: Any) -> Rope:
    return Rope(**{**vars(rope), **values})


def llama3_divisors(rope: Rope, head_dim: int) -> list[float]:
    """Llama 3's rope scaling as the divisor of each of head_dim / 2 frequencies.

    Short waves keep their frequency, long ones are slowed by `factor`, those between go from one to the other.
    """
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope.base ** (i / head_dim)
        turns = rope.original_context / wavelength
        share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        share = min(max(share, 0.0), 1.0)  # 1: keep, 0: slow down fully
        divisors.append(1 / ((1 - share) / rope.factor + share))
    return divisors


def generated_tensors(rope: Rope, head_dim: int) -> dict[str, list[float]]:
    """Tensors that no checkpoint has, by which llama.cpp divides the rope frequencies."""
    if rope.type == "llama3":
        return {FACTORS: llama3_divisors(rope, head_dim)}
    if rope.type == "longrope":
        return {LONG_FACTORS: list(rope.long), SHORT_FACTORS: list(rope.short)}
    return {}


def longrope_magnitude(rope: Rope) -> float:
    """By what longrope scales queries and keys (LongRoPE, section 3; transformers' `attention_factor`)."""
    if rope.factor <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_context))


Value = str | int | float | bool


def rope_metadata(rope: Rope, head_dim: int) -> dict[str, Value]:
    keys: dict[str, Value] = {"rope.dimension_count": rope.rotated(head_dim), "rope.freq_base": rope.base}
    if rope.local_base is not None:
        keys["rope.freq_base_swa"] = rope.local_base
    if rope.type == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.type == "longrope":
        keys |= {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": rope.original_context,
            "rope.scaling.attn_factor": longrope_magnitude(rope),
        }
    return keys
