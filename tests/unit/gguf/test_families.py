"""Every architecture of the table, on a small random checkpoint made by transformers.

Golden metadata and digests are of files from which llama.cpp computes transformers' logits:
`tests/conformance/llama_cpp/architectures.py --write`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.random_models import RANDOM_MODELS, pinned

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import SourceRejected, VerificationFailed
from quantmill.contract.tensors import ModelIndex
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_gguf.families import ARCHITECTURES, describe
from quantmill_gguf.plugin import GGUF

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/gguf/architectures.json").read_text())


@dataclass(frozen=True)
class Exported:
    """A random checkpoint and its F32 file."""

    case: str
    checkpoint: Checkpoint
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "model-F32.gguf"


@pytest.fixture(scope="module", params=RANDOM_MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp("family")
    with open_checkpoint(RANDOM_MODELS[request.param].write(folder / "model")) as checkpoint:
        run = Run(GGUF, GGUF.params(type="F32"), checkpoint)
        run.write(run.quantize(), folder / "artifact")
        yield Exported(request.param, checkpoint, folder / "artifact")


def test_every_architecture_has_a_random_model() -> None:
    assert {model.model for model in RANDOM_MODELS.values()} == set(ARCHITECTURES)


def test_the_file_is_one_from_which_llama_cpp_computes_the_logits(exported: Exported) -> None:
    assert pinned(exported.path) == GOLDEN[exported.case]


def test_reading_back_gives_the_source(exported: Exported) -> None:
    source = exported.checkpoint
    read = {tensor.name: tensor for tensor in GGUF.read.load()(exported.folder)}
    dropped = {row.name for row in Run(GGUF, GGUF.params(type="F32"), source).plan.tensors if row.action == "drop"}
    assert read.keys() | dropped == source.index.tensors.keys()
    for name, tensor in read.items():
        rounding = 2.0**-23 if tensor.scheme == "F32+1" else 0
        assert np.abs(tensor.values - source.tensor(name).values).max() <= rounding, name


@pytest.mark.parametrize("type_", ["Q8_0", "Q4_0", "MXFP4_MOE"])
def test_quantized_files_are_verified(exported: Exported, type_: str, tmp_path: Path) -> None:
    run = Run(GGUF, GGUF.params(type=type_), exported.checkpoint)
    run.write(run.quantize(), tmp_path / "artifact")
    verification = verify(exported.checkpoint, run.plan, GGUF, run.params, tmp_path / "artifact")
    assert all(check.passed for check in verification.checks)


def test_names_are_those_of_the_gguf_package(exported: Exported) -> None:
    described = describe(exported.checkpoint.index)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == described.architecture.name)
    names = gguf.get_tensor_name_map(arch, described.model.blocks)
    for tensor in described.tensors():
        # the package has no name for one expert or one head's norm: those are joined first
        joined = re.sub(r"\.(experts|norms)\.\d+\.", r".\1.", tensor.name).replace(".norms.", ".")
        if "block_sparse_moe" in joined:
            joined = joined.replace("block_sparse_moe.experts", "feed_forward.experts").removeprefix("model.")
        found = {names.get_name(each, try_suffixes=(".weight", ".bias")) for each in (tensor.name, joined)}
        assert tensor.output in found, tensor.name


def test_experts_follow_each_other_in_one_tensor(tmp_path: Path) -> None:
    with open_checkpoint(RANDOM_MODELS["mixtral, 4 experts"].write(tmp_path / "model")) as checkpoint:
        run = Run(GGUF, GGUF.params(type="F32"), checkpoint)
        path, *_ = run.write(run.quantize(), tmp_path / "artifact")
        found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
        stacked = [checkpoint.tensor(f"model.layers.1.block_sparse_moe.experts.{n}.w2.weight").values for n in range(4)]
        unit = next(unit for unit in run.plan.units if unit.key == "blk.1.ffn_down_exps.weight")
    assert np.array_equal(found["blk.1.ffn_down_exps.weight"], np.stack(stacked))
    assert len(unit.tensors) == 4


def test_gpt_2_without_a_prefix_keeps_its_names(tmp_path: Path) -> None:
    folder = RANDOM_MODELS["gpt2"].write(tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        tensors = {name: checkpoint.tensor(name).values.copy() for name in checkpoint.index.tensors}
    from safetensors.numpy import save_file

    bare = {name.removeprefix("transformer."): values for name, values in tensors.items()}
    mask = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
    save_file({**bare, **mask}, folder / "model.safetensors")
    with open_checkpoint(folder) as checkpoint:
        run = Run(GGUF, GGUF.params(type="Q8_0"), checkpoint)
        run.write(run.quantize(), tmp_path / "artifact")
        verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "artifact")
        assert run.plan.by_name["h.0.attn.bias"].action == "drop"
    assert {name for name, _ in GGUF.weights(tmp_path / "artifact")} == set(bare)


# What llama.cpp does not compute


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelIndex]:
    found: dict[str, ModelIndex] = {}

    def of(case: str) -> ModelIndex:
        if case not in found:
            with open_checkpoint(RANDOM_MODELS[case].write(tmp_path_factory.mktemp("index") / "model")) as checkpoint:
                found[case] = checkpoint.index
        return found[case]

    return of


@pytest.mark.parametrize(
    ("case", "values", "message"),
    [
        ("qwen2moe", {"norm_topk_prob": True}, "norm_topk_prob True is not False"),
        ("qwen2moe", {"decoder_sparse_step": 2}, "decoder_sparse_step 2 is not 1"),
        ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob False is not True"),
        ("qwen3moe", {"mlp_only_layers": [0]}, r"mlp_only_layers \[0\] is not \[\]"),
        ("qwen3moe", {"num_experts_per_tok": 9}, "9 experts a token, of 4"),
        ("gemma2", {"query_pre_attn_scalar": 144}, "query_pre_attn_scalar 144 is not 16"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "full_attention in every block of number 2 and no other"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0 is not None"),
        ("olmo2", {"attention_bias": True}, "attention_bias True is not False"),
        ("qwen2", {"head_dim": 24}, "4 heads of 24 values are not hidden_size 64"),
        ("starcoder2", {"use_bias": False}, "use_bias False is not True"),
        ("starcoder2", {"hidden_act": "relu"}, "hidden_act 'relu' is not 'gelu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "is not False"),
        ("falcon", {"new_decoder_architecture": True}, "new_decoder_architecture True is not False"),
        ("falcon", {"alibi": True}, "alibi True is not False"),
        ("bert", {"position_embedding_type": "relative_key"}, "'relative_key' is not 'absolute'"),
        ("phi3", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn' is not one of default, longrope"),
    ],
)
def test_a_model_that_llama_cpp_computes_otherwise_is_refused(
    indexes: Callable[[str], ModelIndex], case: str, values: dict[str, Any], message: str
) -> None:
    index = indexes(case)
    changed = ModelIndex({**index.config, **values}, index.tensors, index.tied, index.files)
    with pytest.raises(SourceRejected, match=message):
        describe(changed)


# Architectures whose graph has an output matrix of its own, and models that have none

TIED = "olmo2, tied"


@pytest.mark.parametrize("type_", ["F32", "Q4_K_M"])
def test_a_tied_embedding_is_stored_twice_where_llama_cpp_wants_a_matrix(tmp_path: Path, type_: str) -> None:
    with open_checkpoint(RANDOM_MODELS[TIED].write(tmp_path / "model", 256)) as checkpoint:
        run = Run(GGUF, GGUF.params(type=type_), checkpoint)
        path, *_ = run.write(run.quantize(), tmp_path / "artifact")
        verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "artifact")
    row = run.plan.by_name["model.embed_tokens.weight"]
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert np.array_equal(stored["output.weight"].data, stored["token_embd.weight"].data)
    assert row.nbytes == 2 * stored["output.weight"].n_bytes
    assert row.reason.endswith("stored twice: llama.cpp wants output.weight as a matrix of its own")
    assert f"{row.name}: {row.reason}" in run.plan.warnings
    assert "lm_head.weight" not in dict(GGUF.weights(path.parent))


def test_a_copy_that_differs_is_no_artifact(tmp_path: Path) -> None:
    with open_checkpoint(RANDOM_MODELS[TIED].write(tmp_path / "model")) as checkpoint:
        run = Run(GGUF, GGUF.params(type="Q8_0"), checkpoint)
        path, *_ = run.write(run.quantize(), tmp_path / "artifact")
        copy = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "output.weight")
        data = bytearray(path.read_bytes())
        data[copy.data_offset + 7] ^= 1
        path.write_bytes(data)
        with pytest.raises(VerificationFailed, match=r"output\.weight does not hold what token_embd\.weight holds"):
            verify(checkpoint, run.plan, GGUF, run.params, path.parent)


def test_parts_of_a_budget_count_the_copy(tmp_path: Path) -> None:
    with open_checkpoint(RANDOM_MODELS[TIED].write(tmp_path / "model", 256)) as checkpoint:
        plan = GGUF.plan.load()(checkpoint.index, GGUF.params(target_bpw=8))
    assert plan.nbytes <= sum(row.values for row in plan.tensors)


def test_a_sliding_window_that_llama_cpp_does_not_have_is_warned_about(
    indexes: Callable[[str], ModelIndex],
) -> None:
    index = indexes("mistral")
    windowed = ModelIndex({**index.config, "sliding_window": 4096}, index.tensors, index.tied, index.files)
    assert describe(index).warnings == ()
    assert describe(windowed).warnings == (
        "sliding_window: llama.cpp attends to the whole context in this architecture, not to a sliding window",
    )


def test_an_output_matrix_of_its_own_is_stored_under_any_naming(tmp_path: Path) -> None:
    """Falcon calls its embedding otherwise than Llama, and its head the same."""
    model = RANDOM_MODELS["falcon"]
    folder = replace(model, values={"tie_word_embeddings": False}).write(tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        run = Run(GGUF, GGUF.params(type="Q4_K_M"), checkpoint)
        run.write(run.quantize(), tmp_path / "artifact")
        verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "artifact")
    assert run.plan.by_name["lm_head.weight"].output == "output.weight"
    assert run.plan.by_name["transformer.word_embeddings.weight"].output == "token_embd.weight"
