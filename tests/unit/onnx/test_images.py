"""Folders of images as samples: which are taken, and what becomes of them."""

from __future__ import annotations

import importlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from tests.onnx_jobs import of_kind, onnx_job
from tests.onnx_models import save
from tests.random_models import RandomModel

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill.contract.testing import Run
from quantmill.worker.messages import Finished, PlanSettled
from quantmill_onnx import images, preprocessing
from quantmill_onnx.images import given_samples, prepare, read_images
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX
from quantmill_onnx.preprocessing import parse

GENERATOR = np.random.default_rng(3)
VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
MODULES = {"Bit": "bit", "CLIP": "clip", "ConvNext": "convnext", "DeiT": "deit", "ViT": "vit"}


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    values = GENERATOR.integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def write_model(folder: Path, config: dict[str, Any] | None, batch: int | str = "batch") -> Path:
    """A classifier of images (3, 16, 16) beside its preprocessor_config.json."""
    weight = GENERATOR.standard_normal((768, 10)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("MatMul", ["flat", "head"], ["logits"], name="head/MatMul"),
        ],
        "images",
        [helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(weight, "head")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, folder)
    if config is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of several kinds."""
    folder = tmp_path_factory.mktemp("samples") / "photos"
    folder.mkdir()
    picture(40, 30).save(folder / "b.png")
    picture(20, 50).save(folder / "a.jpg", quality=90)
    picture(30, 30, "L").save(folder / "c.PNG")
    picture(33, 21, "P").save(folder / "d.png")
    picture(24, 40, "CMYK").save(folder / "e.jpeg", progressive=True)
    picture(8, 8, "RGBA").save(folder / "f.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model", VIT)


def index_of(folder: Path) -> tuple[ModelIndex, OnnxGraph]:
    with open_checkpoint(folder) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        return checkpoint.index, graph


def processor(config: dict[str, Any]) -> Any:
    """transformers' own, on Pillow."""
    kind = config["image_processor_type"].removesuffix("Fast")
    module = MODULES[kind.removesuffix("ImageProcessor")]
    found = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(found, f"{kind}Pil")(
        **{key: value for key, value in config.items() if key != "image_processor_type"}
    )


CONFIGS: dict[str, dict[str, Any]] = {
    "ViT": {"image_processor_type": "ViTImageProcessor"},
    "ViT, of 2021": {
        "image_processor_type": "ViTImageProcessorFast",
        "size": 20,
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "ViT, neither resized nor rescaled": {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": False,
        "do_rescale": False,
        "do_center_crop": True,
        "crop_size": {"height": 45, "width": 20},
    },
    "DeiT": {"image_processor_type": "DeiTImageProcessor"},
    "BiT, cropped wider than it is": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 17},
        "crop_size": {"height": 20, "width": 24},
    },
    "CLIP": {"image_processor_type": "CLIPImageProcessor", "do_normalize": False},
    "ConvNeXT, cropped": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 25}},
    "ConvNeXT, warped": {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.9, "resample": 2},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("file", ["a.jpg", "b.png"])
def test_an_image_becomes_what_transformers_makes_of_it(photos: Path, name: str, file: str) -> None:
    config = CONFIGS[name]
    with Image.open(photos / file) as image:
        (expected,) = processor(config)(image.convert("RGB"), return_tensors="np")["pixel_values"]

    found = prepare(photos / file, parse(json.dumps(config).encode()))

    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("file", ["c.PNG", "d.png", "e.jpeg", "f.png"])
def test_images_of_other_colours_become_rgb_as_transformers_has_it(photos: Path, file: str) -> None:
    with Image.open(photos / file) as image:
        whole = processor({**VIT, "do_convert_rgb": True})(image, return_tensors="np")["pixel_values"]

    assert np.array_equal(prepare(photos / file, parse(json.dumps(VIT).encode())), whole[0])


def test_images_come_in_the_order_of_their_names_one_by_one(photos: Path, model: Path) -> None:
    samples = given_samples(photos, *index_of(model))

    feeds = list(samples.feeds())

    assert [feed["pixel_values"].shape for feed in feeds] == [(1, 3, 16, 16)] * 6
    assert np.array_equal(feeds[1]["pixel_values"][0], prepare(photos / "b.png", parse(json.dumps(VIT).encode())))


def test_a_graph_of_a_fixed_batch_takes_as_many_images(photos: Path, tmp_path: Path) -> None:
    samples = given_samples(photos, *index_of(write_model(tmp_path / "model", VIT, batch=2)))

    assert [feed["pixel_values"].shape for feed in samples.feeds()] == [(2, 3, 16, 16)] * 3


