"""Runs in GPTQModel's environment: it loads folders, in float16, and says what they predict and write.

    python consume.py ERRAND.npz ANSWER.npz

The errand and the answer are those of ../transformers_consumer.py. Its plain kernels for processors take float16.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling each of its layers takes minutes

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel

BACKENDS = {"gptq": BACKEND.GPTQ_TORCH, "awq": BACKEND.AWQ_TORCH}


def outputs(folder: str, texts: Any, prompts: Any, length: int) -> tuple[Any, Any]:
    backend = BACKENDS[json.loads(Path(folder, "config.json").read_text())["quantization_config"]["quant_method"]]
    model = GPTQModel.load(folder, device="cpu", backend=backend, dtype=torch.float16).model
    with torch.inference_mode():
        logits = model(torch.from_numpy(texts), use_cache=False).logits.float().numpy()
        ids, kept, written = torch.from_numpy(prompts), None, []
        for _ in range(length):
            made = model(ids, past_key_values=kept, use_cache=True)
            kept, ids = made.past_key_values, made.logits[:, -1:].float().argmax(-1)
            written.append(ids[:, 0].numpy())
    return logits, np.stack(written, axis=1)


def main() -> None:
    errand = np.load(sys.argv[1])
    answer: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for folder in map(str, errand["folders"]):
        try:
            logits, written = outputs(folder, errand["texts"], errand["prompts"], int(errand["length"]))
        except Exception as error:  # any: it is what the report says of this folder
            errors[Path(folder).name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        else:
            answer |= {f"{Path(folder).name}.logits": logits, f"{Path(folder).name}.written": written}
    np.savez(sys.argv[2], errors=json.dumps(errors), **answer)


if __name__ == "__main__":
    main()
