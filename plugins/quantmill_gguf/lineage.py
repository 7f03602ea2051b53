"""What a file that was made from another GGUF file must say, beside what it says: verification's own comparison.

It shares nothing with the writer. Every key is the source's, by its bytes, but for those that speak of types, of an
importance matrix, of parts and of where the file comes from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from quantmill.contract.gguf import GgufSource, Scalar
from quantmill.contract.reading import Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_gguf.params import GgufParams
from quantmill_gguf.reader import GgufModel

OF_FILES = ("quantize.imatrix.file", "quantize.imatrix.dataset")
OF_COUNTS = ("quantize.imatrix.entries_count", "quantize.imatrix.chunks_count")


def requantized(
    file: GgufModel, source: GgufSource, plan: Plan, index: ModelIndex, params: GgufParams, file_type: int
) -> Iterator[Observation]:
    """Every key of the (first) file, and the order of its tensors."""
    stated: dict[str, Scalar] = {"general.file_type": file_type, "general.quantization_version": 2}
    stated["quantmill.source.format"] = "gguf"
    stated |= _of_model(source, params) | _of_imatrix(source, plan, params) | _of_parts(file)
    digest = index.digest or file.metadata.get("quantmill.source.digest")
    stated |= {"quantmill.source.digest": digest} if digest else {}
    for key, value in stated.items():
        yield Observation("metadata", key, file.metadata.get(key), value)
    gone = OF_COUNTS if params.imatrix != "none" else ()
    copied = [key for key in source.keys if key not in stated and key not in gone]
    if params.imatrix != "none":
        copied = [key for key in copied if key not in OF_FILES]
    known = file.metadata.keys() | file.array_keys
    for key in copied:
        found = _short(file.raw(key)) if key in known else None
        yield Observation("metadata", key, found, _short(source.keys[key]))
    for key in sorted(known - {*copied, *stated}):
        yield Observation("metadata", key, str(file.metadata.get(key, "an array")), None)
    yield from _order(file, source)


def _of_model(source: GgufSource, params: GgufParams) -> dict[str, Scalar]:
    said: dict[str, Scalar] = {f"general.{key}": value for key, value in params.general.items()}
    if any(key.startswith("base_model.0") for key in params.general):
        said["general.base_model.count"] = source.metadata.get("general.base_model.count", 1)
    return said


def _of_imatrix(source: GgufSource, plan: Plan, params: GgufParams) -> dict[str, Scalar]:
    if params.imatrix != "none":
        return {"quantize.imatrix.file": plan.inputs["imatrix"]}
    names = {key: source.metadata[key] for key in OF_FILES if isinstance(source.metadata.get(key), str)}
    return {key: re.split(r"[/\\]", str(name).rstrip("/\\"))[-1] for key, name in names.items()}


def _of_parts(file: GgufModel) -> dict[str, Scalar]:
    count = len(file.files)
    return {"split.no": 0, "split.count": count, "split.tensors.count": len(file.tensors)} if count > 1 else {}


def _order(file: GgufModel, source: GgufSource) -> Iterator[Observation]:
    found, wanted = list(file.tensors), [name for name in source.types if name not in source.sides]
    yield Observation("layout", "number of tensors", len(found), len(wanted))
    for number, (have, want) in enumerate(zip(found, wanted, strict=False)):
        if have != want:
            yield Observation("layout", f"tensor {number}", have, want)
            return


def _short(raw: bytes) -> str:
    return raw.hex() if len(raw) <= 32 else hashlib.sha256(raw).hexdigest()
