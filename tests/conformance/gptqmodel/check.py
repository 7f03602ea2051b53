"""Our gptq and awq folders in GPTQModel: they load, and predict what our own reader's weights predict."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.loading import Setting, arguments, compare, explained, report, versions

from quantmill_awq.plugin import AWQ
from quantmill_gptq.plugin import GPTQ

CONSUMER = Path(__file__).with_name("consume.py")
HALF = 0.05  # float16 throughout, where ours are float32
EIGHT_BITS = 0.3  # 8 bits change the logits by little more than float16 does
SETTINGS = [
    *(Setting(GPTQ, {"bits": bits}, most=HALF) for bits in (2, 3, 4)),
    Setting(GPTQ, {"bits": 8}, most=EIGHT_BITS),
    *(Setting(GPTQ, {"group_size": size}, most=HALF) for size in (32, 64, -1)),
    *(Setting(GPTQ, {"format": "gptq_v2", "sym": False, "bits": bits}, most=HALF) for bits in (2, 3, 4)),
    Setting(GPTQ, {"format": "gptq_v2", "sym": False, "bits": 8}, most=EIGHT_BITS),
    Setting(GPTQ, {"format": "gptq_v2"}, most=HALF),
    Setting(GPTQ, {"desc_act": True}, most=HALF),
    Setting(GPTQ, {"desc_act": True, "static_groups": True}, most=HALF),
    Setting(GPTQ, {"skip_modules": ("*.v_proj", "*.3.mlp.*")}, most=HALF),
    *(Setting(AWQ, {"group_size": size}, most=HALF) for size in (32, 64, 128, -1)),
    Setting(AWQ, {"skip_modules": ("*.v_proj", "*.3.mlp.*")}, most=HALF),
]


def main() -> None:
    asked = arguments(__doc__)
    rows = list(compare(asked.python, asked.scratch, CONSUMER, SETTINGS))
    title = versions(asked.python, ["gptqmodel", "transformers", "torch"])
    print(f"## GPTQModel ({title})\n\n{explained()}\n\n{report(rows)}")
    sys.exit(0 if all(row.agrees for row in rows) else 1)


if __name__ == "__main__":
    main()
