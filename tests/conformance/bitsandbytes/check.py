"""Our bnb folders in transformers 5 with bitsandbytes, and QLoRA on top of one.

They load, and predict what our own reader's weights predict; peft trains an adapter for twenty steps, and the loss
falls.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conformance.loading import (
    BFLOAT16,
    DATA,
    EIGHT_BIT_INPUTS,
    THREADS,
    Setting,
    arguments,
    compare,
    explained,
    report,
    versions,
)

from quantmill.calibration.tokens import tokenize
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill_bnb.plugin import BNB

AS_IT_IS = Path(__file__).resolve().parents[1] / "transformers_consumer.py"
PLAIN = Path(__file__).with_name("plain.py")
FLOAT32 = {"compute_dtype": "float32"}
OWN = (
    "bitsandbytes' dequantize_4bit on a CPU with AVX-512 differs from absmax * code for its own codes too, by 1.8 of 4"
)
WRONG = dict.fromkeys((512, 1024), OWN)
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

SETTINGS = [
    Setting(BNB, most=BFLOAT16, note="compute_dtype bfloat16, as unless told otherwise"),
    *(
        Setting(
            BNB,
            {"quant_type": type_, "double_quant": doubles, "block_size": size, **FLOAT32},
            most=BFLOAT16,
            defect=WRONG.get(size, ""),
        )
        for type_ in ("nf4", "fp4")
        for doubles in (True, False)
        for size in BLOCK_SIZES
    ),
    *(Setting(BNB, {"quant_storage": dtype, **FLOAT32}, most=BFLOAT16) for dtype in ("bfloat16", "float16", "float32")),
    Setting(BNB, {"compute_dtype": "float16"}, most=BFLOAT16),
    Setting(BNB, {"skip_modules": ("*.v_proj", "*.3.mlp.*"), **FLOAT32}, most=BFLOAT16),
    Setting(BNB, {"quant_type": "int8"}, most=EIGHT_BIT_INPUTS, note="LLM.int8 rounds activations to 8 bits too"),
]

# On processors with AVX512-BF16 bitsandbytes packs weights anew when a model predicts: absmax and products in bfloat16,
# whatever compute_dtype is, and only where blocks divide the rows.
ROWS_NOT_DIVIDED = "is invalid for input of size"
PACKED = [
    *(
        Setting(BNB, {"quant_type": type_, "double_quant": doubles, **FLOAT32}, most=BFLOAT16)
        for type_ in ("nf4", "fp4")
        for doubles in (True, False)
    ),
    Setting(BNB, {"block_size": 512}, refused=ROWS_NOT_DIVIDED, note="rows of 256, which blocks of 512 do not divide"),
]


def packs(python: Path) -> bool:
    """Whether bitsandbytes packs weights anew on this processor."""
    script = "from bitsandbytes.functional import has_avx512bf16; print(bool(has_avx512bf16()))"
    return subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "True"


def train(python: Path, scratch: Path) -> tuple[str, bool]:
    """Twenty steps of QLoRA on NF4 with double quantization; the report's sentence, and whether the loss fell."""
    folder = scratch / "qlora"
    with open_checkpoint(DATA / "millstone-4m") as checkpoint:
        run = Run(BNB, BNB.params(compute_dtype="float32"), checkpoint)
        run.write(run.quantize(THREADS), folder)
        text = (DATA / "text" / "evaluation.txt").read_text()[:20_000]
        ids = tokenize(checkpoint.index, text).ids
    errand, answer = scratch / "ids.json", scratch / "losses.json"
    errand.write_text(json.dumps([int(each) for each in ids]))
    command = [python, Path(__file__).with_name("train.py"), folder, errand, answer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"QLoRA: train.py ended with {done.returncode}: `{done.stderr.strip().splitlines()[-1]}`", False
    seen = json.loads(answer.read_text())
    losses = seen["losses"]
    fell = seen["after"] < seen["before"] and losses[-1] < losses[0] and seen["frozen_as_before"]
    frozen = "The quantized weights are as before." if seen["frozen_as_before"] else "The quantized weights CHANGED."
    return (
        "QLoRA: an adapter of rank 8 on all Linears, AdamW, 20 steps on the same 8 x 128 tokens. The loss of the first "
        f"step is {losses[0]:.4f}, of the last {losses[-1]:.4f}; of the model as it predicts {seen['before']:.4f} "
        f"before and {seen['after']:.4f} after. {frozen}",
        fell,
    )


def main() -> None:
    asked = arguments(__doc__)
    rows = list(compare(asked.python, asked.scratch, PLAIN, SETTINGS))
    packed = list(compare(asked.python, asked.scratch / "packed", AS_IT_IS, PACKED)) if packs(asked.python) else []
    trained, fell = train(asked.python, asked.scratch)
    title = versions(asked.python, ["bitsandbytes", "transformers", "peft", "torch"])
    print(f"## bitsandbytes ({title})\n\n{explained()} bitsandbytes takes its plain path.\n\n{report(rows)}")
    if packed:
        print(f"As it runs on this processor, which has AVX512-BF16: weights are packed anew.\n\n{report(packed)}")
    print(trained)
    sys.exit(0 if fell and all(row.agrees for row in (*rows, *packed)) else 1)


if __name__ == "__main__":
    main()
