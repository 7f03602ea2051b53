"""Scales of the key/value cache: what a plan asks of the text, what is stored, and what verification refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pydantic import ValidationError
from tests.unit.verification.folders import Folder, Made

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.calibration import require_calibration
from quantmill.contract.errors import ParamsRejected, RequestRejected
from quantmill.contract.model_folder import ModelFolder
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex, TensorInfo
from quantmill.contract.testing import calibration_ids
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.planning import plan
from quantmill_fp8.plugin import FP8

DYNAMIC = {"scheme": "FP8_DYNAMIC", "kv_cache_scheme": "FP8"}
ATTENTIONS = ("model.layers.0.self_attn", "model.layers.1.self_attn")
SCHEME = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Two blocks with two heads for keys, 32 wide."""
    root = tmp_path_factory.mktemp("caches")
    model = SyntheticLlama(hidden=128, ffn=128, heads=4, kv_heads=2, blocks=2)
    with open_checkpoint(model.write(root / "model")) as checkpoint:
        yield Made(checkpoint, root)


def states(checkpoint: Any) -> dict[str, np.ndarray]:
    """By transformers' own model and cache: keys and values of all windows, (tokens, heads * head_dim)."""
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = {
        key: value for key, value in checkpoint.index.config.items() if key not in ("architectures", "torch_dtype")
    }
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    weights = {name: checkpoint.tensor(name).values.astype(np.float32) for name in checkpoint.index.tensors}
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    found: dict[str, list[np.ndarray]] = {}
    for ids in calibration_ids():
        cache = DynamicCache()
        with torch.no_grad():
            model(torch.from_numpy(ids[None]), past_key_values=cache, use_cache=True)
        for attention, layer in zip(ATTENTIONS, cache.layers, strict=True):
            found.setdefault(f"{attention}.k_scale", []).append(layer.keys[0].numpy())
            found.setdefault(f"{attention}.v_scale", []).append(layer.values[0].numpy())
    return {name: np.concatenate([each.reshape(-1) for each in windows]) for name, windows in found.items()}


def scales(folder: Path) -> dict[str, np.ndarray]:
    with ModelFolder(folder) as artifact:
        return {name: artifact.values(name) for name in artifact.tensors if name.endswith((".k_scale", ".v_scale"))}


def test_they_are_the_largest_keys_and_values_that_transformers_caches(made: Made) -> None:
    wanted = {name: np.abs(values).max() / 448 for name, values in states(made.checkpoint).items()}

    found = scales(made.artifact(FP8, DYNAMIC))

    assert found.keys() == wanted.keys()
    assert {(scale.dtype, scale.shape) for scale in found.values()} == {(np.dtype(ml_dtypes.bfloat16), (1,))}
    for name, scale in found.items():
        assert float(scale[0]) == pytest.approx(wanted[name], rel=2**-8)  # bfloat16


def test_a_percentile_covers_that_share(made: Made) -> None:
    wanted = {name: np.quantile(np.abs(values), 0.95) / 448 for name, values in states(made.checkpoint).items()}

    found = scales(made.artifact(FP8, {**DYNAMIC, "percentile": 95}))

    for name, scale in found.items():
        assert float(scale[0]) == pytest.approx(wanted[name], rel=0.02)


@pytest.mark.parametrize(
    "params",
    [
        DYNAMIC,
        {"scheme": "FP8", "kv_cache_scheme": "FP8"},
        {"scheme": "NVFP4A16", "kv_cache_scheme": "FP8", "skip_modules": ("lm_head", "*.k_proj")},
    ],
    ids=lambda params: params["scheme"],
)
def test_an_artifact_with_them_is_verified_and_says_so_to_consumers(params: dict[str, Any], made: Made) -> None:
    folder = made.artifact(FP8, params)

    assert made.failed_checks(FP8, params, folder) == {}
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]["kv_cache_scheme"]
    assert {key: settings[key] for key in SCHEME} == SCHEME
    assert sorted(scales(folder)) == sorted(f"{name}.{part}" for name in ATTENTIONS for part in ("k_scale", "v_scale"))


