"""Which tensors of a decoder are weights of its Linears: what the methods for Hugging Face folders quantize.

transformers would say it exactly, by building the model; a plan has to say it from headers alone and at once. So the
names that a Linear has in the decoders of transformers are a table here. What is in no row stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from quantmill.contract.tensors import ModelIndex, TensorInfo

# Last part of a module's name -> the modules beside it that inference engines compute in one product. Engines load
# the fused weight with one scale per tensor, so such modules share what has one value per tensor.
QKV, GATE_UP, EXPERT_IN = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3")
LINEARS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(QKV, QKV),
        **dict.fromkeys(GATE_UP, GATE_UP),
        **dict.fromkeys(EXPERT_IN, EXPERT_IN),  # Mixtral's experts
        **{
            alone: (alone,)
            for alone in (
                "o_proj",
                "down_proj",
                "w2",  # Mixtral's experts
                "qkv_proj",  # Phi3
                "gate_up_proj",  # Phi3
                "query_key_value",  # GPT-NeoX
                "dense",  # GPT-NeoX
                "dense_h_to_4h",  # GPT-NeoX
                "dense_4h_to_h",  # GPT-NeoX
                "c_proj",  # StarCoder2
                "c_fc",  # StarCoder2
            )
        },
    }
)

# Their c_attn, c_proj and c_fc are Conv1D: stored as (in, out), so rows are not outputs.
TRANSPOSED = ("GPT2LMHeadModel", "GPT2Model")

HEAD = "lm_head"

_IN_A_BLOCK = re.compile(r"^(?P<stack>.+?)\.(?P<block>\d+)\.(?P<rest>.+)$")
_OTHER_TOWERS = re.compile(r"(^|\.)(vision_|visual|image_|audio_|multi_modal|mm_)", re.ASCII)


@dataclass(frozen=True)
class Linear:
    """The weight of a Linear, of shape (out_features, in_features).

    `module` is the tensor's name without `.weight`; `fused` are the modules, itself among them, that engines compute
    in one product and that the checkpoint has; `block` is its decoder block, None for the head.
    """

    tensor: TensorInfo
    module: str
    block: int | None
    fused: tuple[str, ...]


def linears(index: ModelIndex) -> Mapping[str, Linear]:
    """The Linears of the decoder blocks, and the head where it is stored, by tensor name and in the index's order."""
    found = {}
    for info in index.tensors.values():
        module, _, last = info.name.rpartition(".")
        if last == "weight" and len(info.shape) == 2 and index.architecture not in TRANSPOSED:
            linear = _head(info, module) if module == HEAD else _in_a_block(index, info, module)
            if linear is not None:
                found[info.name] = linear
    return found


def _head(info: TensorInfo, module: str) -> Linear:
    return Linear(info, module, None, (module,))


def _in_a_block(index: ModelIndex, info: TensorInfo, module: str) -> Linear | None:
    parent, _, leaf = module.rpartition(".")
    match = _IN_A_BLOCK.match(module)
    if match is None or leaf not in LINEARS or _OTHER_TOWERS.search(match["stack"]):
        return None
    siblings = (f"{parent}.{sibling}" for sibling in LINEARS[leaf])
    fused = tuple(sibling for sibling in siblings if f"{sibling}.weight" in index.tensors)
    return Linear(info, module, int(match["block"]), fused)
