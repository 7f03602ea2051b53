"""Valid GGUF files with mutated bytes: read or refused with the typed error, in little memory and in bounded time."""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.checkpoints import Checkpoint
from quantmill.contract.errors import SourceRejected, VerificationFailed
from quantmill.contract.gguf import GgufContainer
from quantmill.contract.testing import Run
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.reader import read

MOST_MEMORY = 2 << 20  # bytes, beside the mapped file
HUGE = 2**64 - 1


def header(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def peak_memory(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(path: Path) -> None:
    with pytest.raises(VerificationFailed):
        list(read(path.parent))


KEY = struct.pack("<Q", 1) + b"k"
TENSOR = struct.pack("<Q", 1) + b"t"
F32, STRING, ARRAY, UINT64 = 0, 8, 9, 10


@pytest.mark.parametrize(
    "content",
    [
        header(HUGE, HUGE),
        header(2**40, 0),
        header(0, 2**40),
        header(0, 1) + struct.pack("<Q", HUGE),
        header(0, 1) + KEY + struct.pack("<IQ", STRING, 2**62),
        header(0, 1) + KEY + struct.pack("<IIQ", ARRAY, UINT64, 2**61),
        header(0, 1) + KEY + struct.pack("<IIQ", ARRAY, STRING, 2**61),
        header(0, 1) + KEY + struct.pack("<IIQ", ARRAY, ARRAY, 2**40),
        header(1, 0) + TENSOR + struct.pack("<I4QIQ", 4, 2**32, 2**32, 2**32, 2**32, F32, 0),
        header(1, 0) + TENSOR + struct.pack("<I1QIQ", 1, 2**63, F32, 0),
        header(1, 0) + TENSOR + struct.pack("<I1QIQ", 1, 2**20, F32, HUGE - 31),
        header(1, 0) + TENSOR + struct.pack("<I", 2**32 - 1),
    ],
)
def test_160_bytes_cannot_make_the_reader_allocate_more_than_their_worth(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content.ljust(160, b"\0"))

    assert peak_memory(lambda: refused(path)) < MOST_MEMORY


@pytest.fixture(scope="module")
def valid(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = Run(GGUF, GGUF.params(type="Q4_0"), small)
    folder = tmp_path_factory.mktemp("artifact") / "a"
    run.write(run.quantize(), folder)
    return next(folder.glob("*.gguf")).read_bytes()


Mutation = tuple[int, bytes]
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(mutations=MUTATIONS, kept=st.floats(0.0, 1.0))
def test_mutated_bytes_are_read_or_refused_in_little_memory(
    valid: bytes, mutations: list[Mutation], kept: float
) -> None:
    tables = valid.index(b"output_norm.weight") + 64
    damaged = bytearray(valid)
    for place, data in mutations:  # where counts, lengths and offsets are, not among the weights
        start = place % tables
        damaged[start : start + len(data)] = data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        path.write_bytes(damaged[: max(1, int(len(damaged) * kept))] if mutations[0][0] % 2 else damaged)

        def act() -> None:
            try:
                for tensor in read(path.parent):
                    assert tensor.values.nbytes <= 32 * len(damaged)
            except VerificationFailed:
                return

        assert peak_memory(act) < MOST_MEMORY + 8 * len(damaged)  # 4.5 bits become 32


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=160))
def test_any_bytes_after_the_magic_are_refused_or_read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        path.write_bytes(b"GGUF\x03\x00\x00\x00" + content)

        def act() -> None:
            try:
                GgufContainer(path, refusal=SourceRejected).close()
            except SourceRejected:
                return

        assert peak_memory(act) < MOST_MEMORY
