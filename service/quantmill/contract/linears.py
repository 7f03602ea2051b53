"""Which tensors of a decoder are weights of its Linears, and the plan of a method that quantizes those alone.

transformers would say it exactly, by building the model; a plan has to say it from headers alone and at once. So the
names that a Linear has in the decoders of transformers are a table here. What is in no row stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import StringConstraints

from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.model_folder import kept_row, require_unquantized
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo, TensorPlan, Unit

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
NO_LINEAR = "not the weight of a Linear in a decoder block"

# The decoders of transformers whose Linears have been compared with the table.
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
    "GraniteForCausalLM",
    "Olmo2ForCausalLM",
    "StableLmForCausalLM",
    "Starcoder2ForCausalLM",
    "GPTNeoXForCausalLM",
)

ModulePattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*?\[\]!-]{1,200}$")]
USUALLY_SKIPPED: tuple[ModulePattern, ...] = (HEAD,)

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


RowOf = Callable[[Linear], TensorPlan | str]


def plan_linears(
    index: ModelIndex, skip_modules: Sequence[str], row_of: RowOf, *, allow_requantize: bool = False
) -> Plan:
    """A plan with one unit a tensor: the Linears that `skip_modules` does not name as `row_of` has them, all else kept.

    `row_of` gives the row of a Linear, or the reason why it keeps its weights. The peak memory is the largest
    tensor's source bytes (its mapped pages) plus its stored bytes.

    Raises SourceRejected for a source that `require_unquantized` refuses or that has no Linear to quantize,
    ParamsRejected for a pattern that matches no Linear.
    """
    warnings = require_unquantized(index, allow_requantize)
    found = linears(index)
    _check_patterns(skip_modules, found.values())
    rows = tuple(_row(info, found.get(info.name), skip_modules, row_of) for info in index.tensors.values())
    if all(row.action == "keep" for row in rows):
        reasons = sorted({row.reason for row in rows})
        raise SourceRejected(f"{index.architecture} has nothing to quantize: {'; '.join(reasons)}", reasons=reasons)
    peak = max(index.tensors[row.name].nbytes + row.nbytes for row in rows)
    return Plan(rows, tuple(Unit(row.name, (row.name,)) for row in rows), peak, warnings)


def promote_linears(
    index: ModelIndex, plan: Plan, skip_modules: Sequence[str], names: Collection[str]
) -> Mapping[str, Any]:
    """The `skip_modules` by which the named Linears keep their weights, and with them those that engines compute in
    one product with them, which must have one scheme. Empty where none of them is quantized."""
    found = linears(index)
    quantized = [name for name in found if name in names and plan.by_name[name].action == "quantize"]
    modules = dict.fromkeys(module for name in quantized for module in found[name].fused)
    return {"skip_modules": [*skip_modules, *(each for each in modules if each not in skip_modules)]} if modules else {}


def kept_modules(plan: Plan, index: ModelIndex) -> list[str]:
    """Modules with a matrix that is kept: consumers need them by name, or look for what quantized ones have.

    A tied one is among them, which has no matrix of its own.
    """
    kept = (row.name for row in plan.tensors if row.action == "keep" and len(row.shape) == 2)
    return [name.removesuffix(".weight") for name in (*kept, *index.tied) if name.endswith(".weight")]


def _row(info: TensorInfo, linear: Linear | None, skip_modules: Sequence[str], row_of: RowOf) -> TensorPlan:
    if linear is None:
        return kept_row(info, NO_LINEAR)
    skipped = [pattern for pattern in skip_modules if fnmatchcase(linear.module, pattern)]
    row = f"skip_modules: {skipped[0]}" if skipped else row_of(linear)
    return kept_row(info, row) if isinstance(row, str) else row


def _check_patterns(skip_modules: Sequence[str], found: Collection[Linear]) -> None:
    for position, pattern in enumerate(skip_modules):
        if pattern in USUALLY_SKIPPED or any(fnmatchcase(linear.module, pattern) for linear in found):
            continue  # a tied head is not there to be skipped
        message = f"{pattern!r} matches no Linear of this model"
        raise ParamsRejected(
            f"skip_modules: {message}",
            [{"pointer": f"/skip_modules/{position}", "code": "matches_nothing", "message": message}],
        )
