"""GGUF files in NVFP4 as checkpoints again: the codes, scales and names that they were made of, or a refusal."""

from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.random_models import RANDOM_MODELS, causal
from tests.unit.repack.nvfp4_files import (
    PARAMS,
    SMALL,
    Back,
    Tensors,
    as_file,
    back,
    beside,
    changed,
    in_nvfp4,
    planned,
    stored,
)
from tests.unit.verification.folders import Array, Folder, drop, swap
from tokenizers import Tokenizer

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import (
    ArchitectureUnsupported,
    NonFiniteTensor,
    ParamsRejected,
    RangeExceeded,
    SourceRejected,
    VerificationFailed,
)
from quantmill.contract.gguf import NVFP4, TYPES, GgufSource
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex, TensorInfo
from quantmill.contract.testing import Run
from quantmill.worker.conversion import opened
from quantmill.worker.session import RunnerSession
from quantmill_gguf.nvfp4 import factor_of, packed_of
from quantmill_gguf.plugin import GGUF
from quantmill_repack import comparison
from quantmill_repack.conversion import forecast, global_scale, unpacked
from quantmill_repack.gguf_model import Held, describe
from quantmill_repack.plugin import REPACK

MILLSTONE = Path(__file__).parents[2] / "data" / "millstone-4m"
TEXT = Path(__file__).parents[2] / "data" / "text" / "evaluation.txt"
UP, Q = "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"
F32 = gguf.GGMLQuantizationType.F32
SETTINGS = (*("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            *("head_dim", "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
            *("tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act", "bos_token_id", "eos_token_id"),
            *("architectures", "torch_dtype", "quantization_config"))  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return in_nvfp4(SMALL.write(folder / "plain"), folder / "nvfp4")


@pytest.fixture(scope="module")
def file(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_file(source, tmp_path_factory.mktemp("file") / "gguf")


def values_of(folder: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(folder) as checkpoint:
        return {name: np.array(checkpoint.tensor(name).values, np.float32) for name in checkpoint.index.tensors}


def assert_same_weights(folder: Path, source: Path) -> None:
    """What is quantized has the same bytes, all else the same values: a file has vectors in float32."""
    found, wanted = stored(folder), stored(source)
    assert found.keys() == wanted.keys()
    assert all(found[name] == each for name, each in wanted.items() if ".weight_" in name)
    values = values_of(folder)
    for name, each in values_of(source).items():
        np.testing.assert_array_equal(values[name].view(np.uint32), each.view(np.uint32), name)


# There and back


@pytest.fixture(scope="module")
def millstone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The shipped model in NVFP4A16, and made so of a GGUF file that stands alone."""
    folder = tmp_path_factory.mktemp("millstone")
    nvfp4 = in_nvfp4(MILLSTONE, folder / "nvfp4")
    return nvfp4, back(as_file(nvfp4, folder / "gguf"), folder / "back").folder


def test_the_shipped_model_comes_back_with_every_code_scale_and_value(millstone: tuple[Path, Path]) -> None:
    nvfp4, again = millstone
    assert_same_weights(again, nvfp4)


def test_its_config_is_rebuilt_from_the_metadata(millstone: tuple[Path, Path]) -> None:
    wanted, found = (json.loads((each / "config.json").read_text()) for each in millstone)
    assert {key: found[key] for key in SETTINGS} == {key: wanted[key] for key in SETTINGS}


def test_its_tokenizer_is_rebuilt_and_cuts_texts_the_same(millstone: tuple[Path, Path]) -> None:
    texts = (TEXT.read_text()[:50_000], "a<s>b</s> c\n\n\n  d'll 1234567 Größe 日本語 𝄞", "")
    theirs, ours = (Tokenizer.from_file(str(each / "tokenizer.json")) for each in millstone)
    for text in texts:
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.decode(ours.encode(text).ids) == theirs.decode(theirs.encode(text).ids)
    settings = json.loads((millstone[1] / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"]) == ("<s>", "</s>")


def test_files_beside_it_are_taken_as_they_are(source: Path, file: Path, tmp_path: Path) -> None:
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    whole = beside(file, tmp_path / "whole", *(source / name for name in names if (source / name).exists()))

    made = back(whole, tmp_path / "back")

    config = json.loads((made.folder / "config.json").read_text())
    assert config == json.loads((source / "config.json").read_text())
    assert (made.folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert made.plan.warnings[0].startswith("taken from beside the GGUF file: config.json, ")


def test_a_file_s_own_path_is_taken_too(file: Path, tmp_path: Path) -> None:
    assert back(next(file.glob("*.gguf")), tmp_path / "back").conversion.observed["matrices in NVFP4"] == 7


WIDE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 24}
MODELS = {
    **{name: RANDOM_MODELS[name] for name in ("llama, tied", "llama, wide heads and biases", "llama, rope linear")},
    **{name: RANDOM_MODELS[name] for name in ("mistral", "mixtral, 4 experts", "qwen2", "qwen3")},
    "qwen3moe": causal("Qwen3Moe", **WIDE, norm_topk_prob=True),
}
SAID = {
    *("architectures", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "head_dim", "intermediate_size", "decoder_sparse_step"),
}


@pytest.mark.parametrize("case", MODELS)
def test_each_family_comes_back(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantmill_gguf.nvfp4.GRAPHS", ("llama", "qwen2", "qwen3"))  # others write qwen2's
    monkeypatch.setattr("quantmill_gguf.nvfp4._obstacle", lambda *of: None)  # biases of ffn, which no graph adds
    nvfp4 = in_nvfp4(MODELS[case].write(tmp_path / "plain", 128), tmp_path / "nvfp4")

    made = back(as_file(nvfp4, tmp_path / "gguf"), tmp_path / "back")

    assert_same_weights(made.folder, nvfp4)
    wanted, found = (json.loads((each / "config.json").read_text()) for each in (nvfp4, made.folder))
    assert found["rope_theta"] == wanted["rope_parameters"]["rope_theta"]
    assert found.get("rope_scaling", {}).get("factor") == wanted["rope_parameters"].get("factor")
    found = {"num_local_experts": found.get("num_experts"), **found}
    assert {
        key: wanted[key] for key in SAID if wanted.get(key) is not None and case != "mistral"
    }.items() <= found.items()


# Experts


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file with four experts a block, and what becomes of it."""
    folder = tmp_path_factory.mktemp("mixture")
    plain = RANDOM_MODELS["mixtral, 4 experts"].write(folder / "plain", 128)
    file = as_file(in_nvfp4(plain, folder / "nvfp4"), folder / "gguf")
    return file, back(file, folder / "back").folder


def test_experts_in_one_tensor_become_one_tensor_each(mixture: tuple[Path, Path]) -> None:
    plan = planned(mixture[0])

    assert plan.warnings[-1].startswith("4 experts a block: transformers 5.23 leaves out their weight_global_scale")
    row = plan.by_name["blk.0.ffn_down_exps.weight"]
    assert (row.shape, row.nbytes) == ((4, 128, 192), 4 * (128 * 192 * 9 // 16 + 4))
    assert "model.layers.0.block_sparse_moe.experts.3.w2.weight_packed" in stored(mixture[1])
    ignored = json.loads((mixture[1] / "config.json").read_text())["quantization_config"]["ignore"]
    assert "model.layers.1.block_sparse_moe.gate" in ignored


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"llama.expert_count": 8}, r"ffn_gate_inp.weight is \[4, 128\], .* say \[8, 128\]"),
        ({"llama.expert_count": None}, "lacks blk.0.ffn_gate.weight"),
        ({"llama.expert_used_count": None}, "expert_used_count is None, not one positive number"),
    ],
)
def test_experts_that_do_not_fit_are_refused(
    keys: dict[str, Any], words: str, mixture: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(SourceRejected, match=words):
        planned(changed(mixture[0], tmp_path / "changed", keys))


def test_experts_without_number_are_refused_before_they_are_listed() -> None:
    experts = 100_000
    shapes = {
        **dict.fromkeys(("attn_norm", "ffn_norm"), (64,)),
        **{f"attn_{each}": (64, 64) for each in ("q", "k", "v", "output")},
        "ffn_gate_inp": (experts, 64),
        **{f"ffn_{each}_exps": (experts, 64, 64) for each in ("gate", "up", "down")},
    }
    names = {"token_embd.weight": (10, 64), "output_norm.weight": (64,)}
    names |= {f"blk.0.{role}.weight": shape for role, shape in shapes.items()}
    numbers = {"block_count": 1, "embedding_length": 64, "feed_forward_length": 64, "attention.head_count": 1}
    numbers |= {"expert_count": experts}
    source = GgufSource(
        {f"llama.{key}": struct.pack("<II", 4, value) for key, value in numbers.items()},
        {"general.architecture": "llama", **{f"llama.{key}": value for key, value in numbers.items()}},
        dict.fromkeys(names, TYPES["F32"]),
    )
    index = ModelIndex({}, {name: TensorInfo(name, "F32", shape, 0) for name, shape in names.items()}, {}, {})

    with pytest.raises(SourceRejected, match="would become 300009 tensors; at most 262144 are made"):
        describe(index, source)


def test_two_experts_that_changed_places_are_refused(mixture: tuple[Path, Path], tmp_path: Path) -> None:
    file, made = mixture
    one, two = (f"model.layers.1.block_sparse_moe.experts.{n}.w3.weight_packed" for n in (1, 2))
    with open_checkpoint(file) as source:
        folder = Folder(Path(shutil.copytree(made, tmp_path / "damaged")), source)
        folder[one], folder[two] = folder[two], folder[one]
        folder.save()

        with pytest.raises(VerificationFailed, match=r"experts.1.w3.weight is .* GGUF file's blk.1.ffn_up_exps.weight"):
            compared(folder.path, source)


def test_an_expert_less_is_refused(mixture: tuple[Path, Path], tmp_path: Path) -> None:
    file, made = mixture
    module = "model.layers.1.block_sparse_moe.experts.3.w3"
    with open_checkpoint(file) as source:
        folder = Folder(Path(shutil.copytree(made, tmp_path / "damaged")), source)
        drop(folder, *(f"{module}.{part}" for part in ("weight_packed", "weight_scale", "weight_global_scale")))
        folder.save()

        with pytest.raises(VerificationFailed, match=r"3 matrices of blk.1.ffn_up_exps.weight, the GGUF file 4"):
            compared(folder.path, source)


def test_a_file_made_of_the_result_is_the_file(file: Path, made: Back, tmp_path: Path) -> None:
    again = as_file(made.folder, tmp_path / "again")

    first, second = (gguf.GGUFReader(next(each.glob("*.gguf"))).tensors for each in (file, again))
    assert [(each.name, each.data.tobytes()) for each in first] == [(each.name, each.data.tobytes()) for each in second]


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with Llama 3's rope, and the file that was made of it."""
    folder = tmp_path_factory.mktemp("llama3")
    nvfp4 = in_nvfp4(RANDOM_MODELS["llama, rope llama3"].write(folder / "plain", 128), folder / "nvfp4")
    return nvfp4, as_file(nvfp4, folder / "gguf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"factor": 4.0}, r"divides rope's frequency \d+ by 4, and the GGUF file by 8"),
        ({"low_freq_factor": None}, "'low_freq_factor': None.* of rope, which cannot be"),
        ({"high_freq_factor": 1.0}, "'high_freq_factor': 1.0.* of rope, which cannot be"),
    ],
)
def test_llama_3_s_rope_that_comes_to_other_divisors_than_the_file_s_is_refused(
    change: dict[str, Any], words: str, llama3: tuple[Path, Path], tmp_path: Path
) -> None:
    nvfp4, alone = llama3
    whole, config = beside(alone, tmp_path / "whole"), json.loads((nvfp4 / "config.json").read_text())
    config["rope_parameters"] |= change
    (whole / "config.json").write_text(json.dumps(config))

    with pytest.raises(SourceRejected, match=f"config.json beside the GGUF file .*{words}"):
        back(whole, tmp_path / "back")


def test_llama_3_s_rope_is_taken_from_the_config_beside(llama3: tuple[Path, Path], tmp_path: Path) -> None:
    nvfp4, alone = llama3

    with pytest.raises(SourceRejected, match=r"rope is scaled as llama3, .*put the model's config.json beside"):
        planned(alone)
    made = back(beside(alone, tmp_path / "whole", nvfp4 / "config.json"), tmp_path / "back")

    assert_same_weights(made.folder, nvfp4)
    assert made.forecast.by_name["rope_freqs.weight"].action == "drop"


def test_the_plan_says_what_becomes_of_each_tensor(file: Path) -> None:
    plan = planned(file)

    assert plan.converts.startswith("a checkpoint in nvfp4-pack-quantized")
    assert plan.warnings == (
        "rebuilt from the GGUF file's metadata: config.json, tokenizer.json, tokenizer_config.json",
    )
    row = plan.by_name["blk.0.attn_q.weight"]
    assert (row.action, row.scheme, row.output, row.nbytes) == (
        "quantize",
        "NVFP4",
        f"{Q}.weight",
        128 * 128 * 9 // 16 + 4,
    )
    assert plan.by_name["blk.0.attn_q.scale"].reason == "it becomes the weight_global_scale of blk.0.attn_q.weight"
    assert plan.by_name["output_norm.weight"].output == "model.norm.weight"


def test_the_plan_s_sizes_are_the_artifact_s(made: Back) -> None:
    assert made.forecast.nbytes == made.plan.nbytes == sum(len(each) for _, each in stored(made.folder).values())


def test_a_plan_s_memory_is_enough_for_what_is_repacked_then(tmp_path: Path) -> None:
    wide = SyntheticLlama(hidden=64, ffn=1024, heads=2, kv_heads=2, blocks=1, vocab=301)
    made = back(
        as_file(in_nvfp4(wide.write(tmp_path / "plain"), tmp_path / "nvfp4"), tmp_path / "gguf"), tmp_path / "b"
    )
    assert made.forecast.peak_memory_bytes >= made.plan.peak_memory_bytes > 8 * 64 * 1024


def test_what_was_compared_is_said(made: Back) -> None:
    observed = made.conversion.observed
    assert (observed["tensors"], observed["matrices in NVFP4"], observed["values that differ"]) == (12, 7, 0)
    assert 0 < observed["largest relative difference where scales are divided first"] < 2.0**-22


def test_the_same_file_gives_the_same_bytes(file: Path, made: Back, tmp_path: Path) -> None:
    again = back(file, tmp_path / "back").folder
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in made.folder.iterdir()
    }


