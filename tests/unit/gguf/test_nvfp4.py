"""NVFP4 checkpoints as GGUF: every code and every scale of 16 in its place, and one factor for a matrix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file
from tests.gguf_models import LLAMA, file, tensor
from tests.random_models import RANDOM_MODELS

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import (
    NonFiniteTensor,
    ParamsRejected,
    QuantmillError,
    RangeExceeded,
    SourceRejected,
    VerificationFailed,
)
from quantmill.contract.gguf import NVFP4, GgufContainer
from quantmill.contract.safetensors import TensorFile
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill.worker.session import require_finite
from quantmill_fp8.plugin import FP8
from quantmill_gguf.nvfp4 import factor_of, packed_of
from quantmill_gguf.plugin import GGUF, NVFP4_BOUND

Arrays = dict[str, np.ndarray]
MODEL = SyntheticLlama(hidden=128, ffn=192, heads=4, kv_heads=2, blocks=1, vocab=301)
Q_PROJ = "model.layers.0.self_attn.q_proj"
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
KEPT = {"type": "NVFP4"}


def in_nvfp4(model: Any, folder: Path, *size: int) -> Path:
    """The model's checkpoint in NVFP4A16."""
    with open_checkpoint(model.write(folder / "plain", *size)) as checkpoint:
        run = Run(FP8, FP8.params(scheme="NVFP4A16"), checkpoint)
        run.write(run.quantize(), folder / "nvfp4")
    return folder / "nvfp4"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_nvfp4(MODEL, tmp_path_factory.mktemp("nvfp4"))


@pytest.fixture
def changed(source: Path, tmp_path: Path) -> Callable[..., Path]:
    """The checkpoint with other arrays."""

    def write(change: Callable[[Arrays], Any]) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        for path in source.iterdir():
            if path.suffix == ".json":
                (folder / path.name).write_bytes(path.read_bytes())
        with TensorFile(source / "model.safetensors") as opened:
            arrays = {name: np.array(opened.values(name)) for name in opened.tensors}
        change(arrays)
        save_file(arrays, folder / "model.safetensors", {"format": "pt"})
        return folder

    return write


def written(source: Path, folder: Path, **params: Any) -> Path:
    """The file made of a checkpoint, verified."""
    with open_checkpoint(source) as checkpoint:
        run = Run(GGUF, GGUF.params(**KEPT, **params), checkpoint)
        path, *_ = run.write(run.quantize(), folder)
        verify(checkpoint, run.plan, GGUF, run.params, folder)
    return path


def values_by_gguf(path: Path) -> Arrays:
    """Every tensor by the gguf package, those in NVFP4 with their factors."""
    tensors = {each.name: each for each in gguf.GGUFReader(path).tensors}
    found = {name: gguf.quants.dequantize(each.data, each.tensor_type) for name, each in tensors.items()}
    return {
        name: values * found[name.replace(".weight", ".scale")] if tensors[name].tensor_type.name == "NVFP4" else values
        for name, values in found.items()
    }


# Blocks


def test_pairs_of_neighbours_become_pairs_of_halves_below_the_scales() -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8), 4)  # (64,)
    parts = {
        "weight_packed": (codes[0::2] | codes[1::2] << 4)[None],
        "weight_scale": np.array([[0x38, 0x40, 0x01, 0x7E]], np.uint8),
    }

    packed = packed_of("w", parts)

    assert packed.tobytes().hex() == "3840017e" + "8091a2b3c4d5e6f7" * 4


def test_any_codes_and_scales_stand_for_the_same_values_in_the_gguf_package() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (3, 128), np.uint8)
    scales = random.integers(0, 127, (3, 8), np.uint8)
    parts = {"weight_packed": codes[:, 0::2] | codes[:, 1::2] << 4, "weight_scale": scales}

    found = gguf.quants.dequantize(packed_of("w", parts), gguf.GGMLQuantizationType.NVFP4)

    exponent, mantissa = scales >> 3, scales & 7
    scale = np.where(exponent == 0, mantissa / 512, (1 + mantissa / 8) * 2.0 ** (exponent.astype(int) - 7))
    sign = np.where(codes > 7, -1, 1)
    np.testing.assert_array_equal(found, sign * np.array(E2M1)[codes & 7] * np.repeat(scale, 16, axis=1))


