"""Weights that are hard on formats, for the tests of the bounds that methods state."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.calibration import CalibratedBlock, Statistics
from quantmill.contract.method import Method
from quantmill.contract.testing import Run
from quantmill.verification.compare import compare

SHAPE = (64, 2048)


@pytest.fixture(scope="session")
def distributions() -> dict[str, np.ndarray]:
    """Weights of many shapes: what the largest error of a whole tensor is measured on."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(SHAPE)
    rare = rng.random(SHAPE)
    return {
        "uniform": rng.uniform(-1, 1, SHAPE),
        "normal": normal,
        "laplace": rng.laplace(size=SHAPE),
        "student t, 5": rng.standard_t(5, SHAPE),
        "student t, 3": rng.standard_t(3, SHAPE),
        "student t, 2": rng.standard_t(2, SHAPE),
        "log-normal": rng.lognormal(size=SHAPE) * rng.choice([-1, 1], SHAPE),
        "shifted": normal + 3,
        "one in a hundred": normal * (rare < 0.01),
        "20-fold outliers": normal * np.where(rare < 0.001, 20, 1),
        "100-fold outliers": normal * np.where(rare < 1 / 256, 100, 1),
    }


@pytest.fixture(scope="session")
def unequal_blocks() -> dict[str, np.ndarray]:
    """What no whole tensor looks like, but a block may: scales far apart, few levels, magnitudes near zero."""
    rng = np.random.default_rng(1)
    normal = rng.standard_normal(SHAPE)
    one_for_each = np.repeat(rng.standard_normal((SHAPE[0], SHAPE[1] // 32)), 32, axis=1)
    return {
        "log-normal scales": normal * np.exp(2 * one_for_each),
        "shifted blocks": normal + 5 * one_for_each,
        "one block a thousandfold": normal * np.where(np.arange(SHAPE[1]) // 32 % 8 == 3, 1000, 1),
        "half constant": np.where(rng.random(SHAPE) < 0.5, 0.5, normal),
        "nine of ten zero": normal * (rng.random(SHAPE) < 0.1),
        "signs": rng.choice([-1.0, 1.0], SHAPE),
        "ternary": rng.choice([-1.0, 0.0, 1.0], SHAPE),
        "constant": np.ones(SHAPE),
        "1e-5": normal * 1e-5,
        "1e-7": normal * 1e-7,
    }


@dataclass
class Bounds:
    """By the name of a distribution: the relative error, and the share of its bound that the worst block uses."""

    scheme: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


UP_PROJ = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def through_a_folder(
    distributions: dict[str, np.ndarray], unequal_blocks: dict[str, np.ndarray], tmp_path: Path
) -> Callable[[Method, dict[str, Any]], Bounds]:
    """Each distribution as the only Linear of a model, quantized, written and read back."""

    def measure(method: Method, params: dict[str, Any]) -> Bounds:
        bounds = Bounds()
        for name, each in (distributions | unequal_blocks).items():
            values = each.reshape(128, 1024).astype(np.float32)
            bounds.scheme, kept = _read_back(method, params, values, tmp_path / name)
            bounds.shares[name] = compare(kept, values, method.block_bounds[bounds.scheme]).worst.share
            if name in distributions:
                source = values.astype(np.float64)
                bounds.errors[name] = float(np.sqrt(np.mean((kept - source) ** 2) / np.mean(source**2)))
        return bounds

    return measure


class InputsOfOne:
    """A Calibration: all that any Linear was fed is 1."""

    def statistics(self, name: str) -> Statistics:
        return Statistics(tokens=1, absmax=np.ones(1, np.float32))

    def blocks(self, finished: Collection[str]) -> Iterator[CalibratedBlock]:
        return iter(())

    def advance(self) -> Path | None:
        return None


@contextmanager
def inputs_of_one(*_: Any, **__: Any) -> Iterator[InputsOfOne]:
    yield InputsOfOne()


def _read_back(method: Method, params: dict[str, Any], values: np.ndarray, folder: Path) -> tuple[str, np.ndarray]:
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "config.json").write_text(json.dumps({"architectures": ["LlamaModel"]}))
    save_file({UP_PROJ: values}, folder / "source" / "model.safetensors")
    with open_checkpoint(folder / "source") as checkpoint:
        run = Run(method, method.params(**params), checkpoint, inputs_of_one)
        run.write(run.quantize(threads=2), folder / "artifact")
    return next((row.scheme, row.values) for row in method.read.load()(folder / "artifact", {UP_PROJ}))