def test_the_weights_are_what_they_are_without_them(made: Made, tmp_path: Path) -> None:
    with_scales = dict(FP8.weights(made.artifact(FP8, DYNAMIC)))
    without = dict(FP8.weights(made.artifact(FP8, {"scheme": "FP8_DYNAMIC"})))

    assert with_scales.keys() == without.keys()
    assert all(np.array_equal(with_scales[name], without[name]) for name in without)


def index_of(*names: str) -> ModelIndex:
    tensors = {name: TensorInfo(name, "BF16", (64, 64), 2 * 64 * 64) for name in names}
    return ModelIndex({"architectures": ["LlamaForCausalLM"]}, tensors, {}, {})


QKVO = [f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkvo"]


@pytest.mark.parametrize(("percentile", "kind"), [(100, "absmax"), (99.9, "magnitudes")])
def test_a_plan_asks_for_them_alone_where_nothing_else_is_static(percentile: float, kind: str) -> None:
    need = plan(index_of(*QKVO), Fp8Params(**DYNAMIC, percentile=percentile)).calibration

    assert need is not None
    assert (need.of_source, need.weights, need.caches) == ((kind,), (), ("model.layers.0.self_attn",))


def test_without_a_text_they_are_refused() -> None:
    with pytest.raises(RequestRejected, match="give calibration with a text"):
        require_calibration(plan(index_of(*QKVO), Fp8Params(**DYNAMIC)), "fp8", given=False)


@pytest.mark.parametrize(
    ("index", "skipped", "code"),
    [
        (index_of("gpt_neox.layers.0.attention.query_key_value.weight"), (), "no_cache"),
        (index_of(*QKVO, "model.layers.0.mlp.up_proj.weight"), ("*.self_attn.*",), "nothing_quantized"),
        (index_of(*QKVO, "model.layers.0.self_attn.k_scale"), (), "has_scales"),
    ],
    ids=["another family", "skipped", "there already"],
)
def test_models_that_cannot_have_them_are_refused(index: ModelIndex, skipped: tuple[str, ...], code: str) -> None:
    with pytest.raises(ParamsRejected) as refused:
        plan(index, Fp8Params(**DYNAMIC, skip_modules=skipped))
    assert refused.value.fields["errors"][0]["code"] == code


@pytest.mark.parametrize("params", [{"scheme": "FP8_NATIVE", "kv_cache_scheme": "FP8"}, {"kv_cache_scheme": "INT8"}])
def test_settings_that_consumers_do_not_have_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fp8Params(**params)


K0 = "model.layers.0.self_attn.k_scale"


def set_scale(value: float) -> Callable[[Folder], None]:
    def edit(folder: Folder) -> None:
        folder[K0][...] = value

    return edit


def drop_scheme(folder: Folder) -> None:
    folder.config["quantization_config"]["kv_cache_scheme"] = None


def other_shape(folder: Folder) -> None:
    folder[K0] = np.repeat(folder[K0], 2)


DAMAGES: dict[str, tuple[Callable[[Folder], object], str, str]] = {
    "zero": (set_scale(0.0), "cache_scales", K0),
    "negative": (set_scale(-1.0), "cache_scales", K0),
    "nan": (set_scale(float("nan")), "cache_scales", K0),
    "infinite": (set_scale(float("inf")), "cache_scales", K0),
    "missing": (lambda folder: folder.arrays.pop(K0), "cache_scales", K0),
    "two of them": (other_shape, "cache_scales", K0),
    "no setting": (drop_scheme, "quantization_config", "kv_cache_scheme"),
    "by heads": (
        lambda folder: folder.config["quantization_config"]["kv_cache_scheme"].update(strategy="attn_head"),
        "quantization_config",
        "kv_cache_scheme.strategy",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_scales_are_refused(damage: str, made: Made, tmp_path: Path) -> None:
    edit, check, named = DAMAGES[damage]
    folder = made.copy(FP8, DYNAMIC, tmp_path / "damaged")
    edit(folder)
    folder.save()

    found = made.failed_checks(FP8, DYNAMIC, folder.path)

    assert named in found[check], found


def test_scales_that_nobody_asked_for_are_refused(made: Made, tmp_path: Path) -> None:
    folder = made.copy(FP8, DYNAMIC, tmp_path / "artifact")

    found = made.failed_checks(FP8, {"scheme": "FP8_DYNAMIC"}, folder.path)

    assert K0 in found["cache_scales"]