def test_ggml_s_type_is_what_the_gguf_package_says() -> None:
    id_ = gguf.GGMLQuantizationType.NVFP4
    assert (NVFP4.id, (NVFP4.block_values, NVFP4.block_bytes)) == (id_, gguf.GGML_QUANT_SIZES[id_])


def test_the_factor_is_one_over_the_global_scale() -> None:
    assert factor_of("w", {"weight_global_scale": np.array([3584], np.float32)}).tolist() == [
        float(np.float32(1 / 3584))
    ]


# Files


def test_each_code_is_kept_and_everything_else_is_as_in_the_source(source: Path, tmp_path: Path) -> None:
    path = written(source, tmp_path / "made")

    found = values_by_gguf(path)
    with open_checkpoint(source) as checkpoint:
        for theirs, ours in (("blk.0.ffn_down", "mlp.down_proj"), ("blk.0.attn_v", "self_attn.v_proj")):
            wanted = checkpoint.tensor(f"model.layers.0.{ours}.weight").values
            np.testing.assert_allclose(found[f"{theirs}.weight"], wanted, rtol=NVFP4_BOUND, atol=0)
        embedding = checkpoint.tensor("model.embed_tokens.weight").values.astype(np.float32)
        np.testing.assert_array_equal(found["token_embd.weight"], embedding)
    with GgufContainer(path) as file:
        types = {name: (each.type.name, each.shape) for name, each in file.tensors.items() if name.startswith("blk.")}
        assert file.metadata["general.file_type"] == gguf.LlamaFileType.MOSTLY_NVFP4
        assert file.tensors["token_embd.weight"].type.name == file.tensors["output.weight"].type.name == "BF16"
    assert types == {
        "blk.0.attn_norm.weight": ("F32", (128,)),
        "blk.0.ffn_norm.weight": ("F32", (128,)),
        **{f"blk.0.{name}.scale": ("F32", (1,)) for name in SHAPES},
        **{f"blk.0.{name}.weight": ("NVFP4", shape) for name, shape in SHAPES.items()},
    }


SHAPES = {
    "attn_q": (128, 128),
    "attn_k": (64, 128),
    "attn_v": (64, 128),
    "attn_output": (128, 128),
    "ffn_gate": (192, 128),
    "ffn_up": (192, 128),
    "ffn_down": (128, 192),
}


def test_values_are_equal_to_the_bit_where_the_global_scale_is_a_power_of_two(
    changed: Callable[..., Path], tmp_path: Path
) -> None:
    def set_scale(arrays: Arrays) -> None:
        for name in arrays:
            if name.endswith("weight_global_scale"):
                arrays[name] = np.array([2048], np.float32)

    with open_checkpoint(changed(set_scale)) as checkpoint:
        run = Run(GGUF, GGUF.params(**KEPT), checkpoint)
        run.write(run.quantize(), tmp_path / "made")
        assert verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "made").relative_rmse == 0.0


def test_experts_stand_in_one_tensor_and_so_do_their_factors(tmp_path: Path) -> None:
    path = written(in_nvfp4(RANDOM_MODELS["mixtral, 4 experts"], tmp_path, 128), tmp_path / "made")

    with GgufContainer(path) as file:
        assert {each.shape for name, each in file.tensors.items() if name.endswith("_exps.scale")} == {(4,)}


def test_what_the_source_does_not_quantize_may_be_asked_for_in_another_type(source: Path, tmp_path: Path) -> None:
    path = written(source, tmp_path / "made", token_embedding_type="Q4_0", output_type="Q8_0", split_max_size_mb=0.04)

    types = {}
    for part in path.parent.glob("*.gguf"):
        with GgufContainer(part) as file:
            types |= {name: each.type.name for name, each in file.tensors.items()}
    assert (types["token_embd.weight"], types["output.weight"], types["blk.0.attn_q.weight"]) == (
        "Q4_0",
        "Q8_0",
        "NVFP4",
    )


