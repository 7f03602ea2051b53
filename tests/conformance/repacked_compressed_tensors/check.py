"""Folders repacked to compressed-tensors' layouts, in transformers 5."""

from __future__ import annotations

from tests.conformance.loading import BFLOAT16_WEIGHTS, Setting
from tests.conformance.repacked import made_of, show

from quantmill_awq.plugin import AWQ
from quantmill_fp8.plugin import FP8
from quantmill_gguf.plugin import GGUF
from quantmill_gptq.plugin import GPTQ

IN_NVFP4 = Setting(FP8, {"scheme": "NVFP4A16"})
SETTINGS = [
    *(made_of(GPTQ, {"bits": bits}, "pack-quantized", most=BFLOAT16_WEIGHTS) for bits in (2, 3, 4, 8)),
    made_of(GPTQ, {"format": "gptq_v2", "sym": False, "group_size": 32}, "pack-quantized", most=BFLOAT16_WEIGHTS),
    *(made_of(AWQ, {"group_size": size}, "pack-quantized", most=BFLOAT16_WEIGHTS) for size in (64, 128)),
    made_of(FP8, {"scheme": "FP8_NATIVE"}, "float-quantized", most=BFLOAT16_WEIGHTS),
    made_of(GGUF, {"type": "NVFP4"}, "nvfp4-pack-quantized", of=IN_NVFP4, most=BFLOAT16_WEIGHTS),
]

if __name__ == "__main__":
    packages = ["compressed-tensors", "transformers", "torch"]
    show(__doc__, "compressed-tensors", packages, "transformers_consumer.py", SETTINGS, dequantize=True)
