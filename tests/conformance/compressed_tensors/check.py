"""Our fp8 folders, and the compressed-tensors ones of hqq and gptq, in transformers 5 with compressed-tensors."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.loading import Setting, arguments, compare, explained, report, versions

from quantmill_fp8.plugin import FP8
from quantmill_gptq.plugin import GPTQ
from quantmill_hqq.plugin import HQQ

CONSUMER = Path(__file__).resolve().parents[1] / "transformers_consumer.py"
EIGHT_BIT_INPUTS = 1.5
STATIC_INPUTS = 2.0
STATIC = "activations are rounded to 8 bits too, by the scale of random tokens"
INPUTS = "activations are rounded to 8 bits too, when it runs"
COMPRESSED = {"format": "compressed-tensors"}

SETTINGS = [
    Setting(FP8, {"scheme": "FP8A16"}),
    Setting(FP8, {"scheme": "FP8_DYNAMIC"}, most=EIGHT_BIT_INPUTS, note=INPUTS),
    Setting(FP8, {"scheme": "FP8"}, most=STATIC_INPUTS, note=STATIC),
    Setting(FP8, {"scheme": "FP8", "strategy": "tensor"}, most=STATIC_INPUTS, note=STATIC),
    Setting(FP8, {"scheme": "FP8_BLOCK"}, most=EIGHT_BIT_INPUTS, note=INPUTS),
    Setting(FP8, {"scheme": "FP8_NATIVE"}),
    Setting(FP8, {"scheme": "MXFP8"}, most=EIGHT_BIT_INPUTS, note=INPUTS),
    Setting(FP8, {"scheme": "MXFP8A16"}),
    Setting(FP8, {"scheme": "NVFP4A16"}),
    Setting(FP8, {"scheme": "MXFP4A16"}),
    Setting(FP8, {"scheme": "FP8A16", "skip_modules": ("*.v_proj", "*.3.mlp.*")}),
    *(Setting(HQQ, {**COMPRESSED, "group_size": size}) for size in (8, 16, 32, 64, 128, 256, -1)),
    *(Setting(HQQ, {**COMPRESSED, "nbits": 8, "group_size": size}) for size in (64, -1)),
    *(Setting(GPTQ, {**COMPRESSED, "bits": bits}) for bits in (2, 3, 4, 8)),
    *(Setting(GPTQ, {**COMPRESSED, "bits": bits, "sym": False, "group_size": 32}) for bits in (2, 3, 4, 8)),
    *(Setting(GPTQ, {**COMPRESSED, "bits": bits, "group_size": -1}) for bits in (3, 4, 8)),
    Setting(GPTQ, {**COMPRESSED, "desc_act": True, "static_groups": True}),
    Setting(GPTQ, {**COMPRESSED, "skip_modules": ("*.v_proj", "*.3.mlp.*")}),
    Setting(HQQ, {**COMPRESSED, "overrides": {"*.down_proj": {"nbits": 8, "group_size": 128}}}),
]


def main() -> None:
    asked = arguments(__doc__)
    rows = list(compare(asked.python, asked.scratch, CONSUMER, SETTINGS))
    title = versions(asked.python, ["compressed-tensors", "transformers", "torch"])
    print(f"## compressed-tensors ({title})\n\n{explained()}\n\n{report(rows)}")
    sys.exit(0 if all(row.agrees for row in rows) else 1)


if __name__ == "__main__":
    main()