def test_the_plan_says_what_is_kept_and_what_is_left_out(changed: Callable[..., Path]) -> None:
    folder = changed(lambda arrays: arrays.update({f"{Q_PROJ}.input_global_scale": np.ones(1, np.float32)}))

    with open_checkpoint(folder) as checkpoint:
        plan = Run(GGUF, GGUF.params(**KEPT), checkpoint).plan

    assert plan.warnings == (
        "the source is quantized (nvfp4-pack-quantized): 7 weights keep their codes",
        "run the file in llama.cpp: transformers' gguf_file passes the factors of NVFP4 by, and computes other numbers",
        "input_global_scale of 1 weights is left out: llama.cpp quantizes activations by itself",
    )
    row = plan.by_name[f"{Q_PROJ}.weight"]
    assert (row.action, row.scheme, row.nbytes, row.reason) == ("quantize", "NVFP4", 128 * 128 * 36 // 64 + 4, "")
    assert plan.by_name["lm_head.weight"].reason == "BF16 as in the source: type NVFP4 encodes nothing"


# Refusals


def refusal(source: Path, folder: Path, **params: Any) -> QuantmillError:
    with pytest.raises(QuantmillError) as refused:
        written(source, folder / "made", **params)
    return refused.value


def test_a_source_without_nvfp4_is_refused_with_what_makes_one(source: Path, tmp_path: Path) -> None:
    error = refusal(source.parent / "plain", tmp_path)

    assert isinstance(error, SourceRejected)
    assert "as fp8 with scheme=NVFP4A16 writes them, and the source is not quantized" in str(error)


def test_another_type_for_a_quantized_matrix_is_refused(source: Path, tmp_path: Path) -> None:
    error = refusal(source, tmp_path, overrides={"*.ffn_down.weight": "Q8_0"})

    assert isinstance(error, ParamsRejected)
    assert "down_proj.weight cannot keep its NVFP4 codes: overrides give *.ffn_down.weight Q8_0" in str(error)


def test_rows_that_ggml_s_blocks_do_not_divide_are_refused_when_it_is_planned(tmp_path: Path) -> None:
    model = SyntheticLlama(hidden=128, ffn=176, heads=4, kv_heads=2, blocks=1, vocab=301)

    error = refusal(in_nvfp4(model, tmp_path), tmp_path)

    assert isinstance(error, ParamsRejected)
    assert "rows of 176 values do not divide into GGML's blocks of 64" in str(error)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("qwen2", "llama.cpp leaves their factors out of the graph of qwen2, not of llama, qwen3, qwen3moe"),
        ("llama, wide heads and biases", "it has a bias, and llama.cpp adds none"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_when_it_is_planned(
    case: str, reason: str, tmp_path: Path
) -> None:
    error = refusal(in_nvfp4(RANDOM_MODELS[case], tmp_path, 128), tmp_path)

    assert isinstance(error, ParamsRejected)
    assert reason in str(error)
    assert "another type takes them by their values, with allow_requantize" in str(error)


@pytest.mark.parametrize("params", [{"pure": True}, {"awq": True}, {"imatrix": "auto"}])
def test_what_only_encoders_take_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="type NVFP4 encodes no matrix"):
        GGUF.params(**KEPT, **params)


def put(name: str, value: int | float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        array = arrays[f"{Q_PROJ}.{name}"]
        array.view(np.uint8 if array.dtype.itemsize == 1 else array.dtype).reshape(-1)[0] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("weight_scale", 0x7F), "no scale that is negative or NaN"),
        (put("weight_scale", 0x80), "no scale that is negative or NaN"),
        (put("weight_global_scale", -1.0), r"weight_global_scale \[-1.0\] has no reciprocal above zero"),
        (put("weight_global_scale", np.inf), r"\[inf\] has no reciprocal above zero"),
        (put("weight_global_scale", np.nan), r"\[nan\] has no reciprocal above zero"),
        (put("weight_global_scale", 0.0), r"\[0.0\] has no reciprocal above zero"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_scales_that_ggml_cannot_hold_fail_by_the_weight_s_name(
    change: Callable[[Arrays], None], reason: str, changed: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RangeExceeded, match=reason) as refused:
        raise refusal(changed(change), tmp_path)
    assert refused.value.fields["tensor"] == f"{Q_PROJ}.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop(f"{Q_PROJ}.weight_global_scale"), "weight_global_scale must be F32 in 1 dimensions"),
        (lambda a: a.update({f"{Q_PROJ}.weight_global_scale": np.ones(2, np.float32)}), "is not one number"),
        (lambda a: a.update({f"{Q_PROJ}.weight_packed": a[f"{Q_PROJ}.weight_packed"][:, :-1].copy()}), "does not fit"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_when_the_source_is_opened(
    change: Callable[[Arrays], Any], reason: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(SourceRejected, match=reason):
        open_checkpoint(changed(change))


# Verification


def damaged(path: Path, name: str, at: int, value: bytes) -> None:
    with GgufContainer(path) as file:
        start = file.tensors[name].start + at
    content = bytearray(path.read_bytes())
    content[start : start + len(value)] = value
    path.write_bytes(content)


def renamed(path: Path, name: str) -> None:
    content = path.read_bytes()
    assert content.count(name.encode()) == 1
    path.write_bytes(content.replace(name.encode(), name.replace("scale", "scald").encode()))


@pytest.fixture
def artifact(source: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], None]:
    """Damages a file and verifies it."""

    def check(damage: Callable[[Path], None]) -> None:
        with open_checkpoint(source) as checkpoint:
            run = Run(GGUF, GGUF.params(**KEPT), checkpoint)
            path, *_ = run.write(run.quantize(), tmp_path / "made")
            damage(path)
            verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "made")

    return check


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: damaged(path, "blk.0.attn_q.weight", 0, b"\x7f"),  # a scale that is none
        lambda path: damaged(path, "blk.0.attn_q.weight", 0, b"\x7e"),
        lambda path: damaged(path, "blk.0.attn_q.weight", 20, b"\x9c\x31"),  # other codes
        lambda path: damaged(path, "blk.0.attn_q.scale", 0, np.float32(0.01).tobytes()),
        lambda path: damaged(path, "blk.0.attn_q.scale", 0, np.float32(np.nan).tobytes()),
    ],
)
def test_another_code_scale_or_factor_is_found(damage: Callable[[Path], None], artifact: Any) -> None:
    with pytest.raises(VerificationFailed, match=r"q_proj\.weight"):
        artifact(damage)


