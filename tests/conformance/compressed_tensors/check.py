"""Our fp8 folders, and compressed-tensors ones of awq, gptq and hqq, in transformers 5 with compressed-tensors."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.loading import (
    BFLOAT16,
    BFLOAT16_WEIGHTS,
    EIGHT_BIT_INPUTS,
    MIXTURES,
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
from quantmill_fp8.plugin import FP8
from quantmill_gptq.plugin import GPTQ
from quantmill_hqq.plugin import HQQ

CONSUMER = Path(__file__).resolve().parents[1] / "transformers_consumer.py"
INPUTS = "activations are rounded to 8 bits too, when it runs"
STATIC = "activations are rounded to 8 bits too, by the scale of random tokens"
CACHE = "keys and values are rounded to 8 bits too, by the scales of random tokens"
STATIC_SCALES = ({"scheme": "FP8"}, {"scheme": "FP8", "strategy": "tensor"})
ZERO_POINTS = (
    "transformers expects zero points that are not packed; with CompressedTensorsConfig(dequantize=True) it loads"
)
COMPRESSED = {"format": "compressed-tensors"}

# Plain weights are made when it is loaded, in the dtype of the scales: bfloat16, which powers of two do not round in
DEQUANTIZED = [
    *(Setting(FP8, {"scheme": scheme}) for scheme in ("MXFP8", "MXFP8A16", "MXFP4A16")),
    *(
        Setting(*method_and_params, most=BFLOAT16_WEIGHTS)
        for method_and_params in (
            *((FP8, {"scheme": scheme}) for scheme in ("FP8_DYNAMIC", "FP8A16", "FP8_BLOCK", "NVFP4A16")),
            *((FP8, params) for params in STATIC_SCALES),
            (FP8, {"scheme": "FP8A16", "skip_modules": ("*.v_proj", "*.3.mlp.*")}),
            *((HQQ, {**COMPRESSED, "group_size": size}) for size in (8, 16, 32, 64, 128, 256, -1)),
            *((HQQ, {**COMPRESSED, "nbits": 8, "group_size": size}) for size in (64, -1)),
            *((GPTQ, {**COMPRESSED, "bits": bits}) for bits in (2, 3, 4, 8)),
            *((GPTQ, {**COMPRESSED, "bits": bits, "sym": False, "group_size": 32}) for bits in (2, 3, 4, 8)),
            *((GPTQ, {**COMPRESSED, "bits": bits, "group_size": -1}) for bits in (3, 4, 8)),
            (GPTQ, {**COMPRESSED, "desc_act": True, "static_groups": True}),
            (GPTQ, {**COMPRESSED, "skip_modules": ("*.v_proj", "*.3.mlp.*")}),
            *((AWQ, {**COMPRESSED, "bits": bits}) for bits in (3, 4, 8)),
            *((AWQ, {**COMPRESSED, "bits": bits, "zero_point": False, "group_size": 32}) for bits in (3, 4, 8)),
            (AWQ, {**COMPRESSED, "group_size": -1}),
            (AWQ, {**COMPRESSED, "skip_modules": ("*.v_proj", "*.3.mlp.*")}),
        )
    ),
    Setting(
        HQQ,
        {**COMPRESSED, "overrides": {"*.down_proj": {"nbits": 8, "group_size": 128}}},
        refused="conversion of the weights",
        note="with dequantize=True transformers takes the first group's scheme for all modules",
    ),
]

# As from_pretrained(folder, dtype="auto") has it: the model's bfloat16, activations quantized where the scheme says so
AS_IT_IS = [
    *(
        Setting(FP8, {"scheme": scheme}, most=EIGHT_BIT_INPUTS, note=INPUTS)
        for scheme in ("FP8_DYNAMIC", "FP8_BLOCK", "MXFP8")
    ),
    *(Setting(FP8, params, most=EIGHT_BIT_INPUTS, note=STATIC) for params in STATIC_SCALES),
    Setting(FP8, {"scheme": "FP8_DYNAMIC", "kv_cache_scheme": "FP8"}, most=EIGHT_BIT_INPUTS, note=CACHE),
    *(Setting(FP8, {"scheme": scheme}, most=BFLOAT16) for scheme in ("FP8A16", "FP8_NATIVE", "MXFP8A16")),
    *(Setting(FP8, {"scheme": scheme}, most=BFLOAT16) for scheme in ("NVFP4A16", "MXFP4A16")),
    Setting(GPTQ, COMPRESSED, most=BFLOAT16),
    Setting(HQQ, COMPRESSED, refused="ignore_mismatched_sizes", note=ZERO_POINTS),
]

# Experts in stacks; transformers joins them again and computes with plain weights
FAILS = "transformers fails to join experts of this layout"
FIRST_KEPT = {"skip_modules": ("lm_head", "*.0.mlp.experts.*")}
NO_GLOBAL_SCALE = "transformers joins the experts' weights without their global scale"
STACKED = [
    *(Setting(FP8, {"scheme": scheme}, most=BFLOAT16) for scheme in ("FP8_NATIVE", "FP8A16", "MXFP4A16")),
    *(Setting(FP8, {"scheme": scheme, **FIRST_KEPT}, most=BFLOAT16) for scheme in ("FP8_NATIVE", "FP8A16")),
    Setting(FP8, {"scheme": "FP8_DYNAMIC"}, most=EIGHT_BIT_INPUTS, note=INPUTS),
    *(Setting(FP8, params, most=EIGHT_BIT_INPUTS, note=STATIC) for params in STATIC_SCALES),
    *(
        Setting(FP8, {"scheme": scheme}, refused="conversion of the weights", note=FAILS)
        for scheme in ("FP8_BLOCK", "MXFP8", "MXFP8A16")
    ),
    Setting(FP8, {"scheme": "NVFP4A16"}, defect=NO_GLOBAL_SCALE),
]


def main() -> None:
    asked = arguments(__doc__)
    python, scratch = asked.python, asked.scratch
    rows = list(compare(python, scratch / "dequantized", CONSUMER, DEQUANTIZED, dequantize=True))
    as_it_is = list(compare(python, scratch / "as-it-is", CONSUMER, AS_IT_IS, dtype="auto"))
    stacked = dict(
        compare_mixtures(python, scratch / "mixtures", CONSUMER, dict.fromkeys(MIXTURES, STACKED), dtype="auto")
    )
    title = versions(asked.python, ["compressed-tensors", "transformers", "torch"])
    print(f"## compressed-tensors ({title})\n\n{explained()} With dequantize=True:\n\n{report(rows)}")
    print(f"As it is loaded without being told anything, in bfloat16:\n\n{report(as_it_is)}")
    print(of_mixtures(stacked))
    sys.exit(0 if all(row.agrees for part in (rows, as_it_is, *stacked.values()) for row in part) else 1)


if __name__ == "__main__":
    main()