# Codes, scales and the order of rows


@given(rows=st.integers(1, 4), blocks=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_any_codes_and_scales_come_back(rows: int, blocks: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = {
        "weight_packed": random.integers(0, 256, (rows, 32 * blocks), np.uint8),
        "weight_scale": random.integers(0, 127, (rows, 4 * blocks), np.uint8),
    }

    codes, scales = unpacked("w", packed_of("w", parts))

    np.testing.assert_array_equal(codes, parts["weight_packed"])
    np.testing.assert_array_equal(scales, parts["weight_scale"])


def test_codes_of_both_halves_become_pairs_of_neighbours() -> None:
    block = bytes.fromhex("3840017e" + "8091a2b3c4d5e6f7" * 4)

    codes, scales = unpacked("w", np.frombuffer(block, np.uint8)[None])

    assert codes.tobytes().hex() == "1032547698badcfe" * 4
    assert scales.tobytes().hex() == "3840017e"


@pytest.mark.parametrize("byte", [0x7F, 0x80, 0xB8, 0xFF])
def test_a_scale_that_e4m3_means_otherwise_is_refused(byte: int) -> None:
    block = np.zeros((1, 36), np.uint8)
    block[0, 2] = byte
    with pytest.raises(RangeExceeded, match=r"blk.0.attn_q.weight: scales with a sign or of all ones"):
        unpacked("blk.0.attn_q.weight", block)


@given(heads=st.integers(1, 6), pairs=st.integers(1, 8))
def test_rows_of_heads_come_back_from_neighbours(heads: int, pairs: int) -> None:
    rows = 2 * heads * pairs
    info = TensorInfo("blk.0.attn_q.weight", "F32", (rows, 64), 0)
    held = Held(info.name, f"{Q}.weight", NVFP4, info, info.shape, heads=heads)
    in_file = [0] * rows  # which row of the checkpoint each row of the file is
    for head in range(heads):
        for half in range(2):
            for pair in range(pairs):
                in_file[head * 2 * pairs + 2 * pair + half] = head * 2 * pairs + half * pairs + pair

    found = held.rows()

    assert found is not None
    assert [in_file[row] for row in found] == list(range(rows))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32], ids=["bfloat16", "float16", "float32"])