def test_the_digest_is_that_of_names_and_contents(photos: Path, model: Path, tmp_path: Path) -> None:
    def digest(**renamed: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for path in photos.iterdir():
            (folder / renamed.get(path.stem, path.name)).write_bytes(path.read_bytes())
        return read_images(folder, *index_of(model)).digest

    assert digest() == digest() == read_images(photos, *index_of(model)).digest
    assert digest(a="g.jpg") != digest()


# What is refused


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG file that says that it has this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


FILES: dict[str, tuple[bytes, str]] = {
    "notes.txt": (b"hello", "'notes.txt' is no PNG or JPEG file"),
    "empty.png": (b"", "'empty.png' does not begin"),
    "text.jpg": (b"hello", "'text.jpg' does not begin"),
    "bomb.png": (png_of(60_000, 60_000), "'bomb.png' has 3600000000 pixels"),
    "nothing.png": (png_of(0, 5), "'nothing.png' does not begin"),
    "filled.jpg": (b"\xff" * 100_000, "'filled.jpg' does not begin"),
    "filled up.jpg": (b"\xff\xd8" + b"\xff" * 100_000, "'filled up.jpg' does not begin"),
    "ends.jpg": (b"\xff\xd8\xff\xd9" + b"\0" * 40, "'ends.jpg' does not begin"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_image_is_refused_by_name(photos: Path, model: Path, tmp_path: Path, name: str) -> None:
    data, said = FILES[name]
    (tmp_path / "a.jpg").write_bytes((photos / "a.jpg").read_bytes())
    (tmp_path / name).write_bytes(data)

    with pytest.raises(ParamsRejected, match=said) as caught:
        read_images(tmp_path, *index_of(model))
    assert caught.value.fields["errors"][0]["pointer"] == "/params/samples"


def test_folders_and_links_are_refused(photos: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jpg").symlink_to(photos / "a.jpg")
    (tmp_path / "folders" / "cats.png").mkdir(parents=True)

    for folder, name in (("links", "a.jpg"), ("folders", "cats.png")):
        with pytest.raises(ParamsRejected, match=f"'{name}' is no PNG or JPEG file"):
            read_images(tmp_path / folder, *index_of(model))


def test_counts_and_sizes_are_bounded(photos: Path, model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParamsRejected, match="no images in 'empty'"):
        read_images(tmp_path / "empty", *index_of(model))
    monkeypatch.setattr(images, "COUNT_LIMIT", 5)
    with pytest.raises(ParamsRejected, match="more than 5 images"):
        read_images(photos, *index_of(model))
    monkeypatch.setattr(images, "COUNT_LIMIT", 6)
    monkeypatch.setattr(images, "FILE_LIMIT", 100)
    with pytest.raises(ParamsRejected, match=r"'a\.jpg' has more than 100 bytes"):
        read_images(photos, *index_of(model))
    monkeypatch.setattr(images, "FOLDER_LIMIT", 1000)
    with pytest.raises(ParamsRejected, match=r"'photos' have more than 1000 bytes; give fewer"):
        read_images(photos, *index_of(model))


def test_a_preprocessor_of_any_size_is_not_read(photos: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", {**VIT, "note": "x" * images.CONFIG_LIMIT})

    with pytest.raises(ParamsRejected, match=r"the model's preprocessor_config.json has more than"):
        given_samples(photos, *index_of(folder))


def test_an_image_that_has_gone_ends_the_job_by_name(photos: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes((photos / "a.jpg").read_bytes())
    samples = read_images(tmp_path, *index_of(model))
    (tmp_path / "a.jpg").unlink()

    with pytest.raises(SourceRejected, match=r"the image 'a\.jpg' can't be decoded: "):
        list(samples.feeds())


def test_a_thin_image_that_resizing_makes_huge_is_refused(tmp_path: Path) -> None:
    config = {"image_processor_type": "BitImageProcessor", "size": 224, "crop_size": 16}
    (tmp_path / "photos").mkdir()
    picture(1, 60_000).save(tmp_path / "photos" / "thin.png")

    with pytest.raises(ParamsRejected, match=r"'thin\.png' becomes 3010560000 pixels"):
        read_images(tmp_path / "photos", *index_of(write_model(tmp_path / "model", config)))


@pytest.mark.parametrize(
    ("config", "batch", "said"),
    [
        (None, "batch", "needs the model's preprocessor_config.json"),
        ({**VIT, "size": 20}, "batch", r"makes images of \(3, 20, 20\), the input 'pixel_values' takes"),
        ({**VIT, "size": {"shortest_edge": 20}}, "batch", "images keep sizes of their own"),
        (VIT, 4, "takes 4 images at once, and there are 6"),
    ],
)
def test_images_that_do_not_fit_the_graph_are_refused(
    photos: Path, tmp_path: Path, config: dict[str, Any] | None, batch: int | str, said: str
) -> None:
    with pytest.raises(ParamsRejected, match=said):
        given_samples(photos, *index_of(write_model(tmp_path / "model", config, batch)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_processor_type": "SamImageProcessor"}, "'SamImageProcessor' is not known here: ViTImageProcessor, "),
        ({"image_processor_type": 5}, "'5' is not known here"),
        ({"size": {"height": 10**9, "width": 5}}, "size is 1000000000"),
        ({"size": {"longest_edge": 5}}, "size is {'longest_edge': 5}"),
        ({"size": True}, "size is True"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"resample": 9}, "resample is 9"),
        ({"rescale_factor": -1}, "rescale_factor is -1"),
        ({"image_std": [1, 0, 1]}, r"image_std is \[1, 0, 1\]"),
        ({"image_mean": [1, 2]}, r"image_mean is \[1, 2\]"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": VIT["size"]},
            "ConvNextImageProcessor takes a shortest_edge",
        ),
        ({"rescale_factor": 10**400}, "rescale_factor is 1"),
        ({"image_std": 1e-50}, "image_std is 1e-50"),
        ({"do_pad": True}, "the step 'do_pad' is not known here: do_resize, "),
    ],
)
def test_what_is_not_known_of_a_preprocessor_is_said(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceRejected, match=f"preprocessor_config.json: {said}"):
        parse(json.dumps({**VIT, **change}).encode())


def test_a_preprocessor_that_is_no_json_is_refused() -> None:
    with pytest.raises(SourceRejected, match=r"preprocessor_config\.json: it is not a JSON object"):
        parse(b"[]")


@pytest.mark.parametrize("mode", ["I;16", "cut off", "another format"])
def test_an_image_that_cannot_be_decoded_ends_the_job_by_name(
    photos: Path, model: Path, tmp_path: Path, mode: str
) -> None:
    writers: dict[str, Callable[[Path], object]] = {
        "I;16": lambda path: Image.fromarray(np.zeros((9, 9), np.uint16)).save(path),
        "cut off": lambda path: path.write_bytes((photos / "b.png").read_bytes()[:-200]),
        "another format": lambda path: path.write_bytes((photos / "b.png").read_bytes()[:33] + b"nothing else" * 9),
    }
    writers[mode](tmp_path / "b.png")
    samples = read_images(tmp_path, *index_of(model))

    with pytest.raises(SourceRejected, match=r"the image 'b.png' can't be decoded"):
        list(samples.feeds())


def test_a_size_that_the_decoder_sees_is_bounded_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_PIXELS", 100)

    with pytest.raises(SourceRejected, match=r"'b\.png' can't be decoded: 30 x 40 of mode RGB"):
        prepare(photos / "b.png", preprocessing.parse(json.dumps(VIT).encode()))


# Jobs


def test_ranges_follow_from_the_images(photos: Path, model: Path) -> None:
    with open_checkpoint(model) as checkpoint:
        run = Run(ONNX, OnnxParams(mode="static", smoothing=False, samples=str(photos)), checkpoint)
        list(run.quantize())
        (note,) = run.notes
        values = [feed["pixel_values"] for feed in given_samples(photos, *index_of(model)).feeds()]

    assert len(run.plan.inputs["samples"]) == 64
    assert note.figures["low"] == pytest.approx(min(each.min() for each in values), abs=1e-3)


def test_images_that_have_changed_end_the_job(photos: Path, model: Path, tmp_path: Path) -> None:
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_checkpoint(model) as checkpoint:
        run = Run(ONNX, OnnxParams(mode="static", samples=str(tmp_path)), checkpoint)
        assert run.plan.inputs
        picture(16, 16).save(tmp_path / "b.png")
        with pytest.raises(SourceRejected, match="have changed"):
            list(run.quantize())


@pytest.fixture(scope="module")
def checkpoint_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "vit"
    settings = {"num_channels": 3, "image_size": 16, "patch_size": 8, "num_labels": 5, "num_hidden_layers": 1}
    RandomModel("ViTForImageClassification", "ViTConfig", settings).write(folder, hidden=32)
    (folder / "preprocessor_config.json").write_text(json.dumps(VIT))
    return folder


def forecast(source: Path, **params: Any) -> Plan:
    with open_checkpoint(source) as checkpoint:
        return ONNX.plan.load()(checkpoint.index, OnnxParams(**params))


def test_a_checkpoint_s_images_are_judged_before_there_is_a_graph(
    checkpoint_of_images: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("hello")

    assert forecast(checkpoint_of_images, mode="static", samples=str(photos)).calibration is None
    with pytest.raises(ParamsRejected, match=r"'notes.txt' is no PNG"):
        forecast(checkpoint_of_images, mode="static", samples=str(tmp_path))


def test_a_checkpoint_of_images_is_calibrated_on_a_folder(
    checkpoint_of_images: Path, photos: Path, tmp_path: Path
) -> None:
    params = {"mode": "static", "samples": str(photos)}
    plan = forecast(checkpoint_of_images, **params).to_json()

    said = onnx_job(checkpoint_of_images, tmp_path, params, plan=plan)

    assert len(of_kind(Finished, said)) == 1
    (settled,) = of_kind(PlanSettled, said)
    assert set(settled.plan["inputs"]) == {"conversion", "samples"}
