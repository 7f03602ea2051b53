"""A folder of images as samples: PNG and JPEG files in the order of their names, prepared for the model.

What is submitted is judged by the files' own headers, read here: a process that plans needs no decoder. The worker that
runs the job decodes them by Pillow, one at a time.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantmill.contract.errors import QuantmillError, SourceRejected
from quantmill.contract.graph_text import FLOAT, Feed, own_inputs
from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import ModelIndex
from quantmill_onnx.preprocessing import FILE, MOST_PIXELS, Preprocessing, Size, parse
from quantmill_onnx.samples import FEED_LIMIT, Samples, read_samples, reject, require_same

if TYPE_CHECKING:
    import PIL.Image

ENDINGS: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # by Pillow's names of the formats
COUNT_LIMIT = 10_000  # images
FILE_LIMIT = 64 << 20  # bytes of one
FOLDER_LIMIT = 4 << 30  # bytes of all: they are read whole when a job is submitted
CONFIG_LIMIT = 1 << 20  # bytes of preprocessor_config.json
CHANNELS = 3
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of Pillow, with 8 bits to a channel
PNG_HEAD, PNG_SIZE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", 16
JPEG_HEAD = b"\xff\xd8\xff"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers that say a size
ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # those that nothing belongs to
END, SCAN = 0xD9, 0xDA
SEGMENTS = 4096  # of a JPEG file before its size, bytes that fill up among them


@dataclass(frozen=True)
class Images:
    """The images of a folder for the one input `name` of a graph, `step` in a batch."""

    paths: Sequence[Path]
    preprocessing: Preprocessing
    name: str
    step: int
    digest: str

    @property
    def count(self) -> int:
        return len(self.paths) // self.step

    def feeds(self) -> Iterator[Feed]:
        """In the order of the names, a batch in memory at a time. Raises SourceRejected, naming what is broken."""
        prepared = (prepare(path, self.preprocessing) for path in self.paths)
        while batch := list(islice(prepared, self.step)):
            yield {self.name: np.stack(batch)}

    def largest(self) -> Feed:
        """One of them: all have the same size."""
        return next(self.feeds())

    def require_unchanged(self, digest: str) -> None:
        require_same(self.digest, digest)


def given_samples(path: Path, index: ModelIndex, graph: OnnxGraph) -> Samples | Images:
    """An .npz file's, or those of a folder of images.

    Raises ParamsRejected for what does not fit the graph, SourceRejected for a preprocessor_config.json that is not
    known here.
    """
    return read_images(path, index, graph) if path.is_dir() else read_samples(path, graph)


def read_images(folder: Path, index: ModelIndex, graph: OnnxGraph) -> Images:
    """The folder's images, each known by its header. Raises as `given_samples`."""
    preprocessing = preprocessing_of(index)
    name, step = _input(graph, preprocessing)
    paths, digest = checked(folder, preprocessing)
    if len(paths) % step:
        reject(f"the graph takes {step} images at once, and there are {len(paths)}")
    return Images(paths, preprocessing, name, step, digest)


def preprocessing_of(index: ModelIndex) -> Preprocessing:
    """Of the model. Raises ParamsRejected where nothing says how images are prepared for it."""
    if FILE not in index.files:
        reject(f"a folder of images needs the model's {FILE}; put it beside the model, or give an .npz file")
    if index.files[FILE].stat().st_size > CONFIG_LIMIT:
        reject(f"the model's {FILE} has more than {CONFIG_LIMIT} bytes")
    found = parse(index.files[FILE].read_bytes())
    if found.size is None:
        reject(f"by {FILE} images keep sizes of their own; give an .npz file")
    return found


def checked(folder: Path, preprocessing: Preprocessing) -> tuple[Sequence[Path], str]:
    """The images in the order of their names, and the digest of names and contents. Raises ParamsRejected."""
    try:
        paths = sorted(islice(folder.iterdir(), COUNT_LIMIT + 1), key=lambda path: path.name)
        return paths, _digest(folder, paths, preprocessing)
    except OSError as error:
        reject(f"{shown(folder.name)} can't be read: {error.strerror}")


