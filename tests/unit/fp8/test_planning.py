"""What is refused when a job is submitted."""

from __future__ import annotations

import pytest

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.tensors import ModelIndex, TensorInfo
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.planning import plan

DOWN = "model.layers.0.mlp.down_proj"


def index(outputs: int, inputs: int) -> ModelIndex:
    shapes = {DOWN: (outputs, inputs), "model.layers.0.mlp.up_proj": (128, 128), "model.embed_tokens": (64, outputs)}
    tensors = {
        f"{name}.weight": TensorInfo(f"{name}.weight", "BF16", shape, 2 * shape[0] * shape[1])
        for name, shape in sorted(shapes.items())
    }
    return ModelIndex({"architectures": ["LlamaForCausalLM"]}, tensors, {}, {})


@pytest.mark.parametrize(
    ("scheme", "outputs", "inputs", "blocks"),
    [
        ("FP8_BLOCK", 192, 256, "128 x 128"),
        ("FP8_BLOCK", 256, 192, "128 x 128"),
        ("FP8_NATIVE", 192, 256, "128 x 128"),
        ("NVFP4A16", 64, 72, "1 x 16"),
        ("MXFP4A16", 64, 48, "1 x 32"),
        ("MXFP8", 64, 16, "1 x 32"),
    ],
)
def test_blocks_that_do_not_divide_a_weight_are_refused(scheme: str, outputs: int, inputs: int, blocks: str) -> None:
    with pytest.raises(ParamsRejected) as refused:
        plan(index(outputs, inputs), Fp8Params(scheme=scheme))

    assert str(refused.value) == (
        f"{DOWN} is {outputs} x {inputs}, which blocks of {blocks} ({scheme}) do not divide; "
        "choose FP8_DYNAMIC or name the module in skip_modules"
    )


def test_a_module_that_vllm_computes_with_others_is_not_left_out_alone_without_a_word() -> None:
    gate, up = (f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up"))
    tensors = {name: TensorInfo(name, "BF16", (8, 8), 128) for name in (f"{gate}.weight", f"{up}.weight")}
    both = ModelIndex({"architectures": ["LlamaForCausalLM"]}, tensors, {}, {})

    assert plan(both, Fp8Params(skip_modules=("*.up_proj",))).warnings == (
        f"vLLM computes {gate}, {up} in one product and loads them quantized all or none",
    )
    assert plan(both, Fp8Params()).warnings == ()


def test_a_module_that_is_left_out_needs_no_blocks() -> None:
    found = plan(index(192, 200), Fp8Params(scheme="FP8_BLOCK", skip_modules=("*.down_proj",)))

    assert found.by_name[f"{DOWN}.weight"].action == "keep"
