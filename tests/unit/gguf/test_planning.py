"""What is planned, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import pytest

from quantmill.checkpoints import Checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, SourceRejected
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan

Change = Callable[..., ModelIndex]
Q4_K_M = GgufParams()


def info(name: str, shape: tuple[int, ...], dtype: str = "BF16") -> TensorInfo:
    size = {"BF16": 2, "F64": 8, "I8": 1, "F32": 4}[dtype]
    nbytes = size
    for dimension in shape:
        nbytes *= dimension
    return TensorInfo(name, dtype, shape, nbytes)


def schemes(plan: Plan) -> dict[str, str]:
    return {row.output: row.scheme for row in plan.tensors}


def test_the_plan_of_millstone_names_every_tensor_s_type(millstone: Checkpoint) -> None:
    planned = plan(millstone.index, Q4_K_M)
    assert planned.nbytes == 2757120
    assert round(planned.bits_per_weight, 3) == 5.256
    assert [planned.tensors[i].output for i in (0, 1, 2, -1)] == [
        "token_embd.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
        "output_norm.weight",
    ]
    types = schemes(planned)
    assert types["token_embd.weight"] == "Q6_K"
    assert types["blk.0.attn_v.weight"] == "Q4_K"
    assert types["blk.2.attn_v.weight"] == "Q6_K"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_a_tied_model_has_no_output_matrix_and_says_why_its_embedding_is_larger(millstone: Checkpoint) -> None:
    planned = plan(millstone.index, Q4_K_M)
    assert "output.weight" not in schemes(planned)
    assert planned.by_name["model.embed_tokens.weight"].reason.startswith("tied:")


def test_the_names_are_those_of_the_gguf_package(millstone: Checkpoint) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)
    for row in plan(millstone.index, Q4_K_M).tensors:
        assert names.get_name(row.name, try_suffixes=(".weight",)) == row.output


def test_the_peak_is_the_largest_tensor_before_and_after(millstone: Checkpoint) -> None:
    assert plan(millstone.index, Q4_K_M).peak_memory_bytes == 4096 * 256 * 2 + 4096 * 210


def test_rows_that_do_not_divide_are_warned_about(with_tensors: Change, small: Checkpoint) -> None:
    assert plan(small.index, Q4_K_M).warnings == ()
    shapes = {"up": (288, 256), "gate": (288, 256), "down": (256, 288)}
    named = {kind: f"model.layers.0.mlp.{kind}_proj.weight" for kind in shapes}
    index = with_tensors({named[kind]: info(named[kind], shape) for kind, shape in shapes.items()})
    index = ModelIndex({**index.config, "intermediate_size": 288}, index.tensors, index.tied, index.files)
    planned = plan(index, Q4_K_M)
    assert planned.by_name[named["down"]].scheme == "Q8_0"
    assert planned.warnings == (
        f"{named['down']}: rows of 288 values do not divide into Q6_K blocks of 256: Q8_0 instead",
    )


def test_rope_buffers_are_dropped_with_a_reason(with_tensors: Change) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    planned = plan(with_tensors({name: info(name, (32,), "F32")}), Q4_K_M)
    assert planned.by_name[name].action == "drop"
    assert "rope frequencies" in planned.by_name[name].reason
    assert name not in {unit.key for unit in planned.units}


def test_biases_are_planned_where_the_config_has_them(with_tensors: Change) -> None:
    sizes = {"q": 256, "k": 128, "v": 128, "o": 256}
    named = {f"model.layers.0.self_attn.{kind}_proj.bias": size for kind, size in sizes.items()}
    index = with_tensors({name: info(name, (size,)) for name, size in named.items()})
    index = ModelIndex({**index.config, "attention_bias": True}, index.tensors, index.tied, index.files)
    assert schemes(plan(index, Q4_K_M))["blk.0.attn_q.bias"] == "F32"


def test_an_unknown_architecture_is_refused_with_the_list_of_known_ones(with_config: Change) -> None:
    with pytest.raises(ArchitectureUnsupported, match=r"'MambaForCausalLM'.*LlamaForCausalLM"):
        plan(with_config(architectures=["MambaForCausalLM"]), Q4_K_M)


Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (("model.layers.0.mlp.experts.0.w1.weight", (8, 8), "BF16"), "no tensor named 'model.layers.0.mlp.experts.0"),
        (("model.layers.0.self_attn.q_proj.bias", (256,), "BF16"), "no tensor named"),
        ((Q_PROJ, (256, 256), "F64"), "is F64; gguf reads F32, F16, BF16"),
        ((Q_PROJ, (256, 256), "I8"), "is I8"),
        ((Q_PROJ, (128, 256), "BF16"), r"has shape \(128, 256\), but config.json implies \(256, 256\)"),
    ],
)
def test_a_tensor_out_of_place_is_refused_by_name(
    with_tensors: Change, tensor: tuple[str, tuple[int, ...], str], message: str
) -> None:
    with pytest.raises(SourceRejected, match=message):
        plan(with_tensors({tensor[0]: info(*tensor)}), Q4_K_M)


@pytest.mark.parametrize("name", [Q_PROJ, "lm_head.weight", "model.embed_tokens.weight"])
def test_a_missing_tensor_is_refused_by_name(with_tensors: Change, name: str) -> None:
    with pytest.raises(SourceRejected, match=f"lacks '{name}'"):
        plan(with_tensors({name: None}), Q4_K_M)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "256"}, "hidden_size must be a positive integer"),
        ({"hidden_size": None}, "hidden_size must be a positive integer"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers, but the checkpoint has 12 tensors"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"head_dim": 63}, "even head_dim"),
        ({"vocab_size": 2**31}, "vocab_size must be"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not 'silu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "factor must be a positive number"),
        ({"rope_scaling": [1]}, "must be an object"),
    ],
)
def test_an_impossible_config_is_refused(with_config: Change, values: dict[str, object], message: str) -> None:
    with pytest.raises(SourceRejected, match=message):
        plan(with_config(**values), Q4_K_M)
