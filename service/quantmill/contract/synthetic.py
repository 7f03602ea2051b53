"""Checkpoints made of seeded random numbers, for tests and benchmarks.

They are complete model folders in the Llama architecture: config, safetensors weights (one file or shards) and a
byte-level BPE tokenizer. Writing streams, so a checkpoint of any size needs a few megabytes of memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

CHUNK_VALUES = 1 << 20
ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SyntheticLlama:
    """A Llama checkpoint by its dimensions. Weights are normal with a few large outliers, as trained ones are."""

    hidden: int = 256
    ffn: int = 512
    blocks: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 320
    dtype: Literal["BF16", "F16", "F32"] = "BF16"
    tied: bool = False
    shards: int = 1
    context: int = 512
    seed: int = 0

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[self.dtype],
            "bos_token_id": 0,
            "eos_token_id": 1,
        }

    def tensors(self) -> dict[str, Shape]:
        """Every stored tensor's shape, in the order of the files."""
        hidden, ffn, kv = self.hidden, self.ffn, self.hidden // self.heads * self.kv_heads
        shapes: dict[str, Shape] = {"model.embed_tokens.weight": (self.vocab, hidden)}
        for n in range(self.blocks):
            block = {
                "input_layernorm": (hidden,),
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (kv, hidden),
                "self_attn.v_proj": (kv, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "post_attention_layernorm": (hidden,),
                "mlp.gate_proj": (ffn, hidden),
                "mlp.up_proj": (ffn, hidden),
                "mlp.down_proj": (hidden, ffn),
            }
            shapes |= {f"model.layers.{n}.{name}.weight": shape for name, shape in block.items()}
        shapes["model.norm.weight"] = (hidden,)
        return shapes if self.tied else {**shapes, "lm_head.weight": (self.vocab, hidden)}

    def write(self, folder: Path) -> Path:
        """Write the checkpoint into `folder`, which is made; gives `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", self.config())
        _write_json(folder / "tokenizer.json", tokenizer(self.vocab))
        _write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
        shards = self._shards()
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        if len(shards) == 1:
            names = ["model.safetensors"]
        else:
            weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
        for name, shard in zip(names, shards, strict=True):
            self._write_shard(folder / name, shard)
        return folder

    def _shards(self) -> list[dict[str, Shape]]:
        """The tensors in `shards` runs of about equal size."""
        shapes = self.tensors()
        per_shard = sum(prod(shape) for shape in shapes.values()) / self.shards
        shards: list[dict[str, Shape]] = [{} for _ in range(self.shards)]
        before = 0
        for name, shape in shapes.items():
            shards[min(int(before / per_shard), self.shards - 1)][name] = shape
            before += prod(shape)
        return [shard for shard in shards if shard]

    def _write_shard(self, path: Path, shapes: dict[str, Shape]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            begin, end = end, end + prod(shape) * ITEM_BYTES[self.dtype]
            header[name] = {"dtype": self.dtype, "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, shape in shapes.items():
                self._write_tensor(file, name, shape)

    def _write_tensor(self, file: BinaryIO, name: str, shape: Shape) -> None:
        rng = np.random.default_rng([self.seed, *name.encode()])
        for start in range(0, prod(shape), CHUNK_VALUES):
            count = min(CHUNK_VALUES, prod(shape) - start)
            values = rng.standard_normal(count, np.float32)
            if len(shape) == 1:
                values = 1 + np.float32(0.1) * values  # a norm's
            else:
                values *= np.float32(0.02)
                values[rng.random(count, np.float32) < 0.001] *= 8
            file.write(_stored(values, self.dtype).data.cast("B"))


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The values as safetensors stores them; BF16 as its bits, the upper half of float32's, rounded to even."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def tokenizer(vocab: int) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json of `vocab` tokens: <s>, </s>, the 256 bytes, then merges of two bytes.

    Letters merge first, so that text does get shorter. Raises ValueError beyond 256 * 256 merges.
    """
    letters = _byte_letters()
    count = vocab - 2 - len(letters)
    merges = [list(pair) for pair in islice(product(letters, letters), max(count, 0))]
    if count != len(merges):
        raise ValueError(f"a vocabulary of {vocab} tokens is not between 258 and {258 + len(letters) ** 2}")
    texts = ["<s>", "</s>", *letters, *("".join(pair) for pair in merges)]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id_, "content": text, **special} for id_, text in enumerate(texts[:2])],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: id_ for id_, text in enumerate(texts)},
            "merges": merges,
        },
    }


def _byte_letters() -> list[str]:
    """The character that byte-level BPE writes for each byte, lower-case letters and the space first.

    Printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letter = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    first = b"etaoinshrdlu cmfwygpbvkxqjz"
    return [letter[byte] for byte in first] + [letter[byte] for byte in range(256) if byte not in first]


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data), "utf-8")
