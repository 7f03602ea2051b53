"""Runs in a consumer's environment: transformers loads folders, and says what they predict and write.

    python transformers_consumer.py ERRAND.npz ANSWER.npz

The errand: `folders`, `texts` int64 (windows, window), `prompts` int64 (prompts, prompt), `length` of what is written,
`dtype` to load as, and `dequantize`, whether compressed-tensors is to make plain weights at once. The answer: for each
folder's name `<name>.logits` and `<name>.written`, and `errors`, JSON, where one was not loaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def loaded(folder: str, dtype: str, dequantize: bool) -> Any:
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if dequantize:
        from transformers import CompressedTensorsConfig

        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def outputs(model: Any, texts: Any, prompts: Any, length: int) -> tuple[Any, Any]:
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
            model = loaded(folder, str(errand["dtype"]), bool(errand["dequantize"]))
            logits, written = outputs(model, errand["texts"], errand["prompts"], int(errand["length"]))
        except Exception as error:  # any: it is what the report says of this folder
            errors[Path(folder).name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        else:
            answer |= {f"{Path(folder).name}.logits": logits, f"{Path(folder).name}.written": written}
    np.savez(sys.argv[2], errors=json.dumps(errors), **answer)


if __name__ == "__main__":
    main()