def test_the_global_scale_that_an_encoder_computed_comes_back(dtype: Any) -> None:
    largest = 1 + np.arange(256, dtype=np.float32) / 256
    for scale in (np.float32(2688) / largest).astype(dtype).astype(np.float32):
        factor = factor_of("w", {"weight_global_scale": np.array([scale])})
        assert global_scale("w", factor[0]) == scale


@given(mantissa=st.integers(0, 2**23 - 1), exponent=st.integers(2, 252))
def test_a_global_scale_has_the_factor_as_its_reciprocal_or_is_refused(mantissa: int, exponent: int) -> None:
    factor = np.array([exponent << 23 | mantissa], np.uint32).view(np.float32)[0]
    try:
        found = global_scale("w", factor)
    except RangeExceeded:
        near = np.reciprocal(factor).view(np.uint32) + np.arange(-3, 4).astype(np.uint32)
        assert not (np.reciprocal(near.view(np.float32)) == factor).any()
    else:
        assert np.reciprocal(found) == factor


@pytest.mark.parametrize("factor", [0.0, -1.0, np.inf, np.nan, 1e-40, 1.9999999])
def test_a_factor_without_a_global_scale_is_refused_by_name(factor: float) -> None:
    with pytest.raises(RangeExceeded, match=r"blk.0.ffn_up.weight: no weight_global_scale has the reciprocal"):
        global_scale("blk.0.ffn_up.weight", np.float32(factor))


