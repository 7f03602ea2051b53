"""Runs in llm-compressor's environment for tests/benchmarks/awq.py: its oneshot with an AWQModifier on token ids.

The weights are written as they multiply unscaled inputs: rounded by its own min-max scales, and divided by what the
AWQModifier multiplied their columns by, which the weights before rounding tell. It pins memory for an accelerator, and
ends where there is none: that one call is left out.
"""

import json
import sys
import time

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

IntermediatesCache.pin_memory = lambda *_: None


def main() -> None:
    errand = json.loads(sys.argv[1])
    torch.set_num_threads(errand["threads"])
    ids = np.load(errand["ids"])
    model = AutoModelForCausalLM.from_pretrained(errand["model"], dtype=torch.float32)
    source = {name: values.detach().clone() for name, values in model.named_parameters()}
    data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()})
    weights = QuantizationArgs(
        num_bits=errand["bits"],
        type="int",
        symmetric=errand["symmetric"],
        strategy="group",
        group_size=errand["group_size"],
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = [AWQModifier(), QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])]
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
    np.savez(errand["weights"], **unscaled(model, source))
    print(json.dumps(took))


@torch.no_grad()
def unscaled(model: torch.nn.Module, source: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    found = {}
    for name, module in model.named_modules():
        if not name.endswith("_proj"):
            continue
        rounded = forward_quantize(module, module.weight, "weight", module.quantization_scheme.weights)
        scaled, original = module.weight.double(), source[f"{name}.weight"].double()
        # weight = rows * original * columns: each by least squares, rows first as ratios of norms would mix both
        columns = torch.ones(original.shape[1], dtype=torch.float64)
        rows = torch.ones(original.shape[0], dtype=torch.float64)
        for _ in range(50):
            both = original * columns
            rows = (scaled * both).sum(1) / both.square().sum(1)
            both = original * rows[:, None]
            columns = (scaled * both).sum(0) / both.square().sum(0)
        found[f"{name}.weight"] = (rounded.double() / columns / rows[:, None]).float().numpy()
    return found


if __name__ == "__main__":
    main()
