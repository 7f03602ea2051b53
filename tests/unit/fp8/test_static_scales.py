"""Static scales of activations: what a plan asks of the calibration text, and which Linears share a scale."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from tests.random_models import RANDOM_MODELS

from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.calibration import Statistics, magnitude_buckets, require_calibration
from quantmill.contract.errors import RequestRejected
from quantmill.contract.model_folder import ModelFolder
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex, TensorInfo
from quantmill.contract.testing import Run, calibration_ids
from quantmill.verification import verify
from quantmill_fp8.inputs import InputScales
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.planning import plan
from quantmill_fp8.plugin import FP8

ATTENTION = "model.layers.0.self_attn"
EXPERTS = "model.layers.0.mlp.experts"
ONE_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate|up|down)_proj\.weight$")
LINEARS = [
    *(f"{ATTENTION}.{name}_proj.weight" for name in "qkvo"),
    *(f"{EXPERTS}.{number}.{name}_proj.weight" for number in range(2) for name in ("gate", "up", "down")),
]


def index(dtype: str = "BF16") -> ModelIndex:
    """One block of a mixture with two experts, all Linears 32 x 32."""
    tensors = {name: TensorInfo(name, dtype, (32, 32), 32 * 32 * 2) for name in LINEARS}
    return ModelIndex({"architectures": ["Qwen3MoeForCausalLM"]}, tensors, {}, {})


def scales(largest: Mapping[str, float], dtype: str = "BF16", **asked: Any) -> dict[str, float]:
    """The scales of Linears whose inputs reach so far; 1 where nothing is said, 0 where no token was seen."""

    def statistics(name: str) -> Statistics:
        reached = largest.get(name, 1.0)
        absmax = np.array([0.0, reached], np.float32)
        counted = np.zeros(1 << 16, np.int64)
        counted[magnitude_buckets(np.array([1.0], np.float32))] = 999
        counted[magnitude_buckets(absmax[1:])] += 1
        return Statistics(tokens=5 if reached else 0, absmax=absmax, magnitudes=counted)

    params, model = Fp8Params(scheme="FP8", **asked), index(dtype)
    session: Any = SimpleNamespace(index=model, plan=plan(model, params), statistics=statistics)
    found = InputScales(session, params)
    return {name: float(found.of(name)[0]) for name in session.plan.calibration.weights}


@pytest.mark.parametrize(("percentile", "kind"), [(100, "absmax"), (99.9, "magnitudes")])
def test_a_plan_asks_how_far_the_inputs_of_what_it_quantizes_reach(percentile: float, kind: str) -> None:
    made = plan(index(), Fp8Params(scheme="FP8", percentile=percentile, skip_modules=("*.o_proj",)))

    assert made.calibration is not None
    assert made.calibration.of_source == (kind,)
    assert list(made.calibration.weights) == [name for name in LINEARS if "o_proj" not in name]
    assert made.calibration.of_blocks == ()


def test_without_a_text_it_is_refused_and_others_are_refused_with_one() -> None:
    with pytest.raises(RequestRejected, match="give calibration with a text"):
        require_calibration(plan(index(), Fp8Params(scheme="FP8")), "fp8", given=False)
    with pytest.raises(RequestRejected, match="leave it out"):
        require_calibration(plan(index(), Fp8Params(scheme="FP8_DYNAMIC")), "fp8", given=True)


@pytest.mark.parametrize("setting", [{"strategy": "tensor"}, {"percentile": 99.9}])
def test_settings_of_static_scales_are_for_the_static_scheme(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is for scheme=FP8"):
        Fp8Params(scheme="FP8_DYNAMIC", **setting)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("F32", 100 / 448), ("F16", np.float16(100 / 448)), ("BF16", ml_dtypes.bfloat16(100 / 448))]
)
def test_the_largest_input_is_the_largest_code(dtype: str, scale: Any) -> None:
    name = f"{ATTENTION}.o_proj.weight"

    assert scales({name: 100.0}, dtype)[name] == np.float32(scale)


def test_inputs_that_are_all_zero_have_the_dtype_s_epsilon() -> None:
    name = f"{ATTENTION}.o_proj.weight"

    assert scales({name: 0.0})[name] == 2.0**-7


def test_modules_of_one_product_share_the_largest() -> None:
    found = scales({f"{ATTENTION}.k_proj.weight": 448.0})

    assert [found[f"{ATTENTION}.{name}_proj.weight"] for name in "qkv"] == [1.0, 1.0, 1.0]
    assert found[f"{ATTENTION}.o_proj.weight"] < 0.01


def test_experts_share_the_largest_and_one_that_no_token_reached_has_it_too() -> None:
    found = scales({f"{EXPERTS}.0.up_proj.weight": 0.0, f"{EXPERTS}.1.gate_proj.weight": 448.0})

    assert {found[f"{EXPERTS}.{number}.{name}_proj.weight"] for number in range(2) for name in ("gate", "up")} == {1.0}
    assert found[f"{EXPERTS}.0.down_proj.weight"] < 0.01


def test_a_percentile_leaves_rare_inputs_out() -> None:
    name = f"{ATTENTION}.o_proj.weight"

    rare = scales({name: 448.0}, "F32", percentile=99)[name]

    assert 1 / 448 <= rare <= 1.008 / 448


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RANDOM_MODELS["qwen3moe"].write(tmp_path_factory.mktemp("mixture") / "one-by-one")


def stacked(source: Path, folder: Path) -> Path:
    """The same checkpoint with the experts of a block in two tensors."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    named = [(match, name) for name in [*tensors] if (match := ONE_EXPERT.match(name))]
    of = {(match[1], int(match[2]), match[3]): tensors.pop(name) for match, name in named}
    for module in {module for module, _, _ in of}:
        numbers = range(len([each for each in of if each[0] == module and each[2] == "down"]))
        gate_up = [np.concatenate([of[module, number, leaf] for leaf in ("gate", "up")]) for number in numbers]
        tensors[f"{module}.gate_up_proj"] = np.stack(gate_up)
        tensors[f"{module}.down_proj"] = np.stack([of[module, number, "down"] for number in numbers])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def static_arrays(source: Path, folder: Path, **asked: Any) -> dict[str, bytes]:
    """What the verified artifact stores."""
    with open_checkpoint(source) as checkpoint:
        run = Run(FP8, FP8.params(scheme="FP8", **asked), checkpoint, calibrate, folder.parent)
        run.write(run.quantize(), folder)
        verify(checkpoint, run.plan, FP8, run.params, folder)
    with ModelFolder(folder) as artifact:
        return {name: artifact.values(name).tobytes() for name in artifact.tensors}


