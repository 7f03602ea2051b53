"""AWQ: 4 bits with scales from activations, for vLLM and transformers; 3 and 8 in compressed-tensors."""

from __future__ import annotations

from quantmill.contract import Method, Runtime, hookimpl, lazy
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.model_folder import KEPT_BLOCK_BOUNDS, KEPT_ERROR_BOUNDS
from quantmill_awq.bounds import BLOCK_BOUNDS, ERROR_BOUNDS
from quantmill_awq.params import AwqParams

AWQ = Method(
    name="awq",
    version="0.1.0",
    summary="AWQ: 4 bits (3 and 8 in compressed-tensors) scaled by activations, for vLLM and transformers",
    params=AwqParams,
    plan=lazy("quantmill_awq.planning:plan"),
    quantize=lazy("quantmill_awq.algorithm:quantize"),
    write=lazy("quantmill_awq.export:write"),
    place=lazy("quantmill_awq.export:place"),
    read=lazy("quantmill_awq.reader:read"),
    inspect=lazy("quantmill_awq.inspection:inspect"),
    formats=("awq", "compressed-tensors"),
    architectures=ARCHITECTURES,
    error_bounds={**KEPT_ERROR_BOUNDS, **ERROR_BOUNDS},
    block_bounds={**KEPT_BLOCK_BOUNDS, **BLOCK_BOUNDS},
    ladder=({"bits": 3}, {"bits": 4}, {"bits": 8}),
    promote=lazy("quantmill_awq.planning:promote"),
    runtimes=(
        Runtime("vLLM", "vllm serve {folder}"),
        Runtime("transformers", "AutoModelForCausalLM.from_pretrained('{folder}')"),
    ),
    bits=(3, 4, 8),
    granularity="groups of 32, 64 or 128 inputs, or rows",
    unit="block",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [AWQ]
