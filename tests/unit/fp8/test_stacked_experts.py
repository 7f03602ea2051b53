"""Experts in one tensor become what experts one by one become, and are read back as the one tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.unit.fp8.mixtures import FAMILIES, write
from tests.unit.verification.folders import Array, Folder

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ParamsRejected, SourceRejected, VerificationFailed
from quantmill.contract.experts import stacks
from quantmill.contract.linears import kept_modules
from quantmill.contract.model_folder import ModelFolder
from quantmill.contract.tensors import ModelIndex, PieceByPiece, TensorInfo
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_bnb.plugin import BNB
from quantmill_fp8.planning import plan
from quantmill_fp8.plugin import FP8
from quantmill_hqq.plugin import HQQ

SCHEMES = ("FP8_DYNAMIC", "FP8_BLOCK", "FP8_NATIVE", "FP8A16", "MXFP8", "NVFP4A16", "MXFP4A16")
QWEN = "Qwen3MoeForCausalLM"
MIXTRAL = "MixtralForCausalLM"
EXPERTS = "model.layers.0.mlp.experts"
GATE, THEIR_GATE = (f"model.layers.0.{holder}.gate.weight" for holder in ("mlp", "block_sparse_moe"))
GATE_UP, DOWN = f"{EXPERTS}.gate_up_proj", f"{EXPERTS}.down_proj"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a checkpoint by architecture and form, each written once."""
    root = tmp_path_factory.mktemp("mixtures")

    def folder(architecture: str = QWEN, *, fused: bool = True) -> Path:
        path = root / f"{architecture}-{fused}"
        return path if path.exists() else write(path, architecture, fused=fused)

    return folder


def quantized(source: Path, folder: Path, **params: Any) -> Path:
    """The artifact of the checkpoint, verified."""
    with open_checkpoint(source) as checkpoint:
        run = Run(FP8, FP8.params(**params), checkpoint)
        run.write(run.quantize(), folder)
        verify(checkpoint, run.plan, FP8, run.params, folder)
    return folder


def arrays(folder: Path) -> dict[str, tuple[str, bytes]]:
    with ModelFolder(folder) as artifact:
        return {name: (info.dtype, artifact.values(name).tobytes()) for name, info in artifact.tensors.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_forms_of_a_mixture_become_the_same_arrays(
    scheme: str, sources: Callable[..., Path], tmp_path: Path
) -> None:
    one_by_one = quantized(sources(fused=False), tmp_path / "one-by-one", scheme=scheme)
    fused = quantized(sources(fused=True), tmp_path / "fused", scheme=scheme)

    assert arrays(fused) == arrays(one_by_one)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_each_family_s_stacks_become_the_names_that_consumers_know(
    architecture: str, sources: Callable[..., Path], tmp_path: Path
) -> None:
    one_by_one = quantized(sources(architecture, fused=False), tmp_path / "one-by-one")
    fused = quantized(sources(architecture, fused=True), tmp_path / "fused")

    assert arrays(fused) == arrays(one_by_one)
    settings = [json.loads((folder / "config.json").read_text()) for folder in (fused, one_by_one)]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_reader_gives_the_source_s_tensor_back(
    architecture: str, sources: Callable[..., Path], tmp_path: Path
) -> None:
    source = sources(architecture)
    artifact = quantized(source, tmp_path / "artifact")

    with open_checkpoint(source) as checkpoint:
        read = dict(FP8.weights(artifact))
        assert read.keys() == checkpoint.index.tensors.keys()
        for name in stacks(checkpoint.index):
            wanted = checkpoint.tensor(name).values.astype(np.float32)
            assert np.abs(read[name] - wanted).max() <= 0.04 * np.abs(wanted).max()


def test_what_lies_beside_mixtral_s_experts_has_the_names_that_consumers_know(
    sources: Callable[..., Path], tmp_path: Path
) -> None:
    artifact = quantized(sources(MIXTRAL), tmp_path / "artifact")

    ignored = json.loads((artifact / "config.json").read_text())["quantization_config"]["ignore"]
    with ModelFolder(artifact) as found, ModelFolder(sources(MIXTRAL)) as source:
        assert not [name for name in (*found.tensors, *ignored) if ".mlp." in name]
        assert found.values(THEIR_GATE).tobytes() == source.values(GATE).tobytes()
        assert json.loads(found.metadata["quantmill.names"]) == {GATE: THEIR_GATE}
    assert THEIR_GATE.removesuffix(".weight") in ignored


def test_experts_of_mixtral_that_are_skipped_have_their_names_too(sources: Callable[..., Path], tmp_path: Path) -> None:
    artifact = quantized(sources(MIXTRAL), tmp_path / "artifact", skip_modules=["lm_head", "*.experts.*"])

    ignored = json.loads((artifact / "config.json").read_text())["quantization_config"]["ignore"]
    with ModelFolder(artifact) as found:
        assert not [name for name in (*found.tensors, *ignored) if ".mlp." in name]
    assert "model.layers.0.block_sparse_moe.experts" in ignored


@pytest.mark.parametrize(
    ("name", "own"), [(THEIR_GATE, GATE), ("model.layers.0.block_sparse_moe.experts.2.w2.weight", DOWN)]
)
def test_a_source_that_has_the_names_of_both_is_refused(name: str, own: str, sources: Callable[..., Path]) -> None:
    with open_checkpoint(sources(MIXTRAL)) as checkpoint:
        both = {**checkpoint.index.tensors, name: TensorInfo(name, "BF16", (3, 128), 3 * 128 * 2)}
        index = replace(checkpoint.index, tensors=both)

        with pytest.raises(SourceRejected, match=f"has {name} beside {own}"):
            plan(index, FP8.params())


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"scheme": "FP8"}, ["vLLM takes static scales of experts with strategy=tensor alone"]),
        ({"scheme": "FP8", "strategy": "tensor"}, []),
        ({"scheme": "NVFP4A16"}, ["transformers 5 loads experts without their global scale and predicts nonsense"]),
        ({"scheme": "NVFP4A16", "skip_modules": ["*.experts.*"]}, []),
        ({"scheme": "FP8_DYNAMIC"}, []),
    ],
)
def test_the_plan_says_which_consumer_does_not_take_such_experts(
    params: dict[str, Any], said: list[str], sources: Callable[..., Path]
) -> None:
    for fused in (True, False):
        with open_checkpoint(sources(fused=fused)) as checkpoint:
            assert list(plan(checkpoint.index, FP8.params(**params)).warnings) == said


