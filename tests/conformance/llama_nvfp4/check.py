"""NVFP4 checkpoints as GGUF files that keep their codes: llama.cpp computes the logits that their values stand for.

llama.cpp loads the factors of every architecture, and its graphs of most of them leave them out without a word: logits
are then off by orders of magnitude. Each architecture that the method `gguf` lets through is compared here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tests.conformance.llama_cpp.architectures import COUNTS, TOKENS, llama_cpp_outputs, transformers_outputs
from tests.random_models import QWEN_EXPERTS, RANDOM_MODELS, RandomModel, causal

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import QuantmillError
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_fp8.plugin import FP8
from quantmill_gguf.plugin import GGUF

HIDDEN = 256
MOST_TYPICAL = 0.05  # llama.cpp rounds activations to 8 bits


# Rows of the experts of RANDOM_MODELS have 32 values, half a block
WIDE_EXPERTS = {**QWEN_EXPERTS, "moe_intermediate_size": 64}
MODELS = RANDOM_MODELS | {
    "llama, biases of the attention": causal("Llama", attention_bias=True),
    "qwen2moe": causal("Qwen2Moe", **WIDE_EXPERTS, shared_expert_intermediate_size=64, norm_topk_prob=False),
    "qwen3moe": causal("Qwen3Moe", **WIDE_EXPERTS, head_dim=24, norm_topk_prob=True),
}


@dataclass(frozen=True)
class Loaded:
    """A file in llama.cpp beside transformers' model with the values of the checkpoint that it was made from.

    matrices   how many are in NVFP4
    changed    the largest relative rms by which verification finds the file's values off the checkpoint's
    typical    rms of the differences of logits over rms of the logits
    """

    case: str
    model: str
    refused: str = ""
    matrices: int = 0
    changed: float = 0.0
    largest: float = 0.0
    typical: float = 0.0

    @property
    def agrees(self) -> bool:
        return bool(self.refused) or self.typical <= MOST_TYPICAL


def load(case: str, model: RandomModel, python: Path, scratch: Path) -> Loaded:
    plain, folder, artifact = scratch / "plain", scratch / "model", scratch / "artifact"
    model.write(plain, HIDDEN)
    try:
        with open_checkpoint(plain) as checkpoint:
            source = Run(FP8, FP8.params(scheme="NVFP4A16"), checkpoint)
            source.write(source.quantize(), folder)
        with open_checkpoint(folder) as checkpoint:
            run = Run(GGUF, GGUF.params(type="NVFP4"), checkpoint)
            path, *_ = run.write(run.quantize(), artifact)
            found = verify(checkpoint, run.plan, GGUF, run.params, artifact)
            values = {name: np.array(checkpoint.tensor(name).values, np.float32) for name in checkpoint.index.tensors}
            matrices = len(checkpoint.index.stored)
    except QuantmillError as error:
        return Loaded(case, model.model, refused=str(error).rpartition("codes: ")[2].partition(";")[0])
    save_file(values, plain / "model.safetensors", {"format": "pt"})
    tokens = np.random.default_rng(0).integers(2, COUNTS["vocab_size"], TOKENS).tolist()
    wanted = transformers_outputs(model, plain, tokens)
    difference = llama_cpp_outputs(python, scratch, path, tokens, embeds=False) - wanted
    return Loaded(
        case,
        model.model,
        matrices=matrices,
        changed=found.relative_rmse,
        largest=float(np.abs(difference).max() / np.abs(wanted).max()),
        typical=float(np.sqrt(np.mean(np.square(difference)) / np.mean(np.square(wanted)))),
    )


def load_all(python: Path, scratch: Path) -> Iterator[Loaded]:
    for case, model in MODELS.items():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            loaded = load(case, model, python, Path(folder))
            yield loaded


def report(version: str, rows: list[Loaded]) -> str:
    lines = [
        f"## NVFP4 in llama.cpp (llama-cpp-python {version})",
        "",
        "Random models, made NVFP4A16 by `fp8` and from that GGUF by `gguf type=NVFP4`, which keeps every code and "
        "every scale of 16; loaded by llama.cpp and compared with transformers on the values of the NVFP4A16 "
        "checkpoint. `changed` is the relative rms by which the file's values are off the checkpoint's: one reciprocal "
        f"a matrix, in float32. `typical` is rms of the difference of logits over their rms, at most {MOST_TYPICAL:g}: "
        "llama.cpp rounds activations to 8 bits. It loads the factors of every architecture, and leaves them out of "
        "most graphs: those are refused when they are planned.",
        "",
        "| model | class | matrices | changed | largest | typical |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.case} | {row.model} | {row.matrices} | {row.changed:.1e} | {row.largest:.1e} | {row.typical:.1e} |"
            for row in rows
            if not row.refused
        ),
        "",
    ]
    return "\n".join([*lines, *(f"- {row.case}: refused: {row.refused}" for row in rows if row.refused)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of llama.cpp's environment")
    parser.add_argument("--scratch", type=Path, required=True)
    arguments = parser.parse_args()
    installed = [arguments.python, "-c", "from importlib.metadata import version; print(version('llama-cpp-python'))"]
    version = subprocess.run(installed, capture_output=True, text=True, check=True).stdout.strip()
    rows = list(load_all(arguments.python, arguments.scratch))
    print(report(version, rows))
    sys.exit(0 if all(row.agrees for row in rows) else 1)


if __name__ == "__main__":
    main()
