"""bitsandbytes: 4-bit and 8-bit folders that transformers loads and peft trains adapters on."""

from __future__ import annotations

from quantmill.contract import WHOLE_ROW, BlockBound, Method, Runtime, hookimpl, lazy
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.model_folder import KEPT_BLOCK_BOUNDS, KEPT_ERROR_BOUNDS
from quantmill_bnb.params import BnbParams

# Largest relative RMSE of one tensor that verification accepts: about 1.3 times the worst of eleven distributions,
# Student's t with 3 degrees of freedom, log-normal and 20-fold outliers among them; long blocks lose most to outliers.
# tests/unit/bnb/test_error_bounds.py measures them again.
BY_BLOCK_SIZE = {  # block size -> NF4, FP4
    32: (0.14, 0.215),
    64: (0.17, 0.262),
    128: (0.205, 0.315),
    256: (0.255, 0.376),
    512: (0.34, 0.45),
    1024: (0.45, 0.58),
    2048: (0.57, 0.71),
    4096: (0.68, 0.82),
}
HALF_STEP = {"NF4": 0.153, "FP4": 0.168}  # half of the widest gap between the values of two codes
NESTED = 0.0075  # the same of the 8-bit absmax, over the largest of them


def _error_bounds() -> dict[str, float]:
    four_bit = {
        f"{type_}-{size}{dq}": bound
        for size, bounds in BY_BLOCK_SIZE.items()
        for type_, bound in zip(("NF4", "FP4"), bounds, strict=True)
        for dq in ("", "-DQ")
    }
    return {**KEPT_ERROR_BOUNDS, "INT8": 0.088, **four_bit}


def _block_bounds() -> dict[str, BlockBound]:
    four_bit = {
        f"{type_}-{size}{dq}": BlockBound(size, half, tensor_relative=NESTED if dq else 0.0, across_rows=True)
        for size in BY_BLOCK_SIZE
        for type_, half in HALF_STEP.items()
        for dq in ("", "-DQ")
    }
    rows = BlockBound(32, 0.0, WHOLE_ROW, 0.0045)  # half a step is 1 / 254
    return {**KEPT_BLOCK_BOUNDS, "INT8": rows, **four_bit}


BNB = Method(
    name="bnb",
    version="0.1.0",
    summary="bitsandbytes folders: NF4 and FP4 in blocks, INT8 by rows, for transformers and QLoRA",
    params=BnbParams,
    plan=lazy("quantmill_bnb.planning:plan"),
    quantize=lazy("quantmill_bnb.algorithm:quantize"),
    write=lazy("quantmill_bnb.export:write"),
    place=lazy("quantmill_bnb.export:place"),
    read=lazy("quantmill_bnb.reader:read"),
    inspect=lazy("quantmill_bnb.inspection:inspect"),
    formats=("bitsandbytes",),
    architectures=ARCHITECTURES,
    error_bounds=_error_bounds(),
    block_bounds=_block_bounds(),
    runtimes=(Runtime("transformers", "AutoModelForCausalLM.from_pretrained('{folder}')"),),
    ladder=(
        {"quant_type": "nf4", "double_quant": True, "block_size": 64},
        {"quant_type": "nf4", "double_quant": False, "block_size": 32},
        {"quant_type": "int8", "double_quant": None, "block_size": 64, "quant_storage": "uint8"},
    ),
    promote=lazy("quantmill_bnb.planning:promote"),
    bits=(4, 8),
    granularity="blocks of 32 to 4096 values of the flattened weight; int8: rows",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [BNB]
