"""Runs in bitsandbytes' environment: QLoRA by peft on a quantized folder, twenty steps on a text.

    python train.py FOLDER IDS.json ANSWER.json

The answer: `losses` of the steps, of the model as it predicts `before` and `after` them, and `frozen_as_before`,
whether the quantized weights have the bytes that they had.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import bitsandbytes.nn.modules
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM

STEPS, BATCH, WINDOW = 20, 8, 128
RATE = 2e-3

bitsandbytes.nn.modules.has_avx512bf16 = lambda: False  # else predicting packs the weights anew, see plain.py


def main() -> None:
    folder, ids_file, answer = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(2)
    ids = torch.tensor(json.loads(Path(ids_file).read_text()))
    windows = ids[: BATCH * WINDOW].reshape(BATCH, WINDOW)
    model = prepare_model_for_kbit_training(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    frozen = digest(model)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = loss_on(model, windows)
    losses = train(model, windows)
    after = loss_on(model, windows)
    same = digest(model) == frozen
    Path(answer).write_text(json.dumps({"losses": losses, "before": before, "after": after, "frozen_as_before": same}))


def train(model: Any, windows: torch.Tensor) -> list[float]:
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=RATE)
    losses = []
    model.train()
    for _ in range(STEPS):
        loss = model(input_ids=windows, labels=windows, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def loss_on(model: Any, windows: torch.Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        return float(model(input_ids=windows, labels=windows, use_cache=False).loss)


def digest(model: Any) -> str:
    """Of the quantized weights' bytes."""
    found = hashlib.sha256()
    for each in model.parameters():
        if each.dtype == torch.uint8:
            found.update(each.detach().cpu().numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
