"""What a model's preprocessor_config.json makes of an image: resized, cropped, rescaled, normalised.

As transformers' image processors on Pillow compute it (transformers 5.23, image_processing_backends.py, PilBackend),
bit for bit: ViT, DeiT, BiT (ResNet), CLIP and ConvNeXT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from quantmill.contract.errors import SourceRejected
from quantmill.contract.strictjson import parse_object, shown
from quantmill.contract.tensors import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "preprocessor_config.json"
MOST = 1e6  # of a number in the file
LEAST_STD = 1e-6
MOST_SIDE = 1 << 13  # of what an image is resized to
MOST_PIXELS = 1 << 25  # of an image, and of what it is resized to
CONVNEXT = "ConvNextImageProcessor"
WARPED = 384  # from here on ConvNeXT's images are not cropped

STANDARD = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
ALL: Mapping[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
}
CROPPED = {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224, "resample": 3, **CLIP}
# What a processor takes where its file says nothing; `resample` by Pillow's numbers
PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "ViTImageProcessor": {**ALL, "size": 224, "resample": 2, **STANDARD},
    "DeiTImageProcessor": {**ALL, "size": 256, "do_center_crop": True, "crop_size": 224, "resample": 3, **STANDARD},
    "BitImageProcessor": {**ALL, **CROPPED},
    "CLIPImageProcessor": {**ALL, **CROPPED},
    CONVNEXT: {**ALL, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "resample": 3, **STANDARD},
}
BY_EDGE = ("BitImageProcessor", "CLIPImageProcessor", CONVNEXT)  # a size that is a number is the shortest edge's
RESAMPLING = range(6)
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")

Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Preprocessing:
    """The steps in their order; None for those that are left out.

    resize  the size, or the length of the shortest edge
    crop    the size of the middle that stays; what is smaller gets a black border
    scale   that the values 0 to 255 are multiplied by
    mean, std  of each channel
    """

    resize: Size | int | None
    resample: int
    crop: Size | None
    scale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def size(self) -> Size | None:
        """What every image comes to, whatever it was; None where that depends on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def resized(self, height: int, width: int) -> Size:
        """The size of an image before it is cropped."""
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        short, long = sorted((height, width))
        other = int(self.resize * long / short)
        return (other, self.resize) if width <= height else (self.resize, other)

    def apply(self, image: Image) -> FloatArray:
        """float32 (3, height, width) of an image in RGB."""
        if self.resize is not None:
            height, width = self.resized(image.height, image.width)
            image = image.resize((width, height), resample=self.resample)
        values = np.moveaxis(np.asarray(image), -1, 0)  # uint8 (3, height, width)
        if self.crop is not None:
            values = _cropped(values, self.crop)
        found = values.astype(np.float32)
        if self.scale is not None:
            found = (values.astype(np.float64) * self.scale).astype(np.float32)
        if self.mean is not None and self.std is not None:
            mean, std = (np.array(each, np.float32)[:, None, None] for each in (self.mean, self.std))
            found = (found - mean) / std
        return np.ascontiguousarray(found)


def _cropped(values: np.ndarray, size: Size) -> np.ndarray:
    """The middle of (3, height, width)."""
    missing = [max(0, want - have) for want, have in zip(size, values.shape[1:], strict=True)]
    before = [-(-each // 2) for each in missing]
    borders = [(0, 0), *((first, each - first) for first, each in zip(before, missing, strict=True))]
    starts = [(have - want) // 2 + first for have, want, first in zip(values.shape[1:], size, before, strict=True)]
    top, left = starts
    return np.pad(values, borders)[:, top : top + size[0], left : left + size[1]]


def parse(data: bytes) -> Preprocessing:
    """Raises SourceRejected, naming what is wrong in the file or not known here."""
    try:
        config = parse_object(data)
    except ValueError as error:
        _reject(str(error))
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
    kind = kind.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if kind not in PROCESSORS:
        _reject(f"{shown(kind)} is not known here: {', '.join(PROCESSORS)} are")
    for key in sorted(config.keys() - set(STEPS)):
        if key.startswith("do_") and config[key]:
            _reject(f"the step {shown(key)} is not known here: {', '.join(STEPS)} are")
    given = {**PROCESSORS[kind], **{key: value for key, value in config.items() if value is not None}}
    resize = _edge_or_size(given["size"], kind in BY_EDGE) if _flag(given, "do_resize") else None
    crop = _size(given["crop_size"], "crop_size") if _flag(given, "do_center_crop") else None
    if kind == CONVNEXT and resize is not None:
        if crop is not None or isinstance(resize, tuple):
            _reject("ConvNextImageProcessor takes a shortest_edge, and crops by crop_pct")
        resize, crop = _as_convnext(resize, _number(given["crop_pct"], "crop_pct"))
    if given["resample"] not in RESAMPLING:
        _reject(f"resample is {shown(given['resample'])}")
    normalised = _flag(given, "do_normalize")
    return Preprocessing(
        resize,
        int(given["resample"]),
        crop,
        _number(given["rescale_factor"], "rescale_factor") if _flag(given, "do_rescale") else None,
        _channels(given["image_mean"], "image_mean") if normalised else None,
        _channels(given["image_std"], "image_std") if normalised else None,
    )


def _as_convnext(edge: int, share: float) -> tuple[Size | int, Size | None]:
    if edge >= WARPED:
        return (edge, edge), None
    return _side(int(edge / share), "size / crop_pct"), (edge, edge)


def _edge_or_size(value: Any, by_edge: bool) -> Size | int:
    if isinstance(value, dict) and value.keys() == {"shortest_edge"}:
        return _side(value["shortest_edge"], "size")
    if isinstance(value, int) and by_edge:
        return _side(value, "size")
    return _size(value, "size")


def _size(value: Any, key: str) -> Size:
    if isinstance(value, dict) and value.keys() == {"height", "width"}:
        return _side(value["height"], key), _side(value["width"], key)
    side = _side(value, key)
    return side, side


def _side(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_SIDE:
        _reject(f"{key} is {shown(value)}; a height and a width up to {MOST_SIDE}, or a shortest_edge, are known here")
    return int(value)


def _number(value: Any, key: str) -> float:
    if not _is_number(value) or value <= 0:
        _reject(f"{key} is {shown(value)}")
    return float(value)


def _channels(value: Any, key: str) -> tuple[float, ...]:
    found = value if isinstance(value, list) else [value] * 3
    least = LEAST_STD if key == "image_std" else 0
    if len(found) != 3 or not all(_is_number(each) and abs(each) >= least for each in found):
        _reject(f"{key} is {shown(value)}; three numbers are known here")
    return tuple(float(each) for each in found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST <= value <= MOST


def _flag(given: Mapping[str, Any], key: str) -> bool:
    if not isinstance(given[key], bool):
        _reject(f"{key} is {shown(given[key])}")
    return bool(given[key])


def _reject(what: str) -> NoReturn:
    raise SourceRejected(f"{FILE}: {what}; give samples as an .npz file", file=FILE)
