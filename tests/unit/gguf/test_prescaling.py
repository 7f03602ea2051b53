"""AWQ's scales in a GGUF file: the model computes what it did, and verification finds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.random_models import RANDOM_MODELS

from quantmill.calibration import source_weights
from quantmill.calibration.decoder import Decoder
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.calibration import Statistics
from quantmill.contract.errors import ParamsRejected, VerificationFailed
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex, QuantizedTensor
from quantmill.contract.testing import MemorySession
from quantmill.verification import verify
from quantmill_gguf.algorithm import quantize
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.prescaling import Prescaling

NORM, UP = "model.layers.0.input_layernorm.weight", "model.layers.0.mlp.up_proj.weight"
Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"


@dataclass(frozen=True)
class MadeUp:
    """Inputs whose every sixteenth channel is twenty times as large; `silent` names Linears that nothing reached."""

    index: ModelIndex
    silent: tuple[str, ...] = ()

    def statistics(self, name: str) -> Statistics:
        inputs = self.index.tensors[name].shape[1]
        size = np.where(np.arange(inputs) % 16 == 0, 20, 1).astype(np.float32) * (name not in self.silent)
        return Statistics(64, second_moment=size**2, mean_abs=np.float32(0.8) * size)


def session_of(checkpoint: Checkpoint, params: GgufParams, **more: Any) -> MemorySession:
    calibration = MadeUp(checkpoint.index, **more)
    return MemorySession(checkpoint, plan(checkpoint.index, params), calibration=calibration)  # type: ignore[arg-type]


def written(checkpoint: Checkpoint, params: GgufParams, folder: Path) -> dict[str, QuantizedTensor]:
    session = session_of(checkpoint, params)
    made = {tensor.name: tensor for tensor in quantize(session, params)}
    folder.mkdir()
    GGUF.write.load()(iter(made.values()), session.plan, checkpoint.index, params, folder)
    return made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = SyntheticLlama(hidden=256, ffn=512, heads=4, kv_heads=4, blocks=2, vocab=301)
    with open_checkpoint(model.write(tmp_path_factory.mktemp("small") / "model")) as checkpoint:
        yield checkpoint


@pytest.mark.parametrize("name", ["llama, wide heads and biases", "qwen2moe", "gemma2", "phi3", "stablelm, parallel"])
def test_the_scaled_model_in_float32_computes_what_the_source_does(name: str, tmp_path: Path) -> None:
    folder = RANDOM_MODELS[name].write(tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        session = session_of(checkpoint, GgufParams(type="Q4_0", awq=True))
        prescaling = Prescaling(session, lambda _: None)
        scaled = {
            each: np.array(prescaling.scaled(checkpoint.tensor(each)).values, np.float32)
            for each in checkpoint.index.tensors
        }
        changed = [each for each in scaled if not np.array_equal(scaled[each], checkpoint.tensor(each).values)]
        decoder = Decoder.of(checkpoint.index)
        ids = torch.from_numpy(np.random.default_rng(0).integers(2, 300, (2, 24)))
        with torch.inference_mode():
            with decoder.whole(source_weights(checkpoint)) as model:
                before = model(ids, use_cache=False).logits
            with decoder.whole(lambda names: ((each, scaled[each]) for each in names if each in scaled)) as model:
                after = model(ids, use_cache=False).logits

    assert len(changed) >= 4
    assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))


@pytest.mark.parametrize(
    "asked",
    [
        *({"type": type_} for type_ in ("Q8_0", "Q4_0", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS")),
        *({"type": type_, "imatrix": "auto"} for type_ in ("Q4_K_M", "Q3_K_M", "Q2_K")),
    ],
    ids=str,
)
def test_verification_finds_the_scales_in_the_file(small: Checkpoint, asked: dict[str, Any], tmp_path: Path) -> None:
    params = GgufParams(**asked, awq=True)

    written(small, params, tmp_path / "artifact")

    found = verify(small, plan(small.index, params), GGUF, params, tmp_path / "artifact")
    assert "folds" in {check.name for check in found.checks}


def test_a_norm_that_was_not_divided_is_refused(small: Checkpoint, tmp_path: Path) -> None:
    params = GgufParams(type="Q4_K_M", awq=True)
    session = session_of(small, params)
    made = {tensor.name: tensor for tensor in quantize(session, params)}
    plain = {tensor.name: tensor for tensor in quantize(session_of(small, GgufParams()), GgufParams())}
    (tmp_path / "artifact").mkdir()
    GGUF.write.load()(
        iter((made | {NORM: plain[NORM]}).values()), session.plan, small.index, params, tmp_path / "artifact"
    )

    with pytest.raises(VerificationFailed) as raised:
        verify(small, session.plan, GGUF, params, tmp_path / "artifact")

    assert "folds" in {check["name"] for check in raised.value.fields["failed"]}


def test_scales_lose_less_in_what_large_inputs_meet(small: Checkpoint, tmp_path: Path) -> None:
    lost = []
    for awq in (False, True):
        params = GgufParams(type="Q4_0", awq=awq)
        written(small, params, tmp_path / str(awq))
        read = dict(GGUF.weights(tmp_path / str(awq)))
        scales = small.tensor(NORM).values.astype(np.float32) / read[NORM]
        error = read[Q] / scales - small.tensor(Q).values.astype(np.float32)
        energy = MadeUp(small.index).statistics(Q).second_moment
        lost.append(float((np.square(error) * energy).sum()))

    assert lost[1] < 0.5 * lost[0]


def test_each_unit_by_itself_is_what_it_is_among_the_others(small: Checkpoint) -> None:
    params = GgufParams(type="Q4_K_M", imatrix="auto", awq=True)
    session = session_of(small, params)
    whole = {tensor.name: tensor.parts for tensor in quantize(session, params)}
    keys = {unit.key for unit in session.plan.units}

    for name in (NORM, UP, DOWN):
        alone = MemorySession(small, session.plan, 2, finished=keys - {name}, calibration=session.calibration)
        (made,) = quantize(alone, params)
        assert all(np.array_equal(made.parts[part], whole[name][part]) for part in whole[name])


def test_linears_that_no_token_reached_are_not_scaled(small: Checkpoint) -> None:
    params = GgufParams(type="Q4_0", awq=True)
    prescaling = Prescaling(session_of(small, params, silent=(Q,)), lambda _: None)

    assert np.array_equal(prescaling.columns(Q), np.ones(256, np.float32))


def test_the_plan_asks_for_calibration_and_says_where_scales_go(small: Checkpoint) -> None:
    made = plan(small.index, GgufParams(type="Q4_0", awq=True))

    assert made.calibration is not None
    assert made.calibration.of_source == ("second_moment", "mean_abs")
    assert {fold.producer for fold in made.folds if ".0." in fold.producer} == {
        NORM,
        UP,
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.self_attn.v_proj.weight",
    }


def test_scales_with_no_place_are_refused(small: Checkpoint) -> None:
    with pytest.raises(ParamsRejected, match="no scales have a place in LlamaForCausalLM"):
        plan(small.index, GgufParams(type="F16", awq=True))
    with pytest.raises(ValidationError, match="awq goes with a file type"):
        GgufParams(target_bpw=4.5, awq=True)