def _digest(folder: Path, paths: Sequence[Path], preprocessing: Preprocessing) -> str:
    if not paths:
        reject(f"there are no images in {shown(folder.name)}")
    if len(paths) > COUNT_LIMIT:
        reject(f"there are more than {COUNT_LIMIT} images")
    if sum(path.lstat().st_size for path in paths) > FOLDER_LIMIT:
        reject(f"the images in {shown(folder.name)} have more than {FOLDER_LIMIT} bytes; give fewer, or smaller ones")
    digest = hashlib.sha256()
    for path in paths:
        data = _bytes(path)
        height, width = _size_of(path, data)
        for what, pixels in (("has", height * width), ("becomes", prod(preprocessing.resized(height, width)))):
            if pixels > MOST_PIXELS:
                reject(f"{shown(path.name)} {what} {pixels} pixels, more than {MOST_PIXELS}")
        digest.update(hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).digest())
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _bytes(path: Path) -> bytes:
    if path.suffix.lower() not in ENDINGS or path.is_symlink() or not path.is_file():
        reject(f"{shown(path.name)} is no PNG or JPEG file ({', '.join(ENDINGS)}); the folder may hold nothing else")
    if path.stat().st_size > FILE_LIMIT:
        reject(f"{shown(path.name)} has more than {FILE_LIMIT} bytes")
    return path.read_bytes()


def _size_of(path: Path, data: bytes) -> Size:
    """By the file's own header (PNG specification, 11.2.1; ITU-T T.81, B.2.2)."""
    size = _png_size(data) if ENDINGS[path.suffix.lower()] == "PNG" else _jpeg_size(data)
    if size is None or not all(size):
        reject(f"{shown(path.name)} does not begin as such a file does")
    return size


def _png_size(data: bytes) -> Size | None:
    if not data.startswith(PNG_HEAD) or len(data) < PNG_SIZE + 8:
        return None
    width, height = struct.unpack_from(">II", data, PNG_SIZE)
    return height, width


def _jpeg_size(data: bytes) -> Size | None:
    """From segment to segment up to the first that says a size."""
    at = 2 if data.startswith(JPEG_HEAD) else len(data)
    for _ in range(SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        if marker in (END, SCAN):
            return None
        if marker == 0xFF or marker in ALONE:  # a byte that fills up, a segment without contents
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _input(graph: OnnxGraph, preprocessing: Preprocessing) -> tuple[str, int]:
    """The graph's only input, and how many images it takes at once."""
    inputs = own_inputs(graph)
    if len(inputs) != 1 or inputs[0].dtype != FLOAT or len(inputs[0].shape or ()) != 4:
        reject(f"the graph does not take images alone, float32 in four dimensions; it takes {shown(_described(graph))}")
    (info,) = inputs
    batch, *wanted = info.shape or ()
    size = (CHANNELS, *(preprocessing.size or ()))
    if any(isinstance(want, int) and 0 < want != have for want, have in zip(wanted, size, strict=True)):
        reject(f"{FILE} makes images of {shown(size)}, the input {shown(info.name)} takes {shown(info.shape)}")
    step = batch if isinstance(batch, int) and batch > 0 else 1
    if 4 * step * prod(size) > FEED_LIMIT:
        reject(f"a batch of images takes more than {FEED_LIMIT} bytes")
    return info.name, step


def _described(graph: OnnxGraph) -> Mapping[str, object]:
    return {each.name: each.shape for each in own_inputs(graph)[:8]}


# Decoding


def prepare(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """float32 (3, height, width). Raises SourceRejected, naming the file that cannot be decoded, QuantmillError where
    this worker has no decoder."""
    try:
        from PIL import Image
    except ImportError as error:
        raise QuantmillError(
            "this worker has no Pillow to decode images with: install quantmill[onnx] there"
        ) from error
    try:
        with (
            warnings.catch_warnings(),
            Image.open(io.BytesIO(path.read_bytes()), formats=[ENDINGS[path.suffix.lower()]]) as image,
        ):
            warnings.simplefilter("ignore")
            if image.mode not in MODES or image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} of mode {image.mode}")
            return preprocessing.apply(_as_rgb(image))
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise SourceRejected(f"the image {shown(path.name)} can't be decoded: {error}", file=path.name) from error


def _as_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """What is transparent is on white, as transformers' convert_to_rgb has it."""
    from PIL import Image

    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    behind = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
