"""The laws have teeth: methods that break them are caught."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.method import Method, lazy
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import MethodConformance, Run
from quantmill_gguf.plugin import GGUF

BREAKERS = '''
"""Methods that break one law each, on top of the gguf method's own functions."""
import os, socket, sys
import numpy as np
from quantmill_gguf import algorithm, export

def copying(session, params):
    for tensor, unit in zip(algorithm.quantize(session, params), session.plan.units):
        values = session.tensor(unit.tensors[0]).values.astype(np.float32)
        yield tensor

def calling(session, params):
    with socket.socket() as probe:
        probe.connect_ex(("127.0.0.1", 9))
    yield from algorithm.quantize(session, params)

def straying(tensors, plan, index, params, folder):
    (folder.parent / "stray").write_text("x")
    return export.write(tensors, plan, index, params, folder)
'''


@pytest.fixture(scope="module")
def breakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the import path with the module `law_breakers`."""
    folder = tmp_path_factory.mktemp("breakers")
    (folder / "law_breakers.py").write_text(BREAKERS)
    return folder


@pytest.fixture
def laws(breakers: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Method], MethodConformance]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(breakers), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(sys, "path", [str(breakers), *sys.path])

    def make(method_: Method) -> MethodConformance:
        class Laws(MethodConformance):
            method = method_
            open_source = lazy("quantmill.checkpoints:open_checkpoint")
            ladder = ({"type": "Q8_0"},)

        return Laws()

    return make


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SyntheticLlama(hidden=1024, ffn=10240, blocks=1, tied=True).write(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SyntheticLlama(blocks=1).write(tmp_path_factory.mktemp("small"))


def test_a_float32_copy_of_a_tensor_exceeds_the_planned_memory(
    laws: Callable[[Method], MethodConformance], wide: Path, tmp_path: Path
) -> None:
    broken = laws(replace(GGUF, quantize=lazy("law_breakers:copying")))
    with pytest.raises(AssertionError, match="peak_bytes"):
        broken.test_a_run_stays_in_its_folder_off_the_network_and_within_the_planned_memory(wide, tmp_path)


@pytest.mark.parametrize(
    ("method", "trespass"),
    [
        (replace(GGUF, quantize=lazy("law_breakers:calling")), "socket.connect"),
        (replace(GGUF, write=lazy("law_breakers:straying")), "stray"),
    ],
)
def test_a_way_out_is_noted(
    laws: Callable[[Method], MethodConformance], small: Path, tmp_path: Path, method: Method, trespass: str
) -> None:
    with pytest.raises(AssertionError, match=trespass):
        laws(method).test_a_run_stays_in_its_folder_off_the_network_and_within_the_planned_memory(small, tmp_path)


def test_a_bound_that_is_too_narrow_is_noticed(
    laws: Callable[[Method], MethodConformance], small: Path, tmp_path: Path
) -> None:
    method = replace(GGUF, error_bounds={**GGUF.error_bounds, "Q8_0": 0.001})
    with open_checkpoint(small) as source:
        runs = [Run(method, method.params(type="Q8_0"), source)]
        with pytest.raises(AssertionError, match="embed_tokens"):
            laws(method).test_the_error_of_each_tensor_is_within_its_scheme_s_bound(runs, tmp_path)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_synthetic_checkpoint_is_finite_and_seeded(tmp_path: Path, dtype: str) -> None:
    model = SyntheticLlama(blocks=1, dtype=dtype, shards=2)
    model.write(tmp_path / "a")
    model.write(tmp_path / "b")
    with open_checkpoint(tmp_path / "a") as a, open_checkpoint(tmp_path / "b") as b:
        assert {name: info.shape for name, info in a.index.tensors.items()} == model.tensors()
        for name in a.index.tensors:
            values = a.tensor(name).values.astype(np.float32)
            assert np.isfinite(values).all()
            assert np.array_equal(values, b.tensor(name).values.astype(np.float32))
