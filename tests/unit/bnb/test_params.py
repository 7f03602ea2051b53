"""Settings that bitsandbytes cannot hold are refused when a job is submitted."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.tensors import ModelIndex, TensorInfo
from quantmill_bnb.params import BnbParams
from quantmill_bnb.planning import plan


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"block_size": 48}, "Input should be 32, 64"),
        ({"block_size": 8192}, "Input should be 32, 64"),
        ({"quant_type": "int8", "double_quant": True}, "double_quant is for nf4 and fp4; int8 has one scale per row"),
        ({"quant_type": "int8", "block_size": 128}, "block_size is for nf4 and fp4; int8 has one scale per row"),
        (
            {"quant_type": "int8", "quant_storage": "bfloat16"},
            "quant_storage is for nf4 and fp4; int8 is stored as int8",
        ),
        ({"quant_type": "int8", "compute_dtype": "float32"}, "LLM.int8 casts what it multiplies to float16"),
        ({"quant_type": "nf3"}, "Input should be 'nf4', 'fp4' or 'int8'"),
    ],
)
def test_what_the_library_has_no_form_for_is_refused(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        BnbParams(**params)


def test_no_architecture_has_linears_that_transformers_keeps_in_float32() -> None:
    """Else int8 would have to be refused for them, or they skipped. The library's sources are read, not imported."""
    models = Path(next(iter(find_spec("transformers").submodule_search_locations))) / "models"
    sources = [path.read_text() for path in models.glob("*/modeling_*.py")]
    defining = {name: next(text for text in sources if f"class {name}(" in text) for name in ARCHITECTURES}

    named = re.compile(r"_keep_in_fp32_modules\w* *= *\[ *[^\] ]")
    assert [name for name, text in defining.items() if named.search(text)] == []


def test_codes_that_do_not_fill_the_storage_dtype_are_refused() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {name: TensorInfo(name, "BF16", (3, 6), 36)}

    with pytest.raises(ParamsRejected, match="18 values, which 8 codes a float32 do not divide"):
        plan(ModelIndex({"architectures": ["LlamaForCausalLM"]}, tensors, {}, {}), BnbParams(quant_storage="float32"))
