"""AWQ without calibration text: blocks whose inputs are made up, a few channels far larger than the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from quantmill.contract.calibration import Statistics
from quantmill.contract.model_folder import kept_tensor
from quantmill.contract.tensors import FloatArray, QuantizedTensor
from quantmill.contract.testing import MemorySession, Run, Source
from quantmill_awq.algorithm import _Block
from quantmill_awq.params import AwqParams
from quantmill_awq.search import workers


def statistics(inputs: int) -> Statistics:
    """Of correlated inputs; every sixteenth is ten times as large."""
    rng = np.random.default_rng(inputs)
    x = rng.standard_normal((512, inputs)) + rng.standard_normal((512, 1))
    x[:, ::16] *= 10
    return Statistics(
        512, mean_abs=np.abs(x).mean(axis=0).astype(np.float32), hessian=(x.T @ x / 512).astype(np.float32)
    )


@dataclass(frozen=True)
class Given:
    """The weights of a source, with statistics by their width alone."""

    source: Source

    def weight(self, name: str) -> FloatArray:
        return np.asarray(self.source.tensor(name).values, np.float32)

    def statistics(self, names: Collection[str]) -> Mapping[str, Statistics]:
        return {name: statistics(self.source.tensor(name).info.shape[1]) for name in names}

    def replace(self, name: str, values: FloatArray) -> None:
        pass


def quantized(run: Run) -> Iterator[QuantizedTensor]:
    """The tensors of a run in the plan's order, scaled and clipped for inputs that are made up."""
    plan, params = run.plan, run.params
    assert isinstance(params, AwqParams)
    session = MemorySession(run.source, plan)
    with workers(1) as pool:
        for unit in plan.units:
            if unit.key.startswith("block."):
                yield from _Block(session, params, unit, Given(run.source), pool).quantized()
            else:
                yield kept_tensor(run.source.tensor(unit.tensors[0]))
