"""GPTQ: 2 to 8 bits, calibrated, for vLLM, transformers and GPTQModel."""

from __future__ import annotations

from quantmill.contract import Method, Runtime, hookimpl, lazy
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.model_folder import KEPT_BLOCK_BOUNDS, KEPT_ERROR_BOUNDS
from quantmill_gptq.bounds import BLOCK_BOUNDS, ERROR_BOUNDS
from quantmill_gptq.params import GptqParams

GPTQ = Method(
    name="gptq",
    version="0.1.0",
    summary="GPTQ: 2, 3, 4 or 8 bits from calibration text, for vLLM, transformers and GPTQModel",
    params=GptqParams,
    plan=lazy("quantmill_gptq.planning:plan"),
    quantize=lazy("quantmill_gptq.algorithm:quantize"),
    write=lazy("quantmill_gptq.export:write"),
    place=lazy("quantmill_gptq.export:place"),
    read=lazy("quantmill_gptq.reader:read"),
    inspect=lazy("quantmill_gptq.inspection:inspect"),
    formats=("gptq", "gptq_v2", "compressed-tensors"),
    architectures=ARCHITECTURES,
    error_bounds={**KEPT_ERROR_BOUNDS, **ERROR_BOUNDS},
    block_bounds={**KEPT_BLOCK_BOUNDS, **BLOCK_BOUNDS},
    ladder=({"bits": 2}, {"bits": 3}, {"bits": 4}, {"bits": 8}),
    promote=lazy("quantmill_gptq.planning:promote"),
    runtimes=(
        Runtime("vLLM", "vllm serve {folder}"),
        Runtime("transformers", "AutoModelForCausalLM.from_pretrained('{folder}')"),
        Runtime("GPTQModel", "GPTQModel.load('{folder}')"),
    ),
    bits=(2, 3, 4, 8),
    granularity="groups of 32, 64 or 128 inputs, or rows",
    unit="block",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [GPTQ]
