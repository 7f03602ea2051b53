"""Damaged and lying GGUF files are refused with one typed error, whatever the damage."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantmill.checkpoints import Checkpoint
from quantmill.contract.errors import VerificationFailed
from quantmill.contract.testing import Run
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.reader import GgufFile, read

Pack = Callable[..., bytes]


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor(name: str = "output_norm.weight", dims: tuple[int, ...] = (4,), type_: int = 0, offset: int = 0) -> bytes:
    layout = struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
    return string(name) + layout + struct.pack("<IQ", type_, offset)


ARCHITECTURE = string("general.architecture") + struct.pack("<I", 8) + string("llama")


def file(keys: list[bytes], tensors: list[bytes], data: bytes = bytes(16), version: int = 3) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


def u32(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def opened(path: Path, content: bytes) -> GgufFile:
    path.write_bytes(content)
    return GgufFile(path)


def test_the_smallest_file_of_the_specification_is_read(tmp_path: Path) -> None:
    content = file([ARCHITECTURE], [tensor()], struct.pack("<4f", 1, 2, 3, 4))
    assert (len(content), content[:24].hex(" ", 4)) == (144, "47475546 03000000 01000000 00000000 01000000 00000000")
    with opened(tmp_path / "a.gguf", content) as gguf:
        assert gguf.metadata == {"general.architecture": "llama"}
        assert gguf.values(gguf.tensors["output_norm.weight"]).tolist() == [[1, 2, 3, 4]]


def test_rows_come_back_in_the_source_s_order(millstone: Checkpoint, tmp_path: Path) -> None:
    run = Run(GGUF, GGUF.params(type="F16"), millstone)
    run.write(run.quantize(), tmp_path / "artifact")
    for tensor in read(tmp_path / "artifact"):
        expected = millstone.tensor(tensor.name).values.astype(np.float16).astype(np.float32)
        assert tensor.values.dtype == np.float32
        assert np.array_equal(tensor.values, expected), tensor.name


def test_a_tensor_comes_with_the_scheme_and_the_bytes_that_the_file_states(
    millstone: Checkpoint, tmp_path: Path
) -> None:
    run = Run(GGUF, GGUF.params(type="Q4_K_M"), millstone)
    run.write(run.quantize(), tmp_path / "artifact")

    stored = {tensor.name: (tensor.scheme, tensor.nbytes) for tensor in read(tmp_path / "artifact")}

    assert stored["model.layers.1.mlp.up_proj.weight"] == ("Q4_K", 768 * 144)
    assert stored["model.layers.2.mlp.down_proj.weight"] == ("Q6_K", 256 * 3 * 210)
    assert stored["model.norm.weight"] == ("F32", 1024)


def test_an_array_of_the_metadata_is_read_when_asked_for(tmp_path: Path) -> None:
    texts = string("a") + struct.pack("<IIQ", 9, 8, 2) + string("x") + string("yz")
    numbers = string("b") + struct.pack("<IIQ3i", 9, 5, 3, 1, -2, 3)
    with opened(tmp_path / "a.gguf", file([texts, numbers], [tensor()])) as gguf:
        assert gguf.array_keys == {"a", "b"}
        assert gguf.array("a") == ["x", "yz"]
        assert gguf.array("b") == [1, -2, 3]


ARRAY_OF_A_BILLION = string("a") + struct.pack("<IIQ", 9, 4, 10**9)
HUGE = 2**64 - 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GGU", "ends inside its header"),
        (b"GGML" + bytes(60), "does not start with the magic"),
        (file([], [], version=2), "version 2, not 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0) + bytes(64), "claims 18446744073709551615 entries; at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE) + bytes(64), "claims 18446744073709551615 entries; at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE) + bytes(64), "ends inside its header"),
        (file([ARRAY_OF_A_BILLION], []), "claims 1000000000 entries"),
        (file([string("a") + struct.pack("<IIQ", 9, 9, 1)], []), "arrays of type 9"),
        (file([string("a") + struct.pack("<I", 99)], []), "unknown value type 99"),
        (file([ARCHITECTURE, ARCHITECTURE], []), "'general.architecture' twice"),
        (file([struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 0)], []), "not UTF-8"),
        (file([u32("general.alignment", 24)], [tensor()]), "not a power of two"),
        (file([u32("general.alignment", 2**31)], [tensor()]), "not a power of two"),
        (file([], [tensor(), tensor(offset=32)], bytes(64)), "'output_norm.weight' twice"),
        (file([], [tensor(), tensor("b")]), "overlaps"),
        (file([], [tensor(offset=8)]), "not aligned to 32"),
        (file([], [tensor(offset=2**62)]), "after the file's"),
        (file([], [tensor(dims=(5,))]), "after the file's"),
        (file([], [tensor(dims=(2**32, 2**32, 2**32, 2**32))]), "after the file's"),
        (file([], [tensor(dims=(0,))]), "does not fit its type"),
        (file([], [tensor(dims=(33,), type_=8)]), "does not fit its type Q8_0"),
        (file([], [tensor(dims=())]), "has 0 dimensions"),
        (file([], [tensor(dims=(1,) * 5)]), "has 5 dimensions"),
        (file([], [tensor(type_=31)]), "the type 31"),
    ],
)
def test_a_lying_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(VerificationFailed, match=message):
        opened(tmp_path / "a.gguf", content)


@pytest.fixture(scope="module")
def artifact(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = Run(GGUF, GGUF.params(type="Q4_0"), small)
    path, *_ = run.write(run.quantize(), tmp_path_factory.mktemp("artifact") / "a")
    return path.read_bytes()


def test_a_file_cut_anywhere_is_refused(artifact: bytes, tmp_path: Path) -> None:
    rng = random.Random(0)
    for length in [rng.randrange(len(artifact) - 32) for _ in range(200)]:
        with pytest.raises(VerificationFailed):
            opened(tmp_path / "a.gguf", artifact[:length])


def test_a_header_with_any_byte_changed_is_read_or_refused(artifact: bytes, tmp_path: Path) -> None:
    rng = random.Random(1)
    header = artifact.index(b"output.weight")
    for _ in range(500):
        damaged = bytearray(artifact)
        damaged[rng.randrange(header)] = rng.randrange(256)
        (tmp_path / "a.gguf").write_bytes(damaged)
        try:
            for tensor in read(tmp_path):
                assert tensor.values.nbytes < 2**22
        except VerificationFailed:
            continue


LLAMA = [
    ARCHITECTURE,
    u32("llama.block_count", 1),
    u32("llama.attention.head_count", 3),
    u32("llama.attention.head_count_kv", 1),
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (file([], [tensor()]), "general.architecture is None"),
        (file([ARCHITECTURE], [tensor()]), "llama.block_count is None"),
        (file([ARCHITECTURE, u32("llama.block_count", 2**31)], [tensor()]), "llama.block_count is 2147483648"),
        (file(LLAMA, [tensor("stranger.weight")]), "'stranger.weight' is no tensor of the architecture llama"),
        (file(LLAMA, [tensor("blk.0.attn_q.weight", (1, 4))]), "4 rows are not 3 heads"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(VerificationFailed, match=message):
        list(read(tmp_path))


@pytest.mark.parametrize("count", [0, 2])
def test_an_artifact_has_one_gguf_file(tmp_path: Path, count: int) -> None:
    for i in range(count):
        (tmp_path / f"{i}.gguf").write_bytes(b"GGUF")
    with pytest.raises(VerificationFailed, match=f"found {count}"):
        list(read(tmp_path))


def test_an_infinite_scale_is_read_as_not_finite_without_a_warning(tmp_path: Path) -> None:
    blocks = bytes.fromhex("007c") + bytes(32)  # d = inf, q = 0
    with opened(tmp_path / "a.gguf", file([], [tensor("a", (32,), 8)], blocks)) as gguf:
        assert np.isnan(gguf.values(gguf.tensors["a"])).all()
