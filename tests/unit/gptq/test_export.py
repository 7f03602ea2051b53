"""The settings that vLLM, transformers and GPTQModel read, and what tells skipped modules apart."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Written = Callable[..., tuple[Path, dict[str, np.ndarray]]]


def settings_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


def test_gptq_s_settings_are_those_that_its_readers_ask_for(written: Written) -> None:
    folder, _ = written(group_size=32)

    assert settings_of(folder) == {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "true_sequential": True,
        "static_groups": True,
        "damp_percent": 0.05,
    }


def test_gptqmodel_finds_the_same_settings_in_its_own_file(written: Written) -> None:
    folder, _ = written(group_size=32, format="gptq_v2")

    assert json.loads((folder / "quantize_config.json").read_text()) == settings_of(folder)


@pytest.mark.parametrize(
    ("asked", "desc_act"),
    [({"desc_act": True}, True), ({"desc_act": True, "static_groups": True}, False), ({}, False)],
)
def test_desc_act_says_whether_groups_are_out_of_order(written: Written, asked: dict[str, Any], desc_act: bool) -> None:
    folder, _ = written(group_size=32, **asked)

    assert settings_of(folder)["desc_act"] is desc_act


def test_a_skipped_module_is_excluded_where_each_reader_looks(written: Written) -> None:
    folder, _ = written(group_size=32, skip_modules=("model.layers.1.mlp.down_proj",))

    settings = settings_of(folder)
    (pattern,) = settings["dynamic"]
    (listed,) = settings["modules_in_block_to_quantize"]
    assert pattern.startswith("-:")
    assert re.match(pattern[2:], "model.layers.1.mlp.down_proj")
    assert not re.match(pattern[2:], "model.layers.11.mlp.down_proj")
    assert "model.layers.0.mlp.down_proj" in listed
    assert "model.layers.1.mlp.down_proj" not in listed
    assert len(listed) == 13


def test_compressed_tensors_settings_are_one_group_of_linears(written: Written) -> None:
    folder, _ = written(group_size=-1, bits=3, sym=False, format="compressed-tensors", act_group_aware=False)

    settings = settings_of(folder)
    assert (settings["quant_method"], settings["format"]) == ("compressed-tensors", "pack-quantized")
    assert settings["ignore"] == ["lm_head", "model.embed_tokens"]
    assert settings["config_groups"]["group_0"]["weights"] == {
        "num_bits": 3,
        "type": "int",
        "symmetric": False,
        "strategy": "channel",
        "group_size": None,
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "memoryless_minmax",
        "observer_kwargs": {},
    }
    assert not (folder / "quantize_config.json").exists()
