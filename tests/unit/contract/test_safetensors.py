from __future__ import annotations

import json
import os
import struct
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from quantmill.contract.errors import NotFound, SourceRejected
from quantmill.contract.safetensors import DTYPES, HEADER_LIMIT, TensorFile
from quantmill.contract.tensors import TensorInfo

U8 = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


def packed(header: str | bytes | dict[str, Any], data: bytes = b"\x01\x02\x03\x04", length: int | None = None) -> bytes:
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_it_reads_what_the_reference_writes(file: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "f16": rng.standard_normal((2, 2, 2)).astype(np.float16),
        "i64": rng.integers(-9, 9, 7),
        "bool": np.array([True, False, True]),
        "scalar": np.array(1.5, np.float64),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(tensors, file, metadata={"format": "np"})

    with TensorFile(file) as opened:
        assert list(opened.tensors) == sorted(tensors)
        assert opened.metadata == {"format": "np"}
        assert opened.tensors["f32"] == TensorInfo("f32", "F32", (3, 5), 60)
        for name, expected in tensors.items():
            np.testing.assert_array_equal(opened.values(name), expected, strict=True)


def test_bfloat16_and_float8_keep_their_own_dtypes(file: Path) -> None:
    header = {
        "bf16": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "fp8": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [4, 6]},
    }
    file.write_bytes(packed(header, bytes.fromhex("803f 20c0 38 b8")))

    with TensorFile(file) as opened:
        bf16, fp8 = opened.values("bf16"), opened.values("fp8")

    assert (bf16.dtype, bf16.tolist()) == (ml_dtypes.bfloat16, [1.0, -2.5])
    assert (fp8.dtype, fp8.tolist()) == (ml_dtypes.float8_e4m3fn, [1.0, -1.0])


def test_values_cannot_be_written_to(file: Path) -> None:
    file.write_bytes(packed({"a": U8}))

    values = TensorFile(file).values("a")

    with pytest.raises(ValueError, match="read-only"):
        values[0] = 9


def test_values_stay_valid_after_the_file_is_closed(file: Path) -> None:
    file.write_bytes(packed({"a": U8}))
    with TensorFile(file) as opened:
        values = opened.values("a")

    assert values.tolist() == [1, 2, 3, 4]


