"""Runs in llm-compressor's environment for tests/benchmarks/gptq.py: its oneshot with a GPTQModifier on token ids."""

import json
import sys
import time

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def main() -> None:
    errand = json.loads(sys.argv[1])
    torch.set_num_threads(errand["threads"])
    ids = np.load(errand["ids"])
    model = AutoModelForCausalLM.from_pretrained(errand["model"], dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()})
    weights = QuantizationArgs(
        num_bits=errand["bits"], type="int", symmetric=True, strategy="group", group_size=errand["group_size"]
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{errand['model']}/tokenizer.json")
    seconds, processor = time.perf_counter(), time.process_time()
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        processor=tokenizer,
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
        shuffle_calibration_samples=False,
    )
    took = {"seconds": time.perf_counter() - seconds, "processor_seconds": time.process_time() - processor}
    found = {name: values for name, values in model.named_parameters() if name.endswith("_proj.weight")}
    np.savez(errand["weights"], **{name: values.detach().float().numpy() for name, values in found.items()})
    print(json.dumps(took))


if __name__ == "__main__":
    main()
