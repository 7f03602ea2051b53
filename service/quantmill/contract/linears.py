"""Which tensors of a decoder are weights of its Linears, and the plan of a method that quantizes those alone.

transformers would say it exactly, by building the model; a plan has to say it from headers alone and at once. So the
names that a Linear has in the decoders of transformers are a table here. What is in no row stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import StringConstraints

from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.experts import Stack, is_stacked, stacks
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
STACKED = "experts in one tensor, and not one by one as Linears"
UNKNOWN_STACK = "experts in one tensor, whose layout is not known here"

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
RowOfStack = Callable[[Stack], TensorPlan | str]


def plan_linears(
    index: ModelIndex,
    skip_modules: Sequence[str],
    row_of: RowOf,
    *,
    of_stack: RowOfStack = lambda stack: STACKED,
    allow_requantize: bool | None = None,
) -> Plan:
    """A plan with one unit a tensor: the Linears that `skip_modules` does not name as `row_of` has them, all else kept.

    `row_of` gives the row of a Linear, or the reason why it keeps its weights; `of_stack` that of experts in one
    tensor, whose module is the tensor's name. The peak memory is the largest tensor's source bytes (its mapped pages)
    plus its stored bytes, of experts one by one those of one expert.

    Raises SourceRejected for a source that `require_unquantized` refuses or that has no Linear to quantize,
    ParamsRejected for a pattern that matches no Linear.
    """
    warnings = require_unquantized(index, allow_requantize)
    found, stacked = linears(index), stacks(index)
    _check_patterns(skip_modules, [*(linear.module for linear in found.values()), *stacked])
    rows_of = {linear.tensor.name: (linear.module, partial(row_of, linear)) for linear in found.values()}
    rows_of |= {name: (name, partial(of_stack, stack)) for name, stack in stacked.items()}
    rows = tuple(_row(info, rows_of.get(info.name), skip_modules) for info in index.tensors.values())
    if all(row.action == "keep" for row in rows):
        reasons = sorted({row.reason for row in rows})
        raise SourceRejected(f"{index.architecture} has nothing to quantize: {'; '.join(reasons)}", reasons=reasons)
    peak = max(index.tensors[row.name].nbytes + _at_once(row, stacked) for row in rows)
    return Plan(rows, tuple(Unit(row.name, (row.name,)) for row in rows), peak, warnings)


def torn_apart(plan: Plan, index: ModelIndex) -> Iterator[str]:
    """What a plan has to say of modules that vLLM computes in one product, and that are not quantized all or none."""
    for fused in sorted({linear.fused for linear in linears(index).values()}):
        if len({plan.by_name[f"{module}.weight"].action for module in fused}) > 1:
            yield f"vLLM computes {', '.join(fused)} in one product and loads them quantized all or none"


def promote_linears(
    index: ModelIndex, plan: Plan, skip_modules: Sequence[str], names: Collection[str]
) -> Mapping[str, Any]:
    """The `skip_modules` by which the named Linears keep their weights, and with them those that engines compute in
    one product with them, which must have one scheme. Empty where none of them is quantized."""
    together = {name: linear.fused for name, linear in linears(index).items()}
    together |= {name: stack.together for name, stack in stacks(index).items()}
    quantized = [name for name in together if name in names and plan.by_name[name].action == "quantize"]
    modules = dict.fromkeys(module for name in quantized for module in together[name])
    return {"skip_modules": [*skip_modules, *(each for each in modules if each not in skip_modules)]} if modules else {}


def awq_exclusions(kept: Collection[str]) -> dict[str, Any]:
    """The setting by which GPTQModel knows the modules of decoder blocks that keep their weights: it looks nowhere
    else, and would take them for quantized ones whose arrays are missing. Empty where all are quantized.
    """
    excluded = [module for module in kept if _is_in_a_block(module)]
    return {"dynamic": {f"-:^{re.escape(module)}$": {} for module in excluded}} if excluded else {}


def gptq_exclusions(plan: Plan, kept: Collection[str]) -> dict[str, Any]:
    """As `awq_exclusions`, which vLLM reads too, and `modules_in_block_to_quantize`, which names the others: for
    transformers, which compares their ends, and for vLLM where it fuses modules.
    """
    found = awq_exclusions(kept)
    quantized = (row.name.removesuffix(".weight") for row in plan.tensors if row.action == "quantize")
    modules = [module for module in quantized if _is_in_a_block(module)]
    return found | {"modules_in_block_to_quantize": [modules]} if found else {}


def _is_in_a_block(module: str) -> bool:
    return any(part.isdecimal() for part in module.split("."))


def kept_modules(plan: Plan, index: ModelIndex) -> list[str]:
    """Modules with a matrix that is kept, by their names in the artifact: consumers need them, or look for what
    quantized ones have.

    A tied one is among them, which has no matrix of its own, and of experts in one tensor their module and each of
    their Linears, by which consumers may know them.
    """
    kept = [row for row in plan.tensors if row.action == "keep"]
    matrices = (row.output for row in kept if len(row.shape) == 2)
    modules = [name.removesuffix(".weight") for name in (*matrices, *index.tied) if name.endswith(".weight")]
    stacked = [row for row in kept if is_stacked(index.tensors[row.name])]
    found = stacks(index)
    known = [(row, found[row.name]) for row in stacked if row.name in found]
    one_by_one = {row.name: stack.module for row, stack in known if stack.is_one_by_one(row)}
    of_all = (one_by_one.get(row.name, row.name.rpartition(".")[0]) for row in stacked)
    return [*modules, *dict.fromkeys(of_all), *(module for _, stack in known for module in stack.modules)]


def _row(
    info: TensorInfo, found: tuple[str, Callable[[], TensorPlan | str]] | None, skip_modules: Sequence[str]
) -> TensorPlan:
    """The row of a tensor; `found` are its module and what gives the row of one that is not skipped."""
    if found is None:
        return kept_row(info, UNKNOWN_STACK if is_stacked(info) else NO_LINEAR)
    module, row_of = found
    skipped = [pattern for pattern in skip_modules if fnmatchcase(module, pattern)]
    row = f"skip_modules: {skipped[0]}" if skipped else row_of()
    return kept_row(info, row) if isinstance(row, str) else row


def _at_once(row: TensorPlan, stacked: Mapping[str, Stack]) -> int:
    """What is stored of a tensor and in memory at a time."""
    one_by_one = row.name in stacked and row.action == "quantize"
    return row.nbytes // stacked[row.name].experts if one_by_one else row.nbytes


def _check_patterns(skip_modules: Sequence[str], modules: Collection[str]) -> None:
    for position, pattern in enumerate(skip_modules):
        if pattern in USUALLY_SKIPPED or any(fnmatchcase(module, pattern) for module in modules):
            continue  # a tied head is not there to be skipped
        message = f"{pattern!r} matches no Linear of this model"
        raise ParamsRejected(
            f"skip_modules: {message}",
            [{"pointer": f"/params/skip_modules/{position}", "code": "matches_nothing", "message": message}],
        )
