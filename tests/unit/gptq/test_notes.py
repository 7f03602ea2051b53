"""What calibration did not settle is said of each tensor that it befell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantmill.contract.calibration import Statistics
from quantmill.contract.session import Note
from quantmill.contract.tensors import ModelIndex, SourceTensor
from quantmill.contract.testing import MemorySession
from quantmill_gptq.algorithm import quantize
from quantmill_gptq.params import GptqParams
from quantmill_gptq.planning import plan

NAME = "model.layers.0.self_attn.q_proj.weight"


@dataclass(frozen=True)
class RandomSource:
    index: ModelIndex

    def tensor(self, name: str) -> SourceTensor:
        info = self.index.tensors[name]
        values = np.random.default_rng(len(name)).standard_normal(info.shape).astype(ml_dtypes.bfloat16)
        return SourceTensor(info, values)


@dataclass(frozen=True)
class Block:
    """A block that stays as it is; each of its Linears is a stage of its own."""

    unit: str
    stages: tuple[tuple[str, ...], ...]
    source: RandomSource

    def weight(self, name: str) -> np.ndarray:
        return np.asarray(self.source.tensor(name).values, np.float32)


@dataclass(frozen=True)
class OneOdd:
    """Calibration whose Linears are fed unrelated inputs, but for NAME's."""

    odd: Statistics
    usual: Callable[[str], Statistics]
    walked: tuple[Block, ...]

    def statistics(self, name: str) -> Statistics:
        return self.odd if name == NAME else self.usual(name)

    def blocks(self, finished: Collection[str]) -> Iterator[Block]:
        return iter(self.walked)


def unrelated(inputs: int, dead: int = 0) -> np.ndarray:
    """The Hessian of inputs of one strength, the first `dead` of them always 0."""
    return np.diag((np.arange(inputs) >= dead).astype(np.float32))


def indefinite(inputs: int) -> np.ndarray:
    """What sums in float32 can come to: an eigenvalue below 0, so that only damping makes a factor."""
    strengths = np.arange(1, inputs + 1, dtype=np.float32)
    return np.outer(strengths, strengths) - 0.5 * np.eye(inputs, dtype=np.float32)


def nearly_dependent(inputs: int) -> np.ndarray:
    """One strong feature that all the faint ones follow."""
    strengths = np.full(inputs, 1e-3)
    strengths[0] = 1
    return (np.outer(strengths, strengths) + 1e-12 * np.eye(inputs)).astype(np.float32)


def noted(index: ModelIndex, odd: Statistics, **asked: Any) -> list[Note]:
    params = GptqParams(group_size=32, predecessors="source", format="gptq_v2", **asked)
    planned = plan(index, params)
    widths = {row.name: row.shape[-1] for row in planned.tensors}
    source = RandomSource(index)
    walked = tuple(
        Block(unit.key, tuple((name,) for name in unit.tensors), source)
        for unit in planned.units
        if unit.block is not None
    )
    calibration = OneOdd(odd, lambda name: Statistics(1000, hessian=unrelated(widths[name])), walked)
    session = MemorySession(source, planned, calibration=calibration)  # type: ignore[arg-type]
    list(quantize(session, params))
    return session.notes


def test_nothing_is_said_of_what_calibration_settled(index: Callable[..., ModelIndex]) -> None:
    assert noted(index(), Statistics(1000, hessian=unrelated(64))) == []


@pytest.mark.parametrize(
    ("odd", "found", "figures"),
    [
        (Statistics(0, hessian=unrelated(64, 64)), "rounded to nearest", {"why": "no calibration token reached it"}),
        (Statistics(99, hessian=unrelated(64, 64)), "rounded to nearest", {"why": "its inputs were always 0"}),
        (Statistics(99, hessian=unrelated(64, 3)), "inputs that were always 0", {"inputs": 3, "of": 64}),
        (Statistics(63, hessian=unrelated(64)), "fewer tokens than inputs", {"tokens": 63, "inputs": 64}),
    ],
)
def test_what_calibration_did_not_reach_is_said(
    index: Callable[..., ModelIndex], odd: Statistics, found: str, figures: dict[str, Any]
) -> None:
    assert noted(index(), odd) == [Note(NAME, found, figures)]


@pytest.mark.parametrize(
    ("hessian", "most"),
    [(indefinite(64), 0.2), (nearly_dependent(64), 10.0)],
    ids=["no factor", "weights too far"],
)
def test_damping_that_had_to_grow_is_said(index: Callable[..., ModelIndex], hessian: np.ndarray, most: float) -> None:
    (note,) = noted(index(), Statistics(1000, hessian=hessian), bits=2, damp_percent=1e-7, damp_auto_increment=1e-3)

    assert (note.tensor, note.found, note.figures["asked"]) == (NAME, "damping raised", 1e-7)
    assert 1e-7 < note.figures["used"] < most
