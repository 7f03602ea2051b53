"""Folders repacked to GPTQ's and AWQ's layouts, in GPTQModel."""

from __future__ import annotations

from tests.conformance.repacked import COMPRESSED, made_of, show

from quantmill_awq.plugin import AWQ
from quantmill_gptq.plugin import GPTQ

HALF = 0.05  # float16 throughout, where ours are float32
EIGHT_BITS = 0.3  # 8 bits change the logits by little more than float16 does
SETTINGS = [
    *(made_of(GPTQ, {**COMPRESSED, "bits": bits}, "gptq", most=HALF) for bits in (2, 3, 4)),
    made_of(GPTQ, {**COMPRESSED, "bits": 8}, "gptq", most=EIGHT_BITS),
    made_of(GPTQ, {"format": "gptq_v2"}, "gptq", most=HALF),
    made_of(GPTQ, {"format": "gptq_v2", "desc_act": True}, "gptq", most=HALF),
    made_of(AWQ, COMPRESSED, "awq", most=HALF),
]

if __name__ == "__main__":
    show(__doc__, "GPTQModel", ["gptqmodel", "transformers", "torch"], "gptqmodel/consume.py", SETTINGS)