def test_a_file_with_such_a_factor_is_refused_by_the_matrix(file: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["blk.0.ffn_up.scale"] = (np.array([1.9999999], np.float32), F32)

    with pytest.raises(RangeExceeded, match=r"blk.0.ffn_up.weight: no weight_global_scale"):
        back(changed(file, tmp_path / "changed", tensors=change), tmp_path / "back")


def test_a_matrix_without_a_factor_has_a_global_scale_of_one(file: Path, tmp_path: Path) -> None:
    made = back(
        changed(file, tmp_path / "changed", tensors=lambda tensors: tensors.pop("blk.0.ffn_down.scale")),
        tmp_path / "back",
    )
    assert stored(made.folder)["model.layers.0.mlp.down_proj.weight_global_scale"] == ("F32", np.float32(1).tobytes())


def test_factors_of_inputs_are_left_out_and_that_is_said(file: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["blk.0.ffn_up.input_scale"] = (np.array([0.5], np.float32), F32)

    made = back(changed(file, tmp_path / "changed", tensors=change), tmp_path / "back")

    assert "input_scale of 1 weights is left out: NVFP4A16 leaves inputs as they are" in made.plan.warnings


def test_products_with_two_global_scales_are_named(file: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["blk.0.attn_k.scale"] = (np.array([0.25], np.float32), F32)

    made = back(changed(file, tmp_path / "changed", tensors=change), tmp_path / "back")

    assert "model.layers.0.self_attn.q_proj and its neighbours (1 such products)" in made.plan.warnings[-1]


# Files that are refused


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (
        {"general.architecture": "gemma2"},
        "architecture 'gemma2' are not repacked; known: llama",
    ),
    "more blocks": ({"llama.block_count": 2}, "lacks blk.1.attn_norm.weight"),
    "too many blocks": ({"llama.block_count": 2**31 - 1}, "block_count is 2147483647, in a file of"),
    "no blocks": ({"llama.block_count": 0}, "block_count is 0, not one positive number"),
    "no number of heads": ({"llama.attention.head_count": None}, "head_count is None, not one positive number"),
    "heads as text": ({"llama.attention.head_count": "4"}, "head_count is '4', not one positive number"),
    "a list of heads": ({"llama.attention.head_count_kv": [2]}, "head_count_kv is None, not one positive number"),
    "heads that do not share": ({"llama.attention.head_count_kv": 3}, "4 heads of 32 values with 3 key/value heads"),
    "other heads": ({"llama.attention.head_count": 8}, r"attn_q.weight is \[128, 128\], .* say \[256, 128\]"),
    "another width": ({"llama.embedding_length": 64}, r"token_embd.weight is \[301, 128\], .* say \[301, 64\]"),
    "another inner width": ({"llama.feed_forward_length": 64}, r"is \[192, 128\], .* say \[64, 128\]"),
    "an odd head": ({"llama.attention.key_length": 31}, "4 heads of 31 values"),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": None}, "rms_epsilon is None, not a positive number"),
    "epsilon that is no number": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "is nan, not a positive"),
    "a sliding window": ({"llama.attention.sliding_window": 128}, "sliding_window says what is not known here; put"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, "rope is scaled as yarn, .* put the model's config.json beside"),
    "half a head turned": ({"llama.rope.dimension_count": 16}, "dimension_count is not the 32 values of a head"),
    "another vocabulary": ({"llama.vocab_size": 300}, "vocab_size is not the 301 rows"),
    "another tokenizer": (
        {"tokenizer.ggml.model": "t5"},
        "is of the kind 't5'; known are gpt2 and llama; put the model",
    ),
    "pieces without scores": ({"tokenizer.ggml.model": "llama"}, "its tokens have no scores; put the model"),
    "no tokenizer": ({"tokenizer.ggml.tokens": None}, "no list of at most 301 tokens"),
    "too many tokens": ({"tokenizer.ggml.tokens": [str(n) for n in range(302)]}, "no list of at most 301 tokens"),
    "a token twice": ({"tokenizer.ggml.tokens": ["a"] * 301}, "it has a token twice"),
    "no types": ({"tokenizer.ggml.token_type": None}, "no list of at most 301 tokens with their types"),
    "an unknown type": ({"tokenizer.ggml.token_type": [6] * 301}, "tokens of the type 6"),
    "an unknown pre-tokenizer": ({"tokenizer.ggml.pre": "bloom"}, "its pre-tokenizer is 'bloom', and known are gpt-2"),
    "no merges": ({"tokenizer.ggml.merges": None}, "it has no merges"),
    "a merge of strangers": ({"tokenizer.ggml.merges": ["qq zz"]}, "its merge 'qq zz' is not of two tokens"),
    "a merge of one": ({"tokenizer.ggml.merges": ["a"]}, "its merge 'a' is not of two tokens"),
    "a token without an id": (
        {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 999},
        "add_bos_token",
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_does_not_fit_is_refused_by_name(case: str, file: Path, tmp_path: Path) -> None:
    keys, words = METADATA[case]
    with pytest.raises((SourceRejected, ArchitectureUnsupported), match=words):
        planned(changed(file, tmp_path / "changed", keys))


def renamed(old: str, new: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def in_blocks_of_q8_0(tensors: Tensors) -> None:
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    tensors["output.weight"] = (gguf.quants.quantize(np.ones((301, 128), np.float32), q8_0), q8_0)


def in_blocks_of_nvfp4(tensors: Tensors) -> None:
    tensors["token_embd.weight"] = (np.zeros((301, 72), np.uint8), gguf.GGMLQuantizationType.NVFP4)


def without_nvfp4(tensors: Tensors) -> None:
    for name, (data, type_) in list(tensors.items()):
        if type_ == gguf.GGMLQuantizationType.NVFP4:
            rows, row_bytes = data.shape
            tensors[name] = (np.zeros((rows, row_bytes // 36 * 64), np.float32), F32)
        if name.endswith(".scale"):
            del tensors[name]


TENSORS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "one is missing": (lambda tensors: tensors.pop("blk.0.ffn_norm.weight"), "lacks blk.0.ffn_norm.weight"),
    "no embedding": (lambda tensors: tensors.pop("token_embd.weight"), "has no matrix token_embd.weight"),
    "an unknown one": (renamed("output.weight", "blk.0.ffn_gate_exps.weight"), "holds 'blk.0.ffn_gate_exps.weight'"),
    "one of a block beyond": (renamed("output.weight", "blk.1.ffn_up.weight"), "holds 'blk.1.ffn_up.weight'"),
    "half of the biases": (
        lambda tensors: tensors.update({"blk.0.attn_q.bias": (np.zeros(128, np.float32), F32)}),
        "lacks blk.0.attn_k.bias",
    ),
    "other blocks": (in_blocks_of_q8_0, "output.weight is stored as Q8_0"),
    "an embedding in NVFP4": (in_blocks_of_nvfp4, "holds for Linears only"),
    "none in NVFP4": (without_nvfp4, "holds no matrix in NVFP4"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_no_checkpoint_has_are_refused_by_name(case: str, file: Path, tmp_path: Path) -> None:
    change, words = TENSORS[case]
    with pytest.raises(SourceRejected, match=words):
        planned(changed(file, tmp_path / "changed", tensors=change))


def test_a_scale_that_is_nan_is_refused_by_name(file: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["blk.0.ffn_up.weight"][0][3, 1] = 0x7F

    with pytest.raises(NonFiniteTensor, match=r"blk.0.ffn_up.weight"):
        back(changed(file, tmp_path / "changed", tensors=change), tmp_path / "back")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another class": (
        {"architectures": ["Qwen2ForCausalLM"]},
        r"\['Qwen2ForCausalLM'\], and .*LlamaForCausalLM or Mis",
    ),
    "no class": ({"architectures": []}, r"has the architectures \[\]"),
    "code of its own": ({"auto_map": {"AutoModel": "a.B"}}, "'auto_map': it points at code"),
    "layers": ({"num_hidden_layers": 2}, "says num_hidden_layers 2, and the GGUF file 1"),
    "width": ({"hidden_size": 64}, "says hidden_size 64, and the GGUF file 128"),
    "inner width": ({"intermediate_size": 64}, "says intermediate_size 64, and the GGUF file 192"),
    "heads": ({"num_attention_heads": 8}, "says num_attention_heads 8"),
    "true for a number": ({"num_hidden_layers": True}, "says num_hidden_layers True"),
    "shared heads": ({"num_key_value_heads": None}, "says num_key_value_heads 4, and the GGUF file 2"),
    "size of a head": ({"head_dim": 16}, "says head_dim 16, and the GGUF file 32"),
    "vocabulary": ({"vocab_size": 300}, "says vocab_size 300, and the GGUF file 301"),
    "context": ({"max_position_embeddings": 1}, "says max_position_embeddings 1"),
    "epsilon": ({"rms_norm_eps": 1e-4}, "says rms_norm_eps 0.0001"),
    "base": ({"rope_theta": 5.0, "rope_parameters": None}, "says rope_theta 5.0, and the GGUF file 10000.0"),
    "scaling": (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None},
        "says rope_type 'linear'",
    ),
    "activation": ({"hidden_act": "gelu"}, "says hidden_act 'gelu', and the GGUF file 'silu'"),
    "biases": ({"attention_bias": True}, "says attention_bias True, and the GGUF file False"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_beside_it_that_contradicts_it_is_refused_by_the_key(
    case: str, source: Path, file: Path, tmp_path: Path
) -> None:
    change, words = CONFIGS[case]
    folder = beside(file, tmp_path / "whole")
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))

    with pytest.raises(SourceRejected, match=f"config.json beside the GGUF file .*{words}"):
        planned(folder)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"llama.rope.scaling.factor": 4.0}, "says rope_factor 2.0, and the GGUF file 4.0"),
        ({"llama.rope.scaling.original_context_length": 64}, "says original_max_position_embeddings 32, and .* 64"),
        ({"llama.rope.scaling.type": None}, "says rope_type 'yarn', and the GGUF file 'linear'"),
    ],
)
def test_yarn_beside_it_with_other_parameters_is_refused(
    keys: dict[str, Any], words: str, source: Path, file: Path, tmp_path: Path
) -> None:
    yarn = {"type": "yarn", "factor": 2.0, "original_context_length": 32}
    said = {f"llama.rope.scaling.{key}": value for key, value in yarn.items()}
    folder = changed(file, tmp_path / "changed", said | keys)
    config = json.loads((source / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": None, "rope_scaling": scaling}))

    with pytest.raises(SourceRejected, match=words):
        planned(folder)


def test_a_factor_without_a_kind_of_scaling_is_linear(file: Path, tmp_path: Path) -> None:
    made = back(changed(file, tmp_path / "changed", {"llama.rope.scaling.factor": 2.0}), tmp_path / "back")
    config = json.loads((made.folder / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}'])
def test_a_config_beside_it_that_is_no_object_is_refused(text: str, file: Path, tmp_path: Path) -> None:
    folder = beside(file, tmp_path / "whole")
    (folder / "config.json").write_text(text)
    with pytest.raises(SourceRejected, match=r"config.json beside the GGUF file cannot be read"):
        planned(folder)


def test_an_untied_config_beside_a_file_without_an_output_matrix_is_refused(
    source: Path, file: Path, tmp_path: Path
) -> None:
    folder = changed(file, tmp_path / "changed", tensors=lambda tensors: tensors.pop("output.weight"))
    shutil.copyfile(source / "config.json", folder / "config.json")
    with pytest.raises(SourceRejected, match="does not tie the embedding to the output matrix"):
        planned(folder)


@pytest.mark.parametrize(
    ("others", "words"), [({"other": 7}, "has 'other' for the token 7, and"), ({}, "has nothing for the token 7, and")]
)
def test_a_tokenizer_beside_it_with_another_token_or_without_one_is_refused(
    others: dict[str, int], words: str, source: Path, file: Path, tmp_path: Path
) -> None:
    folder = beside(file, tmp_path / "whole", source / "tokenizer.json")
    data = json.loads((folder / "tokenizer.json").read_text())
    vocab = {text: id_ for text, id_ in data["model"]["vocab"].items() if id_ != 7}
    data["model"] |= {"vocab": {**vocab, **others}}
    (folder / "tokenizer.json").write_text(json.dumps(data))

    with pytest.raises(SourceRejected, match=f"{words} the file"):
        planned(folder)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"model": {"vocab": [1]}}', '{"model": {"vocab": {}}, "added_tokens": [{}]}']
)
def test_a_tokenizer_beside_it_that_cannot_be_read_is_refused(text: str, file: Path, tmp_path: Path) -> None:
    folder = beside(file, tmp_path / "whole")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(SourceRejected, match=r"tokenizer.json beside the GGUF file cannot be read"):
        planned(folder)


@pytest.mark.parametrize("to", ["pack-quantized", "gptq", "awq", "fp8", "float-quantized"])
def test_another_layout_of_a_file_is_refused(to: str, file: Path) -> None:
    with (
        open_checkpoint(file) as checkpoint,
        pytest.raises(ParamsRejected, match="repacked to nvfp4-pack-quantized only"),
    ):
        REPACK.plan.load()(checkpoint.index, REPACK.params(to=to))


def test_a_checkpoint_of_another_layout_does_not_become_nvfp4(tmp_path: Path) -> None:
    with open_checkpoint(SMALL.write(tmp_path / "plain")) as checkpoint, pytest.raises(SourceRejected, match="no quan"):
        REPACK.plan.load()(checkpoint.index, PARAMS)


# The comparison


def a_code(folder: Folder) -> None:
    folder[f"{UP}.weight_packed"][3, 5] ^= 1


def a_scale(folder: Folder) -> None:
    folder[f"{UP}.weight_scale"][3, 1] ^= 1


def two_rows_of_queries(folder: Folder) -> None:
    swap(folder[f"{Q}.weight_packed"], 0, 1)


def a_global_scale(folder: Folder) -> None:
    folder[f"{UP}.weight_global_scale"].view(np.uint32)[0] ^= 1


def a_norm(folder: Folder) -> None:
    folder["model.norm.weight"][5] += 1


def a_norm_s_dtype(folder: Folder) -> None:
    folder["model.norm.weight"] = folder["model.norm.weight"].astype(np.float16)
    folder.arrays["model.norm.weight"].dtype = "F16"


def a_tensor_less(folder: Folder) -> None:
    drop(folder, "model.norm.weight")


def a_tensor_more(folder: Folder) -> None:
    folder.arrays["x"] = Array("F32", [1], np.ones(1, np.float32))


DAMAGES = {
    a_code: f"{UP}.weight is .* at .3, 1[01]., and .* in the GGUF file's blk.0.ffn_up.weight",
    a_scale: f"{UP}.weight is .* at .3, [123]",
    two_rows_of_queries: f"{Q}.weight is .* at .0, ",
    a_global_scale: f"{UP}.weight is .* at .0, ",
    a_norm: "model.norm.weight differs from the GGUF file",
    a_norm_s_dtype: "model.norm.weight is not stored as the GGUF file has it",
    a_tensor_less: "do not have the same tensors: .'output_norm.weight'",
    a_tensor_more: "do not have the same tensors: .'.x'",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_conversion_that_is_off_is_refused_by_name(
    damage: Callable[[Folder], None], file: Path, made: Back, tmp_path: Path
) -> None:
    with open_checkpoint(file) as source:
        folder = Folder(Path(shutil.copytree(made.folder, tmp_path / "damaged")), source)
        damage(folder)
        folder.save()

        with pytest.raises(VerificationFailed, match=DAMAGES[damage]):
            compared(folder.path, source)


def test_one_that_is_not_is_accepted(file: Path, made: Back) -> None:
    with open_checkpoint(file) as source:
        assert compared(made.folder, source)["values that differ"] == 0


@pytest.fixture(scope="module")
def made(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Back:
    return back(file, tmp_path_factory.mktemp("made") / "back")


def compared(folder: Path, source: Any) -> Any:
    plan = forecast(source.index, source.index.gguf)
    session = RunnerSession(source, plan, threads=1, device="cpu", seed=0, finished=(), canceled=threading.Event())
    dropped = {row.name: row.reason for row in plan.tensors if row.action == "drop"}
    return comparison.compare(folder, session, dropped)


# Around it


def test_what_stands_beside_a_file_counts_for_its_digest_where_it_may_become_a_checkpoint(
    source: Path, file: Path, tmp_path: Path
) -> None:
    whole = beside(file, tmp_path / "whole", source / "config.json")
    with open_checkpoint(file) as alone, open_checkpoint(whole) as checkpoint:
        assert checkpoint.index.files == {"config.json": whole.resolve() / "config.json"}
        assert checkpoint.source_digest() != alone.source_digest()


def test_what_stands_beside_other_files_is_passed_over(source: Path, tmp_path: Path) -> None:
    with open_checkpoint(SMALL.write(tmp_path / "plain")) as checkpoint:
        run = Run(GGUF, GGUF.params(type="F16"), checkpoint)
        run.write(run.quantize(), tmp_path / "gguf")
    shutil.copyfile(source / "config.json", tmp_path / "gguf" / "config.json")

    with open_checkpoint(tmp_path / "gguf") as checkpoint:
        assert checkpoint.index.files == {}


def test_an_artifact_may_be_compared_with_a_model_that_is_not_repacked(tmp_path: Path) -> None:
    with open_checkpoint(SMALL.write(tmp_path / "plain")) as plain:
        with opened(plain, REPACK, PARAMS, beside=tmp_path, any_source=True) as worked:
            assert worked.checkpoint is plain
        with pytest.raises(SourceRejected), opened(plain, REPACK, PARAMS, beside=tmp_path):
            pass


def test_an_array_of_a_file_s_metadata_is_read_by_its_key() -> None:
    reals = (9).to_bytes(4, "little") + (6).to_bytes(4, "little") + (2).to_bytes(8, "little")
    source = GgufSource({"a": reals + np.array([1, 2], "<f4").tobytes(), "b": bytes(8)}, {}, {})
    assert (source.array("a"), source.array("b"), source.array("c")) == ([1.0, 2.0], None, None)


def test_damaged_text_of_an_array_is_refused() -> None:
    text = (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + (1).to_bytes(8, "little") + (1).to_bytes(8, "little")
    with pytest.raises(SourceRejected, match="not UTF-8"):
        GgufSource({"a": text + b"\xff"}, {}, {}).array("a")
