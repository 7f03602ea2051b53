"""GGUF files as sources: what is read, and what is refused."""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gguf_models import LLAMA, file, i32s_key, string, tensor, text_key, texts_key, u32_key

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import QuantmillError, SourceRejected
from quantmill.contract.gguf import BlockTensor

F32, F16, Q8_0, BF16, IQ2_XS = 0, 1, 8, 30, 17
HUGE = 2**64 - 1

NORM = struct.pack("<4f", 1, 2, 3, 4)
BLOCK = struct.pack("<e32b", 0.5, *range(-16, 16))  # 34 bytes


def two_rows() -> bytes:
    """A norm, and a matrix of two rows in Q8_0 at byte 32 of the data."""
    tensors = [tensor(), tensor("blk.0.attn_q.weight", (32, 2), Q8_0, 32)]
    return file([LLAMA], tensors, NORM.ljust(32, b"\0") + BLOCK * 2)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes files into a folder; gives the folder."""

    def write(folder: str = "model", **contents: bytes) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, content in contents.items():
            (tmp_path / folder / f"{name}.gguf").write_bytes(content)
        return tmp_path / folder

    return write


Write = Callable[..., Path]


@pytest.mark.parametrize("of", [lambda folder: folder, lambda folder: folder / "a.gguf"], ids=["folder", "file"])
def test_a_file_is_a_model_by_its_own_path_and_in_its_folder(write: Write, of: Callable[[Path], Path]) -> None:
    with open_checkpoint(of(write(a=two_rows()))) as checkpoint:
        index = checkpoint.index
        assert {name: (info.dtype, info.shape) for name, info in index.tensors.items()} == {
            "blk.0.attn_q.weight": ("F32", (2, 32)),
            "output_norm.weight": ("F32", (4,)),
        }
        assert index.gguf is not None
        assert [(name, type_.name) for name, type_ in index.gguf.types.items()] == [
            ("output_norm.weight", "F32"),
            ("blk.0.attn_q.weight", "Q8_0"),
        ]


def test_a_file_is_known_by_how_it_begins(tmp_path: Path) -> None:
    (tmp_path / "5f2a").write_bytes(two_rows())  # as a cache names what its links lead to
    with open_checkpoint(tmp_path / "5f2a") as checkpoint:
        assert sorted(checkpoint.index.tensors) == ["blk.0.attn_q.weight", "output_norm.weight"]


def test_version_2_is_read_as_version_3_is(write: Write) -> None:
    content = bytearray(two_rows())
    content[4] = 2
    with open_checkpoint(write(a=bytes(content))) as checkpoint:
        assert checkpoint.tensor("output_norm.weight").values.tolist() == [1, 2, 3, 4]


def test_blocks_are_given_as_they_are_stored_and_as_what_they_stand_for(write: Write) -> None:
    with open_checkpoint(write(a=two_rows())) as checkpoint:
        norm, matrix = (checkpoint.tensor(name) for name in ("output_norm.weight", "blk.0.attn_q.weight"))
        assert norm.values.tolist() == [1, 2, 3, 4]
        assert isinstance(matrix, BlockTensor)
        assert matrix.packed.tobytes() == BLOCK * 2
        assert matrix.values.tolist() == [[n / 2 for n in range(-16, 16)]] * 2


def test_floats_of_16_bits_keep_their_dtype(write: Write) -> None:
    tensors = [tensor("a", (2,), F16), tensor("b", (2,), BF16, 32)]
    data = np.array([1, -2], np.float16).tobytes().ljust(32, b"\0") + bytes.fromhex("803f00c0")
    with open_checkpoint(write(a=file([LLAMA], tensors, data))) as checkpoint:
        assert [checkpoint.index.tensors[name].dtype for name in "ab"] == ["F16", "BF16"]
        assert [checkpoint.tensor(name).values.astype(np.float32).tolist() for name in "ab"] == [[1, -2], [1, -2]]


def test_every_key_is_kept_by_its_bytes_and_in_its_order(write: Write) -> None:
    keys = [
        text_key("x.unknown", "\u00e9"),
        LLAMA,
        texts_key("tokenizer.ggml.tokens", b"\xff", "b"),
        i32s_key("n", 1, 2),
    ]
    with open_checkpoint(write(a=file(keys, [tensor()]))) as checkpoint:
        assert checkpoint.index.gguf is not None
        found = [string(key) + raw for key, raw in checkpoint.index.gguf.keys.items()]
    assert found == keys


def test_dimensions_are_there_under_config_json_s_names(write: Write) -> None:
    keys = [LLAMA, u32_key("llama.block_count", 2), i32s_key("llama.attention.head_count_kv", 2, 4)]
    tensors = [tensor("token_embd.weight", (4, 3))]
    with open_checkpoint(write(a=file(keys, tensors, bytes(48)))) as checkpoint:
        assert checkpoint.index.config == {
            "architectures": ["llama"],
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "vocab_size": 3,
        }


def test_the_digest_covers_the_file_and_nothing_beside_it(write: Write) -> None:
    def digest(path: Path) -> str:
        with open_checkpoint(path) as checkpoint:
            return checkpoint.source_digest()

    folder = write(a=two_rows())
    before = digest(folder)
    write(b=two_rows())
    assert digest(folder / "a.gguf") == before
    write(a=two_rows()[:-1] + b"\x7f")
    assert digest(folder / "a.gguf") != before


def test_a_file_that_changes_while_it_is_open_is_refused(write: Write) -> None:
    folder = write(a=two_rows())
    with open_checkpoint(folder) as checkpoint:
        write(a=two_rows() + bytes(32))
        with pytest.raises(SourceRejected, match="was changed while it was being read"):
            checkpoint.tensor("output_norm.weight")


def test_a_checkpoint_with_a_gguf_file_beside_it_is_a_checkpoint(
    tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    folder = make_model()
    (folder / "a.gguf").write_bytes(two_rows())
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.index.gguf is None


# Parts


def part(number: int, count: int, total: int, name: str, *keys: bytes) -> bytes:
    split = [u32_key("split.no", number), u32_key("split.count", count), u32_key("split.tensors.count", total)]
    return file([*keys, *split], [tensor(name)])


def test_parts_are_one_model(write: Write) -> None:
    names = ["m-00001-of-00002", "m-00002-of-00002"]
    folder = write(**{names[0]: part(0, 2, 2, "a", LLAMA), names[1]: part(1, 2, 2, "b", LLAMA)})
    for path in (folder, folder / f"{names[1]}.gguf"):
        with open_checkpoint(path) as checkpoint:
            assert sorted(checkpoint.index.tensors) == ["a", "b"]
            assert checkpoint.index.gguf is not None
            assert list(checkpoint.index.gguf.keys) == ["general.architecture"]


PARTS = {
    "a part missing": ({"m-00001-of-00002": part(0, 2, 2, "a", LLAMA)}, "'m-00002-of-00002.gguf' is not beside it"),
    "a part alone": ({"m": part(0, 2, 2, "a", LLAMA)}, "m.gguf is one of 2 parts, and 1 were found"),
    "a part twice": (
        {"m-00001-of-00002": part(0, 2, 2, "a", LLAMA), "m-00002-of-00002": part(0, 2, 2, "b", LLAMA)},
        "m-00002-of-00002.gguf is not part 2 of a model of 2 tensors",
    ),
    "a tensor twice": (
        {"m-00001-of-00002": part(0, 2, 2, "a", LLAMA), "m-00002-of-00002": part(1, 2, 2, "a", LLAMA)},
        "holds 'a', which another part holds too",
    ),
    "no such count": ({"m-00001-of-99999": part(0, 2, 2, "a", LLAMA)}, "one of 99999 parts; at most 512"),
    "two models": ({"a": two_rows(), "b": two_rows()}, "holds 2 GGUF models ('a.gguf', 'b.gguf', ...); give the path"),
}


@pytest.mark.parametrize("case", PARTS)
def test_files_that_are_not_one_model_are_refused(write: Write, case: str) -> None:
    contents, named = PARTS[case]
    folder = write(**contents)
    with pytest.raises(SourceRejected) as refused:
        open_checkpoint(folder)
    assert named in refused.value.detail


# Hostile files

HEAD = b"GGUF" + struct.pack("<I", 3)
REFUSED = {
    "empty": (b"", "is empty"),
    "no magic": (b"GGML" + bytes(60), "does not start with the magic"),
    "big endian": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "is GGUF version 50331648, not 2 or 3"),
    "version 1": (b"GGUF" + struct.pack("<I", 1) + bytes(64), "is GGUF version 1, not 2 or 3"),
    "huge counts": (HEAD + struct.pack("<QQ", HUGE, HUGE), "claims 18446744073709551615 entries"),
    "truncated": (two_rows()[:120], "ends inside its header"),
    "data truncated": (two_rows()[:-1], "after the file's"),
    "overlapping": (file([LLAMA], [tensor("a"), tensor("b")]), "'b' overlaps"),
    "wrong alignment": (file([LLAMA], [tensor(offset=8)]), "not aligned to 32"),
    "impossible alignment": (file([LLAMA, u32_key("general.alignment", 24)], [tensor()]), "not a power of two"),
    "offset past the end": (file([LLAMA], [tensor(offset=2**62)]), "after the file's"),
    "offset that wraps": (file([LLAMA], [tensor(offset=HUGE - 31)]), "after the file's"),
    "a tensor twice": (file([LLAMA], [tensor(), tensor(offset=32)], bytes(64)), "'output_norm.weight' twice"),
    "a key twice": (file([LLAMA, LLAMA], [tensor()]), "'general.architecture' twice"),
    "a key that is not UTF-8": (file([LLAMA, text_key("k", b"\xff")], [tensor()]), "not UTF-8"),
    "nested arrays": (file([string("k") + struct.pack("<IIQ", 9, 9, 1)], [tensor()]), "'k': arrays of type 9"),
    "a product that wraps": (file([LLAMA], [tensor(dims=(2**32,) * 4)]), "after the file's"),
    "no dimension": (file([LLAMA], [tensor(dims=(0,))]), "does not fit its type"),
    "half a block": (file([LLAMA], [tensor(dims=(33,), type_=Q8_0)]), "does not fit its type Q8_0"),
    "a type that is not read": (file([LLAMA], [tensor(type_=IQ2_XS)]), "as the type 17 (IQ2_XS), which is not read"),
    "no architecture": (file([], [tensor()]), "general.architecture is None"),
    "no model": (file([LLAMA, text_key("general.type", "adapter")], [tensor()]), "general.type is 'adapter'"),
    "no tensors": (file([LLAMA], []), "holds no tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_read_safely_is_refused_and_says_why(write: Write, case: str) -> None:
    content, named = REFUSED[case]
    folder = write(a=content)
    with pytest.raises(SourceRejected) as refused:
        open_checkpoint(folder)
    assert named in refused.value.detail
    assert "a.gguf" in refused.value.detail


def test_a_header_that_never_ends_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantmill.contract.gguf.HEADER_LIMIT", 100)
    with pytest.raises(SourceRejected, match="a header of more than 100 bytes"):
        open_checkpoint(write(a=file([LLAMA, text_key("k", "x" * 100)], [tensor()])))


def test_a_link_out_of_the_folder_is_refused(write: Write, tmp_path: Path) -> None:
    folder = write(a=two_rows())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.gguf").symlink_to(folder / "a.gguf")
    with pytest.raises(SourceRejected, match=r"b\.gguf is a link that leaves the model folder"):
        open_checkpoint(tmp_path / "other")


def test_another_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a text")
    with pytest.raises(SourceRejected, match="is not a folder, nor a GGUF file"):
        open_checkpoint(tmp_path / "notes.txt")


MOST_MEMORY = 2 << 20  # bytes, beside the mapped file


def opened_or_refused(content: bytes) -> int:
    """The most memory that opening the file and looking at its tensors takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        path.write_bytes(content)
        tracemalloc.start()
        try:
            with open_checkpoint(path) as checkpoint:
                for name in checkpoint.index.tensors:
                    checkpoint.tensor(name)
        except QuantmillError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return peak


@settings(max_examples=60, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8)), min_size=1, max_size=3
    ),
    kept=st.integers(1, 400),
)
def test_mutated_bytes_are_read_or_refused_in_little_memory(edits: list[tuple[int, bytes]], kept: int) -> None:
    damaged = bytearray(two_rows())
    for place, data in edits:
        damaged[place : place + len(data)] = data
    assert opened_or_refused(bytes(damaged[:kept])) < MOST_MEMORY
