"""Model folders of ours in the programs that load them: the same tokens through both, and how far the logits are apart.

A consumer's check.py names its settings in a table and prints `report`. Our side is transformers' model, in float32, on
the weights that the method's own reader gives; the consumer's side is a script that runs in its environment (an errand
of `load` tells it what to load, and as what).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.random_models import RandomModel, causal

from quantmill.calibration import source_weights
from quantmill.calibration.decoder import Decoder, limit_threads
from quantmill.calibration.engine import calibrate
from quantmill.calibration.tokens import tokenize
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.method import Method
from quantmill.contract.testing import Run
from quantmill.evaluation.greedy import write
from quantmill.worker.conversion import opened

DATA = Path(__file__).resolve().parents[1] / "data"
WINDOWS, WINDOW = 4, 64  # of the evaluation text, whose logits are compared
PROMPTS, PROMPT, WRITTEN = 4, 16, 16
# Mean differences of logarithms of probabilities that the small model shows when a consumer
EXACT = 1e-4  # computes in float32 with the same weights
BFLOAT16_WEIGHTS = 0.006  # rounds dequantized weights to bfloat16
BFLOAT16 = 0.06  # computes in bfloat16, or with weights that are made in it
EIGHT_BIT_INPUTS = 0.1  # rounds activations to 8 bits
THREADS = 1  # small models, whose products more threads would wait in

# Each token goes to all experts: a choice between near ones would turn on how a consumer rounds
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}  # of 32 values, fewer have no kernel in vLLM's CPU build
EXPERTS = {**HEADS, "num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 384}
MIXTURES: Mapping[str, RandomModel] = {
    "Mixtral": causal("Mixtral", num_local_experts=4, **{key: EXPERTS[key] for key in (*HEADS, "num_experts_per_tok")}),
    "Qwen2-MoE": causal("Qwen2Moe", **EXPERTS, shared_expert_intermediate_size=384),
    "Qwen3-MoE": causal("Qwen3Moe", **EXPERTS, head_dim=32, norm_topk_prob=True),
}


@dataclass(frozen=True)
class Setting:
    """Parameters of a method, and what a consumer may make of them.

    most      the largest mean difference of the logarithms of probabilities that is accepted
    refused   words of the error that the consumer gives, where it cannot load the setting
    defect    what the consumer computes wrongly, where it does: then the difference is reported and not judged
    note      why it is further off, or what it refuses
    of        what made the folder that this setting is made of, where it is not the model itself
    """

    method: Method
    params: Mapping[str, Any] = field(default_factory=dict)
    most: float = EXACT
    refused: str = ""
    defect: str = ""
    note: str = ""
    of: Setting | None = None

    @property
    def label(self) -> str:
        own = " ".join([self.method.name, *(f"{key}={_short(value)}" for key, value in self.params.items())])
        return f"{self.of.label}, {own}" if self.of else own


@dataclass(frozen=True)
class Outputs:
    """logits float32 (windows, window, vocabulary), written int64 (prompts, written)."""

    logits: NDArray[np.float32]
    written: NDArray[np.int64]


@dataclass(frozen=True)
class Loaded:
    """One setting as both sides see it; `error` is the consumer's, where it did not load."""

    setting: Setting
    bits_per_weight: float
    changed: float = 0.0  # mean difference of our logits from the source's
    largest: float = 0.0
    mean: float = 0.0
    same_tokens: int = 0
    error: str = ""

    @property
    def agrees(self) -> bool:
        if self.setting.refused or self.error:
            return bool(self.setting.refused) and self.setting.refused in self.error
        return bool(self.setting.defect) or self.mean <= self.setting.most


def compare(
    python: Path,
    scratch: Path,
    consumer: Path,
    settings: Sequence[Setting],
    *,
    dtype: str = "float32",
    dequantize: bool = False,
    model: Path = DATA / "millstone-4m",
) -> Iterator[Loaded]:
    """Each setting on a small model, written by us and loaded by the script `consumer`.

    `dtype` ("auto" for the model's) and `dequantize` are what transformers is asked to load as.
    """
    scratch.mkdir(exist_ok=True)
    with open_checkpoint(model) as checkpoint:
        ids = tokenize(checkpoint.index, (DATA / "text" / "evaluation.txt").read_text()[:20_000]).ids
        texts = np.asarray(ids[: WINDOWS * WINDOW], np.int64).reshape(WINDOWS, WINDOW)
        prompts = texts[:PROMPTS, :PROMPT]
        folders = [scratch / f"artifact-{number}" for number in range(len(settings))]
        own = scratch / "calibration"
        own.mkdir(exist_ok=True)
        runs = [_written(setting, checkpoint, folder, own) for setting, folder in zip(settings, folders, strict=True)]
        errand = {"texts": texts, "prompts": prompts, "length": WRITTEN, "dtype": dtype, "dequantize": dequantize}
        theirs = consume(python, scratch, consumer, folders, errand)
        decoder = Decoder.of(checkpoint.index, "cpu", torch.float32)
        source = outputs(decoder, source_weights(checkpoint), texts, prompts)
        for setting, run, folder in zip(settings, runs, folders, strict=True):
            ours = outputs(decoder, functools.partial(run.method.weights, folder), texts, prompts)
            yield _compared(setting, run, source, ours, theirs[folder.name])


