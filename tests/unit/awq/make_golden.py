"""Write tests/data/golden/awq.npz: the scales that llm-compressor finds for two Linears of a small random model.

The file in the repository comes from llmcompressor 0.14.0.1 and compressed-tensors 0.19.0 with torch 2.13.0, the
environment of kernels/bench/peers/llm_compressor. It pins memory for an accelerator and ends where there is none: that
one call is left out.

    python tests/unit/awq/make_golden.py tests/data/golden/awq.npz

For o_proj and down_proj, whose outputs are what its search compares: `<name>.inputs` (tokens, in), `<name>.weight`
(out, in) and `<name>.scales` (in,), found for 4 symmetric bits in groups of 32 by 19 ratios from 0 to 1 and by no
scales at all.
"""

import sys
import tempfile

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WINDOWS, WINDOW = 4, 32
IntermediatesCache.pin_memory = lambda *_: None
found: dict[str, np.ndarray] = {}


class Watched(AWQModifier):
    """Keeps what its search was given and what it found, where that is a Linear alone."""

    def _compute_best_scale(self, mapping, outputs, weights):  # type: ignore[no-untyped-def]
        scales = super()._compute_best_scale(mapping, outputs, weights)
        if isinstance(mapping.parent, torch.nn.Linear):
            name = mapping.parent_name.rpartition(".")[2]
            batches = self._parent_args_cache[mapping.parent]
            inputs = torch.cat([next(iter(batch.values())).flatten(0, -2) for batch in batches])
            weight = weights[mapping.parent]
            for part, values in (("inputs", inputs), ("weight", weight), ("scales", scales)):
                found[f"{name}.{part}"] = values.float().numpy()
        return scales


def model(folder: str) -> LlamaForCausalLM:
    """A few channels of what goes into o_proj and down_proj are far larger than the others. oneshot wants a folder."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    made = LlamaForCausalLM(config).float().eval()
    layer = made.model.layers[0]
    with torch.no_grad():
        for linear in (layer.self_attn.v_proj, layer.mlp.up_proj):
            linear.weight *= torch.exp(1.2 * torch.randn(len(linear.weight), 1))
    made.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def main(folder: str) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (WINDOWS, WINDOW))
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    oneshot(
        model=model(folder),
        dataset=Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()}),
        recipe=[Watched(), QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])],
        processor=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a"))),
        max_seq_length=WINDOW,
        num_calibration_samples=WINDOWS,
        shuffle_calibration_samples=False,
    )
    np.savez_compressed(sys.argv[1], **found)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
