"""Each rung of a method's ladder takes more bytes than the one before, and loses less."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import Method
from quantmill.contract.testing import Run
from quantmill.evaluation import evaluate, metrics_of
from quantmill_bnb.plugin import BNB
from quantmill_fp8.plugin import FP8
from quantmill_gguf.plugin import GGUF

CHARACTERS = 1500  # of which three windows are read
WINDOW = 128


def named(method: Method) -> str:
    return method.name


@pytest.mark.parametrize("method", [GGUF, BNB, FP8], ids=named)
def test_a_higher_rung_is_planned_larger(method: Method, millstone: Path) -> None:
    with open_checkpoint(millstone) as source:
        sizes = [Run(method, method.params(**rung), source).plan.nbytes for rung in method.ladder]

    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("method", [BNB, FP8], ids=named)
def test_a_higher_rung_diverges_less(method: Method, millstone: Path, evaluation_text: str, tmp_path: Path) -> None:
    with open_checkpoint(millstone) as source:
        runs = [Run(method, method.params(**rung), source) for rung in method.ladder]
        losses = [_divergence(run, evaluation_text[:CHARACTERS], tmp_path / str(rung)) for rung, run in enumerate(runs)]

    assert losses == sorted(losses, reverse=True)


def _divergence(run: Run, text: str, folder: Path) -> float:
    run.write(run.quantize(threads=2), folder)
    found = evaluate(run.source, functools.partial(run.method.weights, folder), text, window=WINDOW)
    return next(metric.value for metric in metrics_of(found) if metric.name == "kld_mean")


@pytest.mark.parametrize(
    ("method", "asked", "left"),
    [
        (BNB, {"quant_type": "fp4", "block_size": 256, "quant_storage": "bfloat16"}, 3),
        (BNB, {"quant_type": "int8", "compute_dtype": "float16"}, 3),
        (FP8, {"scheme": "FP8_NATIVE", "skip_modules": ["lm_head", "*.down_proj"]}, 3),
        (GGUF, {"type": "Q4_0", "overrides": {"*down_proj*": "Q8_0"}}, 7),
    ],
)
def test_every_rung_goes_with_whatever_else_a_job_may_have_asked_for(
    method: Method, asked: Mapping[str, Any], left: int
) -> None:
    resolved = method.params.model_validate(asked).model_dump(mode="json")

    assert len([method.params.model_validate({**resolved, **rung}) for rung in method.ladder]) == left