def compare_mixtures(
    python: Path, scratch: Path, consumer: Path, settings: Mapping[str, Sequence[Setting]], **asked: Any
) -> Iterator[tuple[str, list[Loaded]]]:
    """As `compare`, on the MIXTURES that `settings` names, in bfloat16 and with a block's experts in two tensors."""
    scratch.mkdir(exist_ok=True)
    for name, own in settings.items():
        source = MIXTURES[name].write(scratch / f"{name}-source", 256, dtype="bfloat16", in_stacks=True)
        yield name, list(compare(python, scratch / name, consumer, own, model=source, **asked))


def _written(setting: Setting, checkpoint: Checkpoint, folder: Path, own: Path) -> Run:
    """The setting's folder; where it is made of another one, of that."""
    params = setting.method.params(**setting.params)
    if setting.of is None:
        run = Run(setting.method, params, checkpoint, calibrate, own)
        run.write(run.quantize(THREADS), folder)
        return run
    source = folder.with_name(f"{folder.name}-source")
    _written(setting.of, checkpoint, source, own)
    with open_checkpoint(source) as made, opened(made, setting.method, params, beside=own) as worked:
        run = Run(setting.method, params, worked.checkpoint)
        run.write(run.quantize(THREADS), folder)
    return run


def _compared(setting: Setting, run: Run, source: Outputs, ours: Outputs, theirs: Outputs | str) -> Loaded:
    bits = run.plan.quantized_bits_per_weight
    if isinstance(theirs, str):
        return Loaded(setting, bits, error=theirs)
    expected = _normalized(ours.logits)
    difference = np.abs(_normalized(theirs.logits) - expected)
    changed = np.abs(expected - _normalized(source.logits))
    same = int((theirs.written == ours.written).sum())
    return Loaded(setting, bits, float(changed.mean()), float(difference.max()), float(difference.mean()), same)


def _normalized(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of the probabilities of each next token within the window: a constant in logits means nothing."""
    logits = logits[:, :-1]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def outputs(decoder: Decoder, weights: Any, texts: NDArray[np.int64], prompts: NDArray[np.int64]) -> Outputs:
    """By transformers' model in float32 on these weights."""
    with limit_threads(THREADS):
        with decoder.whole(weights) as model, torch.inference_mode():
            logits = model(torch.from_numpy(texts), use_cache=False).logits.numpy()
        return Outputs(logits, write(decoder, weights, prompts, WRITTEN, lambda _: None))


def consume(
    python: Path, scratch: Path, consumer: Path, folders: Iterable[Path], errand: Mapping[str, Any]
) -> dict[str, Outputs | str]:
    """What the consumer computes for each folder, by the folder's name; a text where it cannot load it."""
    asked, answer = scratch / "errand.npz", scratch / "answer.npz"
    np.savez(asked, folders=np.array([*map(str, folders)]), **errand)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "cache"), "OMP_NUM_THREADS": str(THREADS)}
    command = [python, consumer, asked, answer]
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    with np.load(answer) as found:
        errors: dict[str, str] = json.loads(str(found["errors"]))
        loaded = [Path(folder).name for folder in folders if Path(folder).name not in errors]
        return errors | {name: Outputs(found[f"{name}.logits"], found[f"{name}.written"]) for name in loaded}


def versions(python: Path, packages: Sequence[str]) -> str:
    """The packages of an environment with their versions."""
    script = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {packages!r}))"
    return subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def explained() -> str:
    """What the tables of `report` hold."""
    return (
        f"Each artifact of `tests/data/millstone-4m` is loaded; {WINDOWS} windows of {WINDOW} tokens give logarithms "
        f"of probabilities, {PROMPTS} prompts are continued greedily by {WRITTEN} tokens. Ours are transformers' model "
        "in float32 on the weights that the method's reader gives. `changed` is the mean by which quantization moves "
        "ours from the source's; the last column but one is the mean difference as a share of that."
    )


def of_mixtures(rows: Mapping[str, Sequence[Loaded]]) -> str:
    """What `compare_mixtures` gives, as a part of the report."""
    head = (
        "Random mixtures of two blocks and four experts, bfloat16, whose source has the experts of a block in two "
        "tensors (`experts.gate_up_proj`, `experts.down_proj`); the artifact has them one by one."
    )
    return "\n".join([f"{head}\n", *(f"{name}:\n\n{report(each)}" for name, each in rows.items())])


def report(rows: Sequence[Loaded]) -> str:
    """A table, and below it what each refused setting was refused with."""
    tokens = PROMPTS * WRITTEN
    lines = [
        "| setting | bits/weight | loads | changed | largest difference | mean difference | share | same tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row, tokens) for row in rows]
    notes = [
        f"- {row.setting.label}: {_note(row)}" for row in rows if row.error or row.setting.note or row.setting.defect
    ]
    return "\n".join([*lines, "", *notes, ""])


def _line(row: Loaded, tokens: int) -> str:
    label = f"| {row.setting.label} | {row.bits_per_weight:.3f}"
    if row.error:
        return f"{label} | {'no' if row.agrees else 'NO'} | | | | | |"
    loads = "wrongly" if row.setting.defect else "yes" if row.agrees else "TOO FAR"
    differences = f"{row.largest:.2g} | {row.mean:.2g} | {row.mean / row.changed:.2%}"
    return f"{label} | {loads} | {row.changed:.4f} | {differences} | {row.same_tokens}/{tokens} |"


def _note(row: Loaded) -> str:
    return "; ".join(filter(None, [row.setting.defect, row.setting.note, f"`{row.error}`" if row.error else ""]))


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, Mapping) else str(value)


def arguments(description: str | None) -> argparse.Namespace:
    """--python of the consumer's environment and --scratch, a folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of the consumer's environment")
    parser.add_argument("--scratch", type=Path, required=True)
    return parser.parse_args()
