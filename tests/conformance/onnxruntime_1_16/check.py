"""Graphs made for `runtime=1.16` in ONNX Runtime 1.16: it loads them, and they give what they give in the newest.

The models are small: a table, products behind MatMul, Gemm and Transpose with IR version 11, which 1.16 does not take;
and a ResNet of random weights, exported for that runtime.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from tests.conformance.loading import arguments, versions
from tests.onnx_models import SmallModel
from transformers import ResNetConfig, ResNetForImageClassification

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import MemorySession, Run
from quantmill_onnx.exporting import convert
from quantmill_onnx.inspection import cosine, open_session
from quantmill_onnx.plugin import ONNX

RUNTIME = {"runtime": "1.16"}
LEAST_COSINE = 0.9999  # older kernels add in another order, and a code may fall on its other side
TABLES: list[Mapping[str, Any]] = [
    {},
    {"target": "avx2", "symmetric": False},
    {"smoothing": True},
    {"weight_type": "u8"},
    {"embeddings": "keep", "rest": "float16"},
    {"mode": "static"},
    {"mode": "static", "weight_type": "u8", "symmetric": False},
    {"mode": "static", "activation_type": "s8", "per_channel": False},
    {"mode": "static", "format": "qoperator"},
]
IMAGES: list[Mapping[str, Any]] = [{"mode": "static"}, {"mode": "static", "format": "qoperator"}]


@dataclass(frozen=True)
class Case:
    """An artifact with inputs beside it."""

    model: str
    params: Mapping[str, Any]
    folder: Path

    @property
    def setting(self) -> str:
        return f"{self.model} {' '.join(f'{key}={value}' for key, value in self.params.items())}".strip()


def cases(scratch: Path) -> Iterator[Case]:
    generator = np.random.default_rng(0)
    table = SmallModel(ir_version=11).write(scratch / "table")
    yield from artifacts("table", table, TABLES, {"ids": generator.integers(0, 300, (16, 9))}, scratch)
    values = generator.standard_normal((8, 3, 224, 224)).astype(np.float32)
    yield from artifacts("resnet", resnet(scratch), IMAGES, {"pixel_values": values}, scratch)


def resnet(scratch: Path) -> Path:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(scratch / "checkpoint")
    (scratch / "resnet").mkdir()
    with open_checkpoint(scratch / "checkpoint") as checkpoint:
        params = ONNX.params(**RUNTIME)
        convert(MemorySession(checkpoint, ONNX.plan.load()(checkpoint.index, params)), params, scratch / "resnet")
    return scratch / "resnet"


def artifacts(
    model: str, source: Path, settings: list[Mapping[str, Any]], inputs: Mapping[str, np.ndarray], scratch: Path
) -> Iterator[Case]:
    samples = scratch / f"{model}.npz"
    np.savez(samples, **inputs)
    for number, params in enumerate(settings):
        case = Case(model, params, scratch / f"{model}-{number}")
        with open_checkpoint(source) as checkpoint:
            run = Run(ONNX, ONNX.params(samples=str(samples), **RUNTIME, **params), checkpoint)
            run.write(run.quantize(), case.folder)
        np.savez(case.folder / "inputs.npz", **{name: each[:2] for name, each in inputs.items()})
        yield case


def judged(case: Case) -> tuple[str, bool]:
    """Its row, and whether it agrees."""
    versions = onnx.load(str(case.folder / "model.onnx"), load_external_data=False)
    opset = next(each.version for each in versions.opset_import if not each.domain)
    if not (case.folder / "found.npy").exists():
        why = (case.folder / "error.txt").read_text()[:120].replace("\n", " ")
        return f"| {case.setting} | {opset} | {versions.ir_version} | `{why}` |", False
    inputs = dict(np.load(case.folder / "inputs.npz"))
    near = cosine(np.load(case.folder / "found.npy"), open_session(case.folder / "model.onnx").run(None, inputs)[0])
    return f"| {case.setting} | {opset} | {versions.ir_version} | {near:.7f} |", near >= LEAST_COSINE


def main() -> None:
    asked = arguments(__doc__)
    made = list(cases(asked.scratch))
    command = [asked.python, Path(__file__).with_name("consumer.py"), json.dumps([str(each.folder) for each in made])]
    subprocess.run(command, check=True)
    rows = [judged(each) for each in made]
    print(f"## ONNX Runtime 1.16 ({versions(asked.python, ['onnxruntime', 'numpy'])})\n\n{__doc__.strip()}\n")
    print("| setting | opset | IR version | cosine with the newest |\n|---|---|---|---|")
    print("\n".join(row for row, _ in rows))
    sys.exit(0 if all(agrees for _, agrees in rows) else 1)


if __name__ == "__main__":
    main()