def test_a_file_without_a_factor_is_no_artifact(artifact: Any) -> None:
    with pytest.raises(VerificationFailed, match=r"blk\.0\.attn_q\.scale is no list of its factors|scald"):
        artifact(lambda path: renamed(path, "blk.0.attn_q.scale"))


def test_settings_of_the_source_stay_out_of_the_file(source: Path, tmp_path: Path) -> None:
    assert "quantization_config" in json.loads((source / "config.json").read_text())
    with GgufContainer(written(source, tmp_path / "made")) as file:
        assert not [key for key in file.metadata if "nvfp4" in key.lower()]


# Files in NVFP4 as sources


@pytest.fixture(scope="module")
def file_source(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(source, tmp_path_factory.mktemp("file") / "made")


def test_a_file_is_read_with_its_factors(file_source: Path) -> None:
    with open_checkpoint(file_source) as checkpoint:
        for name, wanted in values_by_gguf(file_source).items():
            values = checkpoint.tensor(name).values.astype(np.float32)
            np.testing.assert_array_equal(values, wanted.reshape(values.shape), name)


def test_experts_of_a_file_have_a_factor_each(tmp_path: Path) -> None:
    path = written(in_nvfp4(RANDOM_MODELS["mixtral, 4 experts"], tmp_path, 128), tmp_path / "made")
    tensors = {each.name: each for each in gguf.GGUFReader(path).tensors}
    blocks = tensors["blk.0.ffn_up_exps.weight"]
    factors = tensors["blk.0.ffn_up_exps.scale"].data

    with open_checkpoint(path) as checkpoint:
        found = checkpoint.tensor(blocks.name).values

    assert len(set(factors.tolist())) == 4
    np.testing.assert_array_equal(
        found, gguf.quants.dequantize(blocks.data, blocks.tensor_type) * factors[:, None, None]
    )


@pytest.mark.parametrize("params", [{"type": "Q8_0"}, {"type": "F32"}, {"target_bpw": 7.0}])
def test_a_file_becomes_another_type_by_its_values_and_loses_the_factors(
    params: dict[str, Any], file_source: Path, tmp_path: Path
) -> None:
    with open_checkpoint(file_source) as checkpoint:
        run = Run(GGUF, GGUF.params(**params, allow_requantize=True), checkpoint)
        path, *_ = run.write(run.quantize(), tmp_path / "made")
        require_finite(checkpoint.tensor("blk.0.attn_q.weight"))
        verify(checkpoint, run.plan, GGUF, run.params, tmp_path / "made")

    assert run.plan.by_name["blk.0.attn_q.scale"].reason.startswith("it scales blk.0.attn_q.weight")
    found, wanted = values_by_gguf(path), values_by_gguf(file_source)
    assert found.keys() == {name for name in wanted if not name.endswith(".scale")}
    if params == {"type": "F32"}:
        for name, values in found.items():
            np.testing.assert_array_equal(values, wanted[name])


def test_a_file_is_taken_only_when_that_is_allowed_and_never_by_its_codes(file_source: Path) -> None:
    with open_checkpoint(file_source) as checkpoint:
        with pytest.raises(SourceRejected, match=r"NVFP4: 7 tensors, .*allow_requantize"):
            _ = Run(GGUF, GGUF.params(type="Q8_0"), checkpoint).plan
        with pytest.raises(ParamsRejected, match="type NVFP4 takes a checkpoint's codes"):
            _ = Run(GGUF, GGUF.params(**KEPT), checkpoint).plan


def of_one_block(*sides: bytes) -> bytes:
    """A file with a matrix of one block, and what stands beside it at byte 64."""
    return file([LLAMA], [tensor("blk.0.attn_q.weight", (64, 1), 40), *sides], bytes(64) + np.float32(2).tobytes() * 8)


def test_a_file_without_factors_has_the_blocks_values(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(of_one_block())

    with open_checkpoint(tmp_path / "a.gguf") as checkpoint:
        assert checkpoint.tensor("blk.0.attn_q.weight").values.tolist() == [[0.0] * 64]


@pytest.mark.parametrize(
    "side",
    [
        tensor("blk.0.attn_q.scale", (2,), 0, offset=64),
        tensor("blk.0.attn_q.scale", (1,), 1, offset=64),
        tensor("blk.0.attn_q.scale", (1, 1), 0, offset=64),
        tensor("blk.0.attn_q.input_scale", (3,), 0, offset=64),
    ],
    ids=["two", "float16", "a matrix", "three for inputs"],
)
def test_factors_of_another_shape_or_type_are_refused(side: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(of_one_block(side))

    with pytest.raises(
        SourceRejected, match=r"scale' is F(32|16) \[.*\], and 'blk\.0\.attn_q\.weight' takes F32 \[1\]"
    ):
        open_checkpoint(tmp_path / "a.gguf")


@pytest.mark.parametrize("factor", [np.nan, np.inf, 3e38])
def test_a_factor_that_is_no_number_is_found_before_anything_is_made_of_it(
    factor: float, file_source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(file_source.read_bytes())
    damaged(path, "blk.0.attn_q.scale", 0, np.float32(factor).tobytes())

    with open_checkpoint(path) as checkpoint, pytest.raises(NonFiniteTensor, match=r"blk\.0\.attn_q\.weight"):
        require_finite(checkpoint.tensor("blk.0.attn_q.weight"))
