#!/usr/bin/env python3
"""Static ranges in a ResNet-18 or MobileNetV2 of random weights, beside its float graph and onnxruntime's own tool.

Images are sums of a few waves; ranges come from other images than those measured. Prints sizes, the least cosine of an
image's logits with the float graph's, and times of both over each other at batch 1 and 8, one core, as JSON; at batch 1
also where ONNX Runtime rewrites nothing.

    PYTHONPATH=. OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/onnx_convolutions.py [--model mobilenet]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import MemorySession, Run
from quantmill_onnx.calibration import open_model
from quantmill_onnx.exporting import convert
from quantmill_onnx.inspection import cosine, open_session
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX

SIZE, SAMPLES, WAVES = 224, 8, 6
NAME = "pixel_values"


def images(generator: np.random.Generator) -> np.ndarray:
    """(SAMPLES, 3, SIZE, SIZE)."""
    rows, cols = np.mgrid[:SIZE, :SIZE] * (2 * np.pi / SIZE)
    found = np.zeros((SAMPLES, 3, SIZE, SIZE), np.float32)
    for at in np.ndindex(SAMPLES, 3):
        for _ in range(WAVES):
            down, across, phase = generator.uniform(0, 8, 3)
            found[at] += generator.standard_normal() * np.sin(down * rows + across * cols + phase)
    return found


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, values: np.ndarray) -> None:
        self.rest: Iterator[np.ndarray] = iter(values)

    def get_next(self) -> dict[str, np.ndarray] | None:
        each = next(self.rest, None)
        return None if each is None else {NAME: each[None]}


def resnet() -> PreTrainedModel:
    config = ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2] * 4, layer_type="basic")
    return ResNetForImageClassification(config)


def mobilenet() -> PreTrainedModel:
    """Weights large enough that values do not fade, as training leaves them."""
    model = MobileNetV2ForImageClassification(MobileNetV2Config())
    for each in model.modules():
        if isinstance(each, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(each.weight, mode="fan_in", nonlinearity="relu")
    return model


MODELS = {"resnet": resnet, "mobilenet": mobilenet}


def export(model: str, folder: Path) -> Path:
    torch.manual_seed(0)
    MODELS[model]().save_pretrained(folder / "checkpoint")
    (folder / "float").mkdir()
    with open_checkpoint(folder / "checkpoint") as checkpoint:
        plan = ONNX.plan.load()(checkpoint.index, OnnxParams())
        convert(MemorySession(checkpoint, plan), OnnxParams(), folder / "float")
    return folder / "float"


def quantize(source: Path, folder: Path, samples: Path, **params: Any) -> None:
    with open_checkpoint(source) as checkpoint:
        run = Run(ONNX, OnnxParams(mode="static", samples=str(samples), **params), checkpoint)
        run.write(run.quantize(), folder)


def seconds(session: Any, batch: np.ndarray) -> float:
    """Of the processor, the least of five runs."""
    found = []
    for _ in range(5):
        start = time.process_time()
        session.run(None, {NAME: batch})
        found.append(time.process_time() - start)
    return min(found)


def as_it_stands(folder: Path) -> Any:
    """A session that fuses nothing."""
    return open_model(folder, (folder / "model.onnx").read_bytes(), as_it_stands=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="resnet")
    asked = parser.parse_args()
    generator = np.random.default_rng(0)
    seen, unseen = images(generator), images(generator)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = export(asked.model, folder)
        np.savez(folder / "samples.npz", **{NAME: seen})
        quantize(source, folder / "this", folder / "samples.npz")
        quantize(source, folder / "per_channel=false", folder / "samples.npz", per_channel=False)
        quantize(source, folder / "format=qoperator", folder / "samples.npz", format="qoperator")
        for called, by_channel in (("onnxruntime", False), ("onnxruntime, per channel", True)):
            (folder / called).mkdir()
            target = folder / called / "model.onnx"
            quantize_static(source / "model.onnx", target, Reader(seen), per_channel=by_channel)
        float_session = open_session(source / "model.onnx")
        expected = float_session.run(None, {NAME: unseen})[0]
        times = {batch: seconds(float_session, unseen[:batch]) for batch in (1, 8)}
        for each in (
            "float",
            "onnxruntime",
            "onnxruntime, per channel",
            "per_channel=false",
            "format=qoperator",
            "this",
        ):
            session = open_session(folder / each / "model.onnx")
            found = session.run(None, {NAME: unseen})[0]
            figures: dict[str, Any] = {
                "model": each,
                "MB": round(sum(path.stat().st_size for path in (folder / each).glob("model.onnx*")) / 1e6, 1),
                "cosine, worst": round(min(map(cosine, found, expected)), 5),
                **{f"batch {n}": round(took / seconds(session, unseen[:n]), 1) for n, took in times.items()},
                "batch 1, not rewritten": round(times[1] / seconds(as_it_stands(folder / each), unseen[:1]), 2),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
