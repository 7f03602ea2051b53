"""Re-packs: the weights of a quantized checkpoint in another layout, without a change of a value."""

from __future__ import annotations

from quantmill.contract import BlockBound, Method, Runtime, hookimpl, lazy
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.model_folder import KEPT_BLOCK_BOUNDS, KEPT_ERROR_BOUNDS
from quantmill_repack.params import RepackParams

SCHEMES = (*(f"W{bits}{kind}" for bits in (2, 3, 4, 8) for kind in ("", "-ASYM")), "FP8-128x128", "NVFP4")

REPACK = Method(
    name="repack",
    version="0.1.0",
    summary="GPTQ, AWQ, compressed-tensors, FP8 and GGUF's NVFP4 into each other's layout, value for value",
    params=RepackParams,
    plan=lazy("quantmill_repack.planning:plan"),
    convert=lazy("quantmill_repack.conversion:convert"),
    quantize=lazy("quantmill_repack.algorithm:quantize"),
    write=lazy("quantmill_repack.export:write"),
    place=lazy("quantmill_repack.export:place"),
    read=lazy("quantmill_repack.reader:read"),
    inspect=lazy("quantmill_repack.inspection:inspect"),
    formats=("compressed-tensors", "gptq", "awq", "fp8"),
    architectures=ARCHITECTURES,
    error_bounds={**KEPT_ERROR_BOUNDS, **dict.fromkeys(SCHEMES, 0.0)},  # lossless, or refused
    block_bounds={**KEPT_BLOCK_BOUNDS, **dict.fromkeys(SCHEMES, BlockBound(32, 0.0))},
    runtimes=(
        Runtime("vLLM", "vllm serve {folder}"),
        Runtime("transformers", "AutoModelForCausalLM.from_pretrained('{folder}')"),
    ),
    bits=(2, 3, 4, 8),
    granularity="as the source has it",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [REPACK]