@pytest.mark.parametrize("asked", [{}, {"percentile": 99.0, "strategy": "tensor"}], ids=["channel", "percentile"])
def test_experts_in_one_tensor_get_the_scales_of_experts_one_by_one(
    asked: dict[str, Any], mixture: Path, tmp_path: Path
) -> None:
    one_by_one = static_arrays(mixture, tmp_path / "one-by-one", **asked)

    assert static_arrays(stacked(mixture, tmp_path / "source"), tmp_path / "stacked", **asked) == one_by_one
    assert len([name for name in one_by_one if name.endswith(".down_proj.input_scale")]) > 2


def test_a_folder_has_the_scales_of_what_the_source_s_linears_are_fed(tmp_path: Path) -> None:
    folder = SyntheticLlama(blocks=1, dtype="F32", seed=2).write(tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        run = Run(FP8, FP8.params(scheme="FP8", strategy="tensor"), checkpoint, calibrate, tmp_path)
        made = {tensor.name: tensor.parts for tensor in run.quantize()}
        (tmp_path / "again").mkdir()
        with calibrate(
            checkpoint, run.plan, calibration_ids(), folder=tmp_path / "again", threads=1, carries={}
        ) as calibration:
            for name in run.plan.calibration.weights:  # type: ignore[union-attr]
                absmax = calibration.statistics(name).absmax
                assert absmax is not None
                assert made[name]["input_scale"] == absmax.max() / np.float32(448)
        fused = [made[f"{ATTENTION}.{name}_proj.weight"]["scale"] for name in "qkv"]
        largest = max(np.abs(checkpoint.tensor(f"{ATTENTION}.{name}_proj.weight").values).max() for name in "qkv")
    assert [float(scale[0]) for scale in fused] == [largest / np.float32(448)] * 3