def test_a_tensor_at_an_odd_position_is_aligned(file: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    for padding in range(4):
        file.write_bytes(packed(header + " " * padding, struct.pack("<f", 1.5)))

        values = TensorFile(file).values("a")

        assert values.flags.aligned
        assert not values.flags.writeable
        assert values.tolist() == [1.5]


def test_a_file_that_changes_after_it_was_opened_is_refused(file: Path) -> None:
    file.write_bytes(packed({"a": U8}))
    opened = TensorFile(file)
    os.utime(file, ns=(0, 0))

    with pytest.raises(SourceRejected, match="changed while it was being read"):
        opened.values("a")


def test_an_unknown_tensor_is_not_found(file: Path) -> None:
    file.write_bytes(packed({"a": U8}))

    with pytest.raises(NotFound, match="'b'"):
        TensorFile(file).values("b")


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "too few for a header"),
    "shorter than a length": (b"\x02\0\0", "too few for a header"),
    "header past the end": (packed({"a": U8}, length=5000), "may be truncated"),
    "huge header": (packed({"a": U8}, length=HEADER_LIMIT + 1), "the limit is 10000000"),
    "largest length": (packed({"a": U8}, length=2**64 - 1), "the limit is 10000000"),
    "no header": (packed("", b""), "does not begin with '{'"),
    "leading space": (packed(" {}", b""), "does not begin with '{'"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "not valid UTF-8"),
    "not JSON": (packed('{"a": }'), "not valid JSON"),
    "bytes after the JSON": (packed("{}\0", b""), "not valid JSON"),
    "deep nesting": (packed('{"a":' + "[" * 100_000), "nested too deeply"),
    "half surrogate": (packed('{"\\ud800": {}}'), "not valid UTF-8"),
    "NaN": (packed('{"a": NaN}'), "NaN is not JSON"),
    "duplicate tensor": (packed(f'{{"a": {json.dumps(U8)}, "a": {json.dumps(U8)}}}'), "'a' is there twice"),
    "duplicate key": (packed('{"a": {"dtype": "U8", "dtype": "U8"}}'), "'dtype' is there twice"),
    "duplicate metadata": (packed('{"__metadata__": {"k": "1", "k": "2"}}', b""), "'k' is there twice"),
    "metadata number": (packed({"__metadata__": {"format": 1}}, b""), "not an object of strings"),
    "metadata list": (packed({"__metadata__": ["format"]}, b""), "not an object of strings"),
    "bytes of no tensor": (packed({}), "4 bytes at its end belong to no tensor"),
    "digits without end": (packed('{"a": ' + "9" * 5000 + "}"), "is not a size"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_safetensors_is_refused(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)

    with pytest.raises(SourceRejected) as refused:
        TensorFile(file)

    assert reason in refused.value.detail
    assert refused.value.detail.startswith("model.safetensors is not a valid safetensors file: ")
    assert refused.value.fields["file"] == "model.safetensors"


LYING: dict[str, tuple[dict[str, Any], str]] = {
    "list": ({"w": [1]}, "does not hold exactly"),
    "missing key": ({"w": {"dtype": "U8", "shape": [4]}}, "does not hold exactly"),
    "unknown key": ({"w": {**U8, "stride": 1}}, "does not hold exactly"),
    "unknown dtype": ({"w": {**U8, "dtype": "U7"}}, "the dtype 'U7' is not one of"),
    "half-byte dtype": ({"w": {**U8, "dtype": "F4"}}, "the dtype 'F4' is not one of"),
    "dtype list": ({"w": {**U8, "dtype": ["U8"]}}, "the dtype ['U8'] is not one of"),
    "shape number": ({"w": {**U8, "shape": 4}}, "is not a list of at most 64 sizes"),
    "fraction": ({"w": {**U8, "shape": [4.0]}}, "is not a list of at most 64 sizes"),
    "bool": ({"w": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, "is not a list of at most 64 sizes"),
    "null size": ({"w": {**U8, "shape": [None]}}, "is not a list of at most 64 sizes"),
    "many dimensions": ({"w": {**U8, "shape": [4] + [1] * 64}}, "is not a list of at most 64 sizes"),
    "one offset": ({"w": {**U8, "data_offsets": [4]}}, "are not [begin, end]"),
    "three offsets": ({"w": {**U8, "data_offsets": [0, 2, 4]}}, "are not [begin, end]"),
    "reversed offsets": ({"w": {**U8, "data_offsets": [4, 0]}}, "are not [begin, end]"),
    "too few bytes": ({"w": {**U8, "shape": [5]}}, "shape [5] of U8 is 5 bytes, data_offsets 4"),
    "too many bytes": ({"w": {**U8, "dtype": "F32"}}, "shape [4] of F32 is 16 bytes, data_offsets 4"),
    "past the end": ({"w": {**U8, "shape": [8], "data_offsets": [0, 8]}}, "after the end of the file's 4"),
    "gap at the start": ({"w": {**U8, "shape": [3], "data_offsets": [1, 4]}}, "leaves a gap before it"),
    "overlap": ({"a": U8, "w": {**U8, "shape": [2], "data_offsets": [2, 4]}}, "overlaps the tensor before it"),
    "same bytes twice": ({"a": U8, "w": U8}, "overlaps the tensor before it"),
    "64-bit overflow": ({"w": {**U8, "shape": [2**32, 2**32, 4]}}, "data_offsets 4"),
    "empty but huge": (
        {"a": U8, "w": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [4, 4]}},
        "too large for any machine",
    ),
}


@pytest.mark.parametrize(("header", "reason"), LYING.values(), ids=LYING)
def test_a_lying_header_is_refused_by_the_tensor_s_name(file: Path, header: dict[str, Any], reason: str) -> None:
    file.write_bytes(packed(header))

    with pytest.raises(SourceRejected) as refused:
        TensorFile(file)

    assert reason in refused.value.fields["reason"]
    assert refused.value.fields["tensor"] == "w"


@pytest.mark.parametrize("size", ["-1", "-0", "18446744073709551616000"])
def test_a_size_that_is_not_one_is_refused(file: Path, size: str) -> None:
    file.write_bytes(packed(f'{{"w": {{"dtype": "U8", "shape": [{size}], "data_offsets": [0, 4]}}}}'))

    with pytest.raises(SourceRejected, match=f"'{size}' is not a size"):
        TensorFile(file)


def test_a_hostile_name_does_not_flood_the_message(file: Path) -> None:
    file.write_bytes(packed({"\x1b[31m" + "x" * 1_000_000: {**U8, "dtype": "\n"}}))

    with pytest.raises(SourceRejected) as refused:
        TensorFile(file)

    assert len(refused.value.detail) < 600
    assert refused.value.detail.isprintable()


def test_a_refused_file_is_closed(file: Path) -> None:
    file.write_bytes(b"")
    before = len(list(Path("/dev/fd").iterdir()))

    for _ in range(10):
        with pytest.raises(SourceRejected):
            TensorFile(file)

    assert len(list(Path("/dev/fd").iterdir())) == before


VALID = packed(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]},
        "c": {"dtype": "U8", "shape": [], "data_offsets": [14, 15]},
        "d": {"dtype": "I64", "shape": [0, 7], "data_offsets": [15, 15]},
    },
    bytes(range(15)),
)
TOKENS = '{ } [ ] " , : 0 - -0 1e1 0.0 null true \\u0000 \\ud800 9223372036854775807 99999999999999999999 "U8" [0,8]'
PIECES = st.binary(max_size=4) | st.sampled_from([token.encode() for token in TOKENS.split()])
EDITS = st.lists(
    st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), PIECES, st.booleans()), min_size=1, max_size=4
)


