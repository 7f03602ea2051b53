"""Checkpoints of transformers as sources: they become graphs that compute the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.onnx_jobs import of_kind, onnx_job
from tests.random_models import RandomModel, causal

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, Canceled, ParamsRejected, SourceRejected
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import Plan
from quantmill.contract.testing import MemorySession
from quantmill.worker.messages import Finished, PlanSettled, SourceKnown, UnitFinished
from quantmill_onnx import exporting
from quantmill_onnx.exporting import compare, convert
from quantmill_onnx.inspection import open_session
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX

IMAGES = {"num_channels": 3, "image_size": 16, "patch_size": 8, "num_labels": 5}
MODELS = {
    "decoder": causal("Llama", num_hidden_layers=1, tie_word_embeddings=True),
    "encoder": RandomModel("BertModel", "BertConfig", {"num_hidden_layers": 1, "pad_token_id": 0}),
    "images": RandomModel("ViTForImageClassification", "ViTConfig", {**IMAGES, "num_hidden_layers": 1}),
}


def write_resnet(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, model in MODELS.items():
        model.write(folder / name, hidden=32)
    write_resnet(folder / "convolutions")
    return folder


@pytest.fixture(scope="module")
def jobs(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


def planned(folder: Path, **params: Any) -> Plan:
    with open_checkpoint(folder) as source:
        return ONNX.plan.load()(source.index, OnnxParams(**params))


def converted(source: Path, folder: Path) -> dict[str, Any]:
    """What was compared; the graph is written to the new `folder`."""
    folder.mkdir()
    with open_checkpoint(source) as checkpoint:
        plan = ONNX.plan.load()(checkpoint.index, OnnxParams())
        return dict(convert(MemorySession(checkpoint, plan), OnnxParams(), folder).observed)


def test_the_opset_is_one_that_the_runtime_takes_and_nothing_is_printed(
    sources: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    params = OnnxParams(runtime="1.16")
    with open_checkpoint(sources / "convolutions") as checkpoint:
        plan = ONNX.plan.load()(checkpoint.index, params)
        convert(MemorySession(checkpoint, plan), params, tmp_path)

    assert capfd.readouterr() == ("", "")
    assert "opset 19" in plan.converts
    assert [each.version for each in onnx.load(str(tmp_path / "model.onnx")).opset_import if not each.domain] == [19]


@pytest.fixture(scope="module")
def decoder(sources: Path, jobs: Path) -> tuple[Path, list[Any]]:
    """The folder of a job on the decoder, and what it said."""
    forecast = planned(sources / "decoder").to_json()
    return jobs / "decoder", onnx_job(sources / "decoder", jobs / "decoder", {}, plan=forecast)


# Before there is a graph


@pytest.mark.parametrize(
    ("name", "takes"),
    [("decoder", "a cache of keys"), ("encoder", "takes tokens and gives last"), ("images", "images")],
)
def test_the_plan_says_what_is_exported(sources: Path, name: str, takes: str) -> None:
    plan = planned(sources / name)

    assert "opset 20" in plan.converts
    assert takes in plan.converts
    assert plan.converts in plan.warnings[0]
    assert not plan.settled
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_forecast_names_what_will_be_quantized(sources: Path) -> None:
    plan = planned(sources / "decoder")

    schemes = {row.name.removeprefix("model.layers.0."): row.scheme for row in plan.tensors}
    assert schemes["model.embed_tokens.weight"] == "INT8-ROW"
    assert schemes["self_attn.q_proj.weight"] == "INT8-CHANNEL"
    assert schemes["input_layernorm.weight"] == "F32"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"architectures": ["T5ForConditionalGeneration"]}, ArchitectureUnsupported, "is not exported here"),
        ({"is_encoder_decoder": True}, ArchitectureUnsupported, "is not exported here"),
        ({"quantization_config": {"quant_method": "fp8"}}, SourceRejected, "checkpoints in float only"),
        ({"num_hidden_layers": 10**9}, ArchitectureUnsupported, "has 1000000000 layers, but only"),
    ],
)
def test_what_is_not_exported_is_refused_at_once(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    folder = SyntheticLlama(hidden=16, ffn=16, heads=2, kv_heads=1, blocks=1, vocab=258).write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())

    (folder / "config.json").write_text(json.dumps({**config, **change}))

    with open_checkpoint(folder) as source, pytest.raises(error, match=said):
        ONNX.plan.load()(source.index, OnnxParams())


def test_images_are_not_calibrated_on_a_text(sources: Path) -> None:
    with pytest.raises(ParamsRejected, match=r"give a folder of images"):
        planned(sources / "images", mode="static")
    assert planned(sources / "encoder", mode="static").calibration is not None


# The graph


def test_a_decoder_s_job_quantizes_the_graph_that_it_has_made_and_compared(decoder: tuple[Path, list[Any]]) -> None:
    folder, said = decoder
    (settled,), (finished,) = of_kind(PlanSettled, said), of_kind(Finished, said)

    check = finished.verification["checks"][0]
    assert check["name"] == "conversion"
    assert check["observed"]["largest difference"] < 1e-5
    assert "LlamaForCausalLM by torch.onnx.export" in check["detail"]
    assert finished.plan == settled.plan
    rows = {row["name"]: row["scheme"] for row in finished.plan["tensors"]}
    assert rows["model.layers.0.mlp.down_proj.weight"] == "INT8-CHANNEL"
    assert rows["lm_head.weight"] == "INT8-ROW"
    assert sorted(path.name for path in (folder / "1" / "artifact").iterdir()) == [
        "config.json",
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_decoder_goes_on_from_its_cache(decoder: tuple[Path, list[Any]]) -> None:
    session = open_session(decoder[0] / "1" / "artifact" / "model.onnx")
    ids = np.random.default_rng(1).integers(4, 320, (1, 7))
    empty = np.zeros((1, 1, 0, 16), np.float32)

    def run(ids: np.ndarray, length: int, keys: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
        mask = np.ones((1, length), np.int64)
        caches = {"past_key_values.0.key": keys, "past_key_values.0.value": values}
        found: list[np.ndarray] = session.run(None, {"input_ids": ids, "attention_mask": mask, **caches})
        return found

    whole, *_ = run(ids, 7, empty, empty)
    first, keys, values = run(ids[:, :4], 4, empty, empty)
    rest, *_ = run(ids[:, 4:], 7, keys, values)

    assert keys.shape == (1, 1, 4, 16)
    assert np.allclose(np.concatenate([first, rest], axis=1), whole, atol=0.05 * np.abs(whole).max())


def test_a_later_attempt_goes_on_with_the_same_graph(
    sources: Path, jobs: Path, decoder: tuple[Path, list[Any]]
) -> None:
    folder, said = decoder
    (settled,), units = of_kind(PlanSettled, said), of_kind(UnitFinished, said)
    digest = of_kind(SourceKnown, said)[0].digest

    again = onnx_job(
        sources / "decoder",
        folder,
        {},
        plan=settled.plan,
        source_digest=digest,
        finished=tuple(each.unit for each in units[:3]),
        attempt="2",
    )

    assert of_kind(PlanSettled, again) == []
    assert len(of_kind(UnitFinished, again)) == len(units) - 3
    made = [(folder / attempt / "artifact" / "model.onnx").read_bytes() for attempt in ("1", "2")]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["encoder", "images", "convolutions"])
def test_a_graph_computes_what_the_checkpoint_does(sources: Path, jobs: Path, name: str) -> None:
    made = jobs / name
    observed = converted(sources / name, made)

    assert observed["largest difference"] < 1e-5
    assert observed["least cosine"] > 0.999999
    onnx.checker.check_model(onnx.load(str(made / "model.onnx")), full_check=True)
    assert b"site-packages" not in (made / "model.onnx").read_bytes()
    with open_checkpoint(made) as checkpoint:
        assert checkpoint.index.graph is not None
    if name == "images":
        a_graph_that_computes_something_else_is_refused(made)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("convolutions", {"image_size": 100_000}, r"its images have the shape \(2, 3, 100000, 100000\)"),
        ("convolutions", {"image_size": "large"}, "its inputs: ValueError"),
    ],
)
def test_sizes_that_no_image_has_are_refused(
    sources: Path, tmp_path: Path, name: str, change: dict[str, Any], said: str
) -> None:
    folder = Path(shutil.copytree(sources / name, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))

    with pytest.raises(ArchitectureUnsupported, match=said):
        converted(folder, tmp_path / "made")


def a_graph_that_computes_something_else_is_refused(made: Path) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
    (logits,) = open_session(made / "model.onnx").run(None, {"pixel_values": images})

    assert compare(made, [{"pixel_values": images}], [{"logits": logits}])["largest difference"] == 0
    with pytest.raises(SourceRejected, match=r"another logits than the source: off by 0\.00"):
        compare(made, [{"pixel_values": images}], [{"logits": logits * 1.01}])
    with pytest.raises(SourceRejected, match="off by nan"):
        compare(made, [{"pixel_values": images}], [{"logits": logits * np.nan}])


class CanceledInTheTrace(MemorySession):
    """A session whose job is canceled as soon as torch traces the model, and stays so."""

    def pause(self) -> None:
        import torch

        if torch.compiler.is_exporting():
            self.steps.append((0, 0))
        if self.steps:
            raise Canceled("the job was canceled")


def test_a_cancellation_is_heard_while_the_graph_is_traced(sources: Path, tmp_path: Path) -> None:
    with open_checkpoint(sources / "images") as checkpoint:
        session = CanceledInTheTrace(checkpoint, ONNX.plan.load()(checkpoint.index, OnnxParams()))
        with pytest.raises(Canceled):
            convert(session, OnnxParams(), tmp_path)


def test_a_source_that_has_changed_is_not_exported(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "convert", lambda *given: pytest.fail("it was exported"))

    with pytest.raises(SourceRejected, match="the source has changed since this job began"):
        onnx_job(sources / "images", tmp_path, {}, source_digest=f"sha256:{'0' * 64}")


def test_filters_are_forecast_as_integers_with_static_ranges(sources: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", pixel_values=np.zeros((1, 3, 32, 32), np.float32))

    plan = planned(sources / "convolutions", mode="static", samples=str(tmp_path / "images.npz"))

    large = [row for row in plan.tensors if len(row.shape) == 4 and row.values > 256]
    assert large
    assert {row.scheme for row in large} == {"INT8-FILTER"}
