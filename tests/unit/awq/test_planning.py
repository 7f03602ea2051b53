"""What is refused when a job is submitted, and what the plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ParamsRejected
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import Plan
from quantmill_awq.params import AwqParams
from quantmill_awq.planning import plan


def planned(folder: Path, model: SyntheticLlama, **params: Any) -> Plan:
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        return plan(checkpoint.index, AwqParams(**params))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"bits": 8}, "format gemm holds 4 bits"),
        ({"zero_point": False}, "format gemm stores zero points always"),
        ({"bits": 2, "format": "compressed-tensors"}, "Input should be 3, 4 or 8"),
        ({"group_size": 48}, "group_size"),
        ({"n_grid": 0}, "n_grid"),
        ({"sym": True}, "Extra inputs"),
    ],
)
def test_parameters_that_no_file_can_have_are_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AwqParams(**params)


@pytest.mark.parametrize(
    ("model", "params", "said"),
    [
        (SyntheticLlama(hidden=96, heads=2), {}, "128 does not divide its 96 inputs"),
        (SyntheticLlama(hidden=80, heads=2, kv_heads=1), {"group_size": -1}, "needs multiples of 32"),
    ],
)
def test_weights_that_groups_or_words_do_not_divide_are_refused(
    tmp_path: Path, model: SyntheticLlama, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParamsRejected, match=said):
        planned(tmp_path, model, **params)


def test_heads_that_share_values_leave_the_output_projection_without_scales(tmp_path: Path) -> None:
    found = planned(tmp_path, SyntheticLlama(kv_heads=2))

    assert found.by_name["model.layers.0.self_attn.o_proj.weight"].reason.startswith("quantized without scales")
    assert found.by_name["model.layers.0.self_attn.q_proj.weight"].reason == ""


def test_a_norm_says_whose_scales_it_is_divided_by(tmp_path: Path) -> None:
    row = planned(tmp_path, SyntheticLlama()).by_name["model.layers.1.post_attention_layernorm.weight"]

    assert (row.action, row.scheme) == ("keep", "BF16")
    assert row.reason == (
        "divided by the scales of model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight"
    )


def test_stored_bits_are_codes_scales_and_zero_points(tmp_path: Path) -> None:
    assert planned(tmp_path, SyntheticLlama()).quantized_bits_per_weight == 4 + (16 + 4) / 128


def test_gate_without_up_is_a_warning(tmp_path: Path) -> None:
    found = planned(tmp_path, SyntheticLlama(), skip_modules=("*.0.mlp.up_proj",))

    assert any("loads them quantized all or none" in warning for warning in found.warnings)