def edited(edits: list[tuple[int, int, bytes, bool]]) -> bytes:
    """VALID with some pieces replaced; where asked, the header length is corrected as a careful attacker would."""
    content = VALID
    for position, removed, inserted, corrected in edits:
        content = content[:position] + inserted + content[position + removed :]
        if corrected and len(content) > 23:
            content = struct.pack("<Q", len(content) - 8 - 15) + content[8:]
    return content


@settings(max_examples=1500, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
@example(edits=[(8, 0, b"", False)])
def test_a_mutated_file_is_read_as_the_reference_does_or_refused(file: Path, edits: list[Any]) -> None:
    content = edited(edits)
    file.write_bytes(content)

    try:
        opened = TensorFile(file)
    except SourceRejected:
        return

    with opened:
        reference = dict(safetensors.deserialize(content))
        assert opened.tensors.keys() == reference.keys()
        for name, info in opened.tensors.items():
            assert list(info.shape) == reference[name]["shape"]
            assert info.dtype == reference[name]["dtype"]
            assert opened.values(name).tobytes() == bytes(reference[name]["data"])


SIZES = st.sampled_from([0, 1, 2, 3, 2**31, 2**63 - 1, 2**64])
SLIPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.sampled_from([-2, -1, 1, 2, 2**64])), max_size=1)


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header and the size of its data: often right, sometimes with one offset that is not."""
    header: dict[str, Any] = {}
    begin = 0
    for name in draw(st.lists(st.text(max_size=3), max_size=4, unique=True)):
        dtype = draw(st.sampled_from([*DTYPES, "F4", "X"]))
        shape = draw(st.lists(st.integers(0, 3) | SIZES, max_size=3))
        end = begin + prod(shape) * (DTYPES[dtype].itemsize if dtype in DTYPES else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    for tensor, offset, slip in draw(SLIPS):
        if tensor < len(header):
            list(header.values())[tensor]["data_offsets"][offset] += slip
    return dict(draw(st.permutations(list(header.items())))), min(begin, 1000)


@settings(max_examples=1000, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=headers())
def test_a_random_header_is_read_as_the_reference_does_or_refused(file: Path, made: tuple[dict[str, Any], int]) -> None:
    header, size = made
    content = packed(header, bytes(size))
    file.write_bytes(content)

    try:
        opened = TensorFile(file)
    except SourceRejected:
        return

    with opened:
        reference = dict(safetensors.deserialize(content))
        assert {name: list(info.shape) for name, info in opened.tensors.items()} == {
            name: tensor["shape"] for name, tensor in reference.items()
        }