def test_the_plan_says_what_becomes_of_them(sources: Callable[..., Path]) -> None:
    with open_checkpoint(sources()) as checkpoint:
        plan = Run(FP8, FP8.params(), checkpoint).plan

    assert {row.name: (row.scheme, row.reason) for row in plan.tensors if "experts" in row.name} == {
        GATE_UP: ("FP8", "stored as experts one by one: gate_proj, up_proj"),
        DOWN: ("FP8", "stored as experts one by one: down_proj"),
    }
    assert plan.by_name[GATE_UP].nbytes == 3 * 2 * (256 * 128 + 256 * 2)
    assert plan.peak_memory_bytes == 3 * 512 * 128 * 2 + 2 * (256 * 128 + 256 * 2)  # the source's stack, one expert's


def test_one_expert_is_in_memory_at_a_time(sources: Callable[..., Path]) -> None:
    with open_checkpoint(sources()) as checkpoint:
        made = {tensor.name: tensor for tensor in Run(FP8, FP8.params(), checkpoint).quantize()}
        parts = made[GATE_UP].parts

        assert isinstance(parts, PieceByPiece)
        assert list(parts)[:4] == ["0/0/codes", "0/0/scale", "0/1/codes", "0/1/scale"]
        assert parts["2/1/codes"].shape == (256, 128)
        assert made[GATE_UP].nbytes == sum(part.nbytes for part in parts.values())


