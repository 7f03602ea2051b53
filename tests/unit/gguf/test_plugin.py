"""What the plugin offers, and what offering it costs."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import gguf
import pytest

import quantmill_kernels
from quantmill.contract.ggml import DECODERS
from quantmill.plugins import load_plugins
from quantmill_gguf.params import FileType, GgufParams, TypeName
from quantmill_gguf.plugin import ERROR_BOUNDS, GGUF
from quantmill_gguf.policies import FALLBACKS, MIXES
from quantmill_gguf.types import TYPES


def test_the_entry_point_offers_the_method() -> None:
    assert load_plugins().method("gguf") is GGUF


def test_offering_and_planning_import_no_engine() -> None:
    program = (
        "import sys, quantmill_gguf.plugin as plugin; plugin.GGUF.plan.load();"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'gguf', 'quantmill_kernels'}))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


def test_the_default_type_is_q4_k_m() -> None:
    assert GgufParams().type == "Q4_K_M"


@pytest.mark.parametrize(
    ("params", "loads"), [({}, True), ({"type": "Q4_0"}, True), ({"type": "NVFP4"}, False)], ids=str
)
def test_transformers_is_named_where_it_computes_what_the_file_stands_for(params: dict[str, str], loads: bool) -> None:
    assert ("transformers" in [runtime.name for runtime in GGUF.runtimes_of(params)]) is loads


@pytest.mark.parametrize("name", TYPES)
def test_a_tensor_type_is_what_ggml_says(name: str) -> None:
    id_ = gguf.GGMLQuantizationType[name]
    assert (TYPES[name].id, (TYPES[name].block_values, TYPES[name].block_bytes)) == (id_, gguf.GGML_QUANT_SIZES[id_])


@pytest.mark.parametrize("name", TYPES)
def test_a_tensor_type_has_encoder_decoder_and_bound(name: str) -> None:
    assert name in quantmill_kernels.formats()
    assert name in DECODERS
    assert name in ERROR_BOUNDS


def test_every_file_type_and_every_tensor_type_may_be_asked_for() -> None:
    assert set(get_args(FileType)) == set(MIXES)
    assert set(get_args(TypeName)) == set(TYPES)


@pytest.mark.parametrize("name", get_args(FileType))
def test_a_file_type_has_a_mix_of_known_types_and_ggml_s_number(name: str) -> None:
    mix = MIXES[name]
    assert {mix.base, mix.output, *(rule.type for rule in mix.rules)} <= set(TYPES)
    assert mix.file_type == gguf.LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"]


def test_every_type_of_blocks_has_a_fallback_that_ends_at_single_values() -> None:
    for name in TYPES:
        while TYPES[name].block_values > 1:
            assert TYPES[FALLBACKS[name]].block_values <= TYPES[name].block_values
            name = FALLBACKS[name]