@pytest.mark.parametrize(
    ("architecture", "params", "pointer", "message"),
    [
        ("Llama4ForCausalLM", {"scheme": "FP8"}, "/params/scheme", "whose inputs calibration does not tell apart"),
        (QWEN, {"skip_modules": ["*.expert.*"]}, "/params/skip_modules/0", "matches no Linear"),
        (QWEN, {"skip_modules": [DOWN]}, "/params/skip_modules", "down_proj is kept without the other tensor"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_planned(
    architecture: str, params: dict[str, Any], pointer: str, message: str, sources: Callable[..., Path]
) -> None:
    with open_checkpoint(sources(architecture)) as checkpoint, pytest.raises(ParamsRejected, match=message) as refused:
        plan(checkpoint.index, FP8.params(**params))
    assert refused.value.fields["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("scheme", ["FP8_BLOCK", "FP8_NATIVE"])
def test_experts_that_are_skipped_are_stored_one_by_one_and_named_to_consumers(
    scheme: str, sources: Callable[..., Path], tmp_path: Path
) -> None:
    artifact = quantized(sources(), tmp_path / "artifact", scheme=scheme, skip_modules=["lm_head", "*.experts.*"])

    settings = json.loads((artifact / "config.json").read_text())["quantization_config"]
    ignored = settings["ignore" if scheme == "FP8_BLOCK" else "modules_to_not_convert"]
    assert {EXPERTS, f"{EXPERTS}.0.gate_proj", f"{EXPERTS}.2.down_proj"} <= set(ignored)
    with ModelFolder(artifact) as found, ModelFolder(sources()) as source:
        gate, up = np.split(source.values(GATE_UP), 2, axis=1)
        for name, values in (("gate", gate), ("up", up), ("down", source.values(DOWN))):
            assert found.values(f"{EXPERTS}.1.{name}_proj.weight").tobytes() == values[1].tobytes()


def test_a_header_of_many_experts_that_are_skipped_is_not_too_large_for_its_artifact(
    sources: Callable[..., Path], tmp_path: Path
) -> None:
    many = {GATE_UP: (300, 16, 128), DOWN: (300, 128, 8)}
    source = Path(shutil.copytree(sources(), tmp_path / "source"))
    with open_checkpoint(source) as checkpoint:
        folder = Folder(source, checkpoint)
        for name, shape in many.items():
            folder.arrays[name] = Array("BF16", [*shape], np.zeros(shape, ml_dtypes.bfloat16))
        folder.save()

    artifact = quantized(source, tmp_path / "artifact", skip_modules=["lm_head", "*.experts.*"])

    assert sum(name.startswith(f"{EXPERTS}.") for name in arrays(artifact)) == 3 * 300


def test_experts_of_llama_4_that_are_skipped_stay_as_the_source_has_them(
    sources: Callable[..., Path], tmp_path: Path
) -> None:
    llama4 = sources("Llama4ForCausalLM")
    artifact = quantized(llama4, tmp_path / "artifact", skip_modules=["lm_head", "*.experts.*"])

    name = "model.layers.0.feed_forward.experts.gate_up_proj"
    with ModelFolder(artifact) as found, ModelFolder(llama4) as source:
        assert found.values(name).tobytes() == source.values(name).tobytes()


def test_promoting_one_of_a_block_s_stacks_keeps_both(sources: Callable[..., Path]) -> None:
    with open_checkpoint(sources()) as checkpoint:
        run = Run(FP8, FP8.params(), checkpoint)
        change = FP8.promote.load()(checkpoint.index, run.plan, run.params, [DOWN])

    assert change == {"skip_modules": ["lm_head", DOWN, GATE_UP]}


@pytest.mark.parametrize("method", [BNB, HQQ], ids=lambda method: method.name)
def test_methods_whose_consumers_know_linears_alone_keep_them_and_say_so(
    method: Any, sources: Callable[..., Path], tmp_path: Path
) -> None:
    with open_checkpoint(sources()) as checkpoint:
        run = Run(method, method.params(), checkpoint)
        run.write(run.quantize(), tmp_path / "artifact")
        verify(checkpoint, run.plan, method, run.params, tmp_path / "artifact")

        rows = [run.plan.by_name[name] for name in (GATE_UP, DOWN)]
        assert {(row.action, row.scheme) for row in rows} == {("keep", "BF16")}
        assert all("in one tensor" in row.reason for row in rows)
        with ModelFolder(tmp_path / "artifact") as found:
            assert found.values(GATE_UP).tobytes() == checkpoint.tensor(GATE_UP).values.tobytes()


def test_a_method_that_keeps_stacks_names_them_as_its_files_do(sources: Callable[..., Path]) -> None:
    with open_checkpoint(sources(MIXTRAL)) as checkpoint:
        run = Run(BNB, BNB.params(), checkpoint)

        assert EXPERTS in kept_modules(run.plan, checkpoint.index)


def index_of(architecture: str, **shapes: tuple[int, ...]) -> ModelIndex:
    tensors = {
        name: TensorInfo(name, "BF16", shape, 2 * int(np.prod(shape)))
        for name, shape in ((f"{EXPERTS}.{leaf}", shape) for leaf, shape in sorted(shapes.items()))
    }
    return ModelIndex({"architectures": [architecture]}, tensors, {}, {})


@pytest.mark.parametrize(
    ("gate_up", "down"),
    [
        ((3, 512, 128), (3, 256, 128)),  # down is (in, out)
        ((3, 512, 128), (2, 128, 256)),  # one expert less
        ((3, 511, 128), (3, 128, 255)),  # gate and up of different sizes
        ((3, 512), (3, 128, 256)),
        ((10**12, 0, 0), (10**12, 0, 0)),  # a header of no bytes
        ((5000, 4, 2), (5000, 2, 2)),  # more experts than any model has
    ],
)
def test_stacks_that_do_not_fit_each_other_are_none(gate_up: tuple[int, ...], down: tuple[int, ...]) -> None:
    assert stacks(index_of(QWEN, gate_up_proj=gate_up, down_proj=down)) == {}


def test_a_family_whose_layout_is_unknown_has_none() -> None:
    index = index_of("GptOssForCausalLM", gate_up_proj=(3, 128, 512), down_proj=(3, 256, 128))

    assert stacks(index) == {}


def swap_experts(folder: Folder) -> None:
    first, second = (f"{EXPERTS}.{number}.down_proj" for number in (0, 1))
    for ending in ("weight", "weight_scale"):
        one, other = f"{first}.{ending}", f"{second}.{ending}"
        folder.arrays[one], folder.arrays[other] = folder.arrays[other], folder.arrays[one]


def swap_gate_and_up(folder: Folder) -> None:
    for ending in ("weight", "weight_scale"):
        one, other = (f"{EXPERTS}.2.{leaf}_proj.{ending}" for leaf in ("gate", "up"))
        folder.arrays[one], folder.arrays[other] = folder.arrays[other], folder.arrays[one]


def leave_an_expert_out(folder: Folder) -> None:
    for ending in ("weight", "weight_scale"):
        del folder.arrays[f"{EXPERTS}.1.down_proj.{ending}"]


def edit_metadata(change: Callable[[dict[str, Any]], object]) -> Callable[[Folder], None]:
    def edit(folder: Folder) -> None:
        said = json.loads(folder.metadata["quantmill.stacks"])
        change(said)
        folder.metadata["quantmill.stacks"] = json.dumps(said)

    return edit


DAMAGES = {
    "experts swapped": (swap_experts, "error_bounds", DOWN),
    "gate and up swapped": (swap_gate_and_up, "error_bounds", GATE_UP),
    "an expert left out": (leave_an_expert_out, "readable", "there is nothing of"),
    "no metadata": (lambda folder: folder.metadata.pop("quantmill.stacks"), "tensors_present", GATE_UP),
    "an expert too few": (edit_metadata(lambda said: said[DOWN].update(experts=2)), "shapes", DOWN),
    "more experts than tensors": (edit_metadata(lambda said: said[DOWN].update(experts=10**9)), "readable", "experts"),
    "experts as text": (edit_metadata(lambda said: said[DOWN].update(experts="3")), "readable", "experts"),
    "one weight for all": (edit_metadata(lambda said: said[DOWN].update(weights=["lm_head.weight"])), "readable", ""),
    "the other way round": (edit_metadata(lambda said: said[DOWN].update(transposed=True)), "shapes", DOWN),
    "not JSON": (lambda folder: folder.metadata.update({"quantmill.stacks": "{"}), "readable", "quantmill.stacks"),
}


def name_as_the_source_does(folder: Folder) -> None:
    del folder.metadata["quantmill.names"]
    folder.arrays[GATE] = folder.arrays.pop(THEIR_GATE)


def say(names: str) -> Callable[[Folder], None]:
    return lambda folder: folder.metadata.update({"quantmill.names": names})


DAMAGED_NAMES = {
    "none are said": (lambda folder: folder.metadata.pop("quantmill.names"), "tensors_present", GATE),
    "those of the source": (name_as_the_source_does, "stored_names", THEIR_GATE),
    "not JSON": (say("{"), "readable", "quantmill.names"),
    "of what is not stored": (say(json.dumps({GATE: GATE})), "readable", "names"),
    "two of one tensor": (say(json.dumps({GATE: THEIR_GATE, "other": THEIR_GATE})), "readable", "names"),
    "not a name": (say(json.dumps({GATE: [THEIR_GATE]})), "readable", "names"),
    "of what has its own": (say(json.dumps({"lm_head.weight": THEIR_GATE})), "readable", "names"),
}


@pytest.mark.parametrize(
    ("architecture", "damage"), [*((QWEN, damage) for damage in DAMAGES), *((MIXTRAL, each) for each in DAMAGED_NAMES)]
)
def test_a_damaged_stack_is_refused(
    architecture: str, damage: str, sources: Callable[..., Path], tmp_path: Path
) -> None:
    edit, check, named = (DAMAGES if architecture == QWEN else DAMAGED_NAMES)[damage]
    with open_checkpoint(sources(architecture)) as checkpoint:
        run = Run(FP8, FP8.params(), checkpoint)
        run.write(run.quantize(), tmp_path / "whole")
        folder = Folder(Path(shutil.copytree(tmp_path / "whole", tmp_path / "damaged")), checkpoint)
        edit(folder)
        folder.save()
        with pytest.raises(VerificationFailed) as refused:
            verify(checkpoint, run.plan, FP8, run.params, folder.path)

    failed = {each["name"]: each["detail"] for each in refused.value.fields["failed"]}
    assert named in failed[check], failed
