"""Real GGUF files, damaged in one way each: verification refuses each one by the check, and names what is wrong."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import VerificationFailed
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_gguf.params import FileType
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.policies import NEED_IMATRIX

TYPES = [type_ for type_ in get_args(FileType) if type_ not in NEED_IMATRIX]
MILLSTONE = Path(__file__).parents[2] / "data" / "millstone-4m"
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 64}


# GGUF files, taken apart and put together again

SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
BLOCKS = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144)}
BLOCKS |= {"Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110)}
BLOCKS |= {"Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18), "IQ4_XS": (23, 256, 136)}
BLOCKS |= {"BF16": (30, 1, 2), "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66)}
BY_ID = {id_: (values, size) for id_, values, size in BLOCKS.values()}


@dataclass
class Tensor:
    name: str
    dims: tuple[int, ...]  # fastest first
    type: int
    data: np.ndarray  # uint8 (rows, row bytes)

    @property
    def blocks(self) -> np.ndarray:
        """A view of the data: uint8 (blocks, block bytes)."""
        return self.data.reshape(-1, BY_ID[self.type][1])


class Gguf:
    """A file's parts, to be changed; `bytes` lays them out again."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 4
        self.version, tensors, keys = self._unpack("<IQQ")
        self.keys = dict(self._key() for _ in range(keys))
        infos = [self._info() for _ in range(tensors)]
        data = -(-self.at // 32) * 32
        self.tensors = {name: self._tensor(name, dims, type_, data + at) for name, dims, type_, at in infos}
        self.alignment, self.shift, self.gap_after, self.tail = 32, {}, "", b""

    def bytes(self) -> bytes:
        tensors = list(self.tensors.values())
        header = b"GGUF" + struct.pack("<IQQ", self.version, len(tensors), len(self.keys))
        header += b"".join(string(key) + value for key, value in self.keys.items())
        data = b""
        for tensor in tensors:
            at = len(data) + self.shift.get(tensor.name, 0)
            dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
            header += string(tensor.name) + dims + struct.pack("<IQ", tensor.type, at)
            data += tensor.data.tobytes()
            data += bytes(-len(data) % self.alignment + (32 if self.gap_after == tensor.name else 0))
        return header + bytes(-len(header) % self.alignment) + data + self.tail

    def texts(self, key: str) -> list[str]:
        raw, at, found = self.keys[key], 16, []
        for _ in range(struct.unpack_from("<Q", raw, 8)[0]):
            (size,) = struct.unpack_from("<Q", raw, at)
            found.append(raw[at + 8 : at + 8 + size].decode())
            at += 8 + size
        return found

    def set_texts(self, key: str, texts: list[str]) -> None:
        self.keys[key] = struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(map(string, texts))

    def _key(self) -> tuple[str, bytes]:
        key = self._string()
        start = self.at
        self._pass_value(*self._unpack("<I"))
        return key, self.raw[start : self.at]

    def _pass_value(self, type_: int) -> None:
        if type_ == 8:
            self._string()
        elif type_ == 9:
            inner, count = self._unpack("<IQ")
            for _ in range(count):
                self._pass_value(inner)
        else:
            self.at += SCALAR_BYTES[type_]

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        (count,) = self._unpack("<I")
        return name, self._unpack(f"<{count}Q"), *self._unpack("<IQ")

    def _tensor(self, name: str, dims: tuple[int, ...], type_: int, start: int) -> Tensor:
        values, size = BY_ID[type_]
        rows, row_bytes = int(np.prod(dims[1:])), dims[0] // values * size
        data = np.frombuffer(self.raw, np.uint8, rows * row_bytes, start).reshape(rows, row_bytes)
        return Tensor(name, dims, type_, data.copy())

    def _string(self) -> str:
        (size,) = self._unpack("<Q")
        start, self.at = self.at, self.at + size
        return self.raw[start : self.at].decode()

    def _unpack(self, layout: str) -> tuple[int, ...]:
        found = struct.unpack_from(layout, self.raw, self.at)
        self.at += struct.calcsize(layout)
        return found


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


# The models and their files


@dataclass(frozen=True)
class Made:
    """A checkpoint with its artifacts' files by type, each made once."""

    checkpoint: Checkpoint
    artifacts: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def files(self, type_: str, scratch: Path) -> dict[str, bytes]:
        if type_ not in self.artifacts:
            run = self.run(type_)
            paths = run.write(run.quantize(threads=2), scratch / f"made-{type_}")
            self.artifacts[type_] = {path.name: path.read_bytes() for path in paths}
        return self.artifacts[type_]

    def file(self, type_: str, scratch: Path) -> bytes:
        return self.files(type_, scratch)[f"model-{type_}.gguf"]

    def run(self, type_: str) -> Run:
        return Run(GGUF, GGUF.params(type=type_), self.checkpoint)


@pytest.fixture(scope="module")
def millstone() -> Iterator[Made]:
    with open_checkpoint(MILLSTONE) as checkpoint:
        yield Made(checkpoint)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Random, untied, rows that no block divides, Llama 3's rope, a chat template, BOS before each text."""
    folder = tmp_path_factory.mktemp("injection") / "odd-random-model"
    model = SyntheticLlama(hidden=80, ffn=96, heads=2, kv_heads=1, blocks=3, vocab=301, dtype="F32", seed=2)
    model.write(folder)
    (folder / "config.json").write_text(json.dumps({**model.config(), "rope_parameters": LLAMA3_ROPE}))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with open_checkpoint(folder) as checkpoint:
        yield Made(checkpoint)


Spoil = Callable[[Path], object]


@pytest.fixture
def failed(tmp_path: Path) -> Callable[[Made, str, Spoil], dict[str, str]]:
    """What verification says of an artifact after `spoil` has been at its file: details by failed check."""

    def run(made: Made, type_: str, spoil: Spoil) -> dict[str, str]:
        path = written(made, type_, tmp_path)
        spoil(path)
        return failed_checks(made, type_, path.parent)

    return run


def written(made: Made, type_: str, tmp_path: Path) -> Path:
    """The GGUF file of an artifact in a folder of its own."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    for name, data in made.files(type_, tmp_path).items():
        (folder / name).write_bytes(data)
    return folder / f"model-{type_}.gguf"


def failed_checks(made: Made, type_: str, folder: Path) -> dict[str, str]:
    run = made.run(type_)
    try:
        verify(made.checkpoint, run.plan, GGUF, run.params, folder)
    except VerificationFailed as error:
        return {check["name"]: check["detail"] for check in error.fields["failed"]}
    return {}


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("model", ["millstone", "odd"])
def test_a_clean_artifact_passes(request: pytest.FixtureRequest, tmp_path: Path, model: str, type_: str) -> None:
    made = request.getfixturevalue(model)

    assert failed_checks(made, type_, written(made, type_, tmp_path).parent) == {}


def test_every_check_stands_in_the_documentation(millstone: Made, tmp_path: Path) -> None:
    run, page = millstone.run("Q8_0"), Path(__file__).parents[3] / "docs" / "verification.md"
    verification = verify(millstone.checkpoint, run.plan, GGUF, run.params, written(millstone, "Q8_0", tmp_path).parent)

    assert [check.name for check in verification.checks if f"| `{check.name}` |" not in page.read_text()] == []


@pytest.mark.parametrize("model", ["millstone", "odd"])
def test_taking_a_file_apart_and_putting_it_together_changes_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, model: str
) -> None:
    raw = request.getfixturevalue(model).file("Q4_K_M", tmp_path)

    assert Gguf(raw).bytes() == raw


# Damage to a file's parts

Edit = Callable[[Gguf], object]
CORRUPTIONS: dict[str, tuple[str, Edit, str, str]] = {}  # type, edit, failing check, what its detail names


def corruption(type_: str, check: str, named: str) -> Callable[[Edit], Edit]:
    def add(edit: Edit) -> Edit:
        CORRUPTIONS[edit.__name__.replace("_", " ")] = (type_, edit, check, named)
        return edit

    return add


def source_name(block: int, module: str) -> str:
    return f"model.layers.{block}.{module}.weight"


Q0, K0 = source_name(0, "self_attn.q_proj"), source_name(0, "self_attn.k_proj")
UP1, DOWN2 = source_name(1, "mlp.up_proj"), source_name(2, "mlp.down_proj")


def most_unequal(scales_: np.ndarray) -> tuple[int, int]:
    """Two neighbouring blocks whose scales differ most, by a factor of 1.5 at least."""
    size = np.abs(scales_.copy().view("<f2").reshape(-1).astype(float))
    ratio = np.maximum(size[1:] / size[:-1], size[:-1] / size[1:])
    at = int(ratio.argmax())
    assert ratio[at] > 1.5
    return at, at + 1


def swap(rows: np.ndarray, a: int, b: int) -> None:
    rows[[a, b]] = rows[[b, a]]


# Values


@corruption("Q4_K_M", "schemes", f"{UP1}: stored as F16, planned as Q4_K")
def a_layer_is_not_quantized(file: Gguf) -> None:
    with open_checkpoint(MILLSTONE) as checkpoint:
        values = checkpoint.tensor(UP1).values.astype(np.float16)
    file.tensors["blk.1.ffn_up.weight"] = Tensor(
        "blk.1.ffn_up.weight", (256, 768), 1, values.view(np.uint8).reshape(768, -1)
    )


@corruption("Q8_0", "block_bounds", UP1)
def the_scales_of_two_blocks_of_q8_0_are_swapped(file: Gguf) -> None:
    d = file.tensors["blk.1.ffn_up.weight"].blocks[:, :2]
    swap(d, *most_unequal(d))


@corruption("Q4_0", "block_bounds", UP1)
def the_scales_of_two_blocks_of_q4_0_are_swapped(file: Gguf) -> None:
    d = file.tensors["blk.1.ffn_up.weight"].blocks[:, :2]
    swap(d, *most_unequal(d))


@corruption("Q4_K_M", "block_bounds", UP1)
def the_scales_of_two_super_blocks_are_swapped(file: Gguf) -> None:
    d = file.tensors["blk.1.ffn_up.weight"].blocks[:, :2]
    swap(d, *most_unequal(d))


@corruption("Q4_K_M", "block_bounds", f"{UP1}: row 5, values 0 to 31")
def the_scales_of_two_sub_blocks_are_swapped(file: Gguf) -> None:
    packed = file.tensors["blk.1.ffn_up.weight"].blocks[5, 4:8]
    other = 1 + int(np.abs((packed[1:] & 63).astype(int) - (packed[0] & 63)).argmax())
    packed[[0, other]] = (packed[[0, other]] & 0xC0) | (packed[[other, 0]] & 63)


@corruption("Q8_0", "block_bounds", UP1)
def the_scales_of_two_rows_are_swapped(file: Gguf) -> None:
    swap(file.tensors["blk.1.ffn_up.weight"].blocks.reshape(768, 8, 34)[:, :, :2], 10, 11)


@corruption("Q4_K_M", "error_bounds", UP1)
def the_scales_of_all_rows_move_up_by_one(file: Gguf) -> None:
    rows = file.tensors["blk.1.ffn_up.weight"].blocks.reshape(768, 1, 144)
    rows[:, :, :16] = np.roll(rows[:, :, :16], 1, axis=0)


@corruption("Q4_K_M", "block_bounds", f"{UP1}: row 7,")
def d_and_dmin_of_one_block_are_swapped(file: Gguf) -> None:
    block = file.tensors["blk.1.ffn_up.weight"].blocks[7]
    block[:4] = block[[2, 3, 0, 1]]


@corruption("Q4_K_M", "error_bounds", UP1)
def d_and_dmin_of_a_tensor_are_swapped(file: Gguf) -> None:
    blocks = file.tensors["blk.1.ffn_up.weight"].blocks
    blocks[:, :4] = blocks[:, [2, 3, 0, 1]]


@corruption("Q4_K_M", "block_bounds", f"{UP1}: row 9,")
def the_minima_of_one_block_are_lost(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[9, 2:4] = 0


def one_more(nibbles: np.ndarray) -> np.ndarray:
    low, high = np.minimum((nibbles & 15) + 1, 15), np.minimum((nibbles >> 4) + 1, 15)
    return low | (high << 4)


@corruption("Q4_0", "error_bounds", UP1)
def the_zero_point_of_a_tensor_is_off_by_one(file: Gguf) -> None:
    blocks = file.tensors["blk.1.ffn_up.weight"].blocks
    blocks[:, 2:] = one_more(blocks[:, 2:])


@corruption("Q4_0", "slopes", f"{UP1}: the source times 1.0")
def all_scales_are_a_little_too_large(file: Gguf) -> None:
    scales = file.tensors["blk.1.ffn_up.weight"].blocks[:, :2]
    scales[:] = (scales.copy().view("<f2") * np.float16(1.08)).view(np.uint8)


@corruption("Q4_K_M", "block_bounds", f"{UP1}: row 11,")
def the_zero_point_of_one_block_is_off_by_one(file: Gguf) -> None:
    block = file.tensors["blk.1.ffn_up.weight"].blocks[11]
    block[16:] = one_more(block[16:])


@corruption("Q4_K_M", "error_bounds", UP1)
def the_packed_bytes_are_transposed(file: Gguf) -> None:
    blocks = file.tensors["blk.1.ffn_up.weight"].blocks
    blocks[:, 16:] = blocks[:, 16:].T.reshape(blocks[:, 16:].shape)


@corruption("Q4_0", "error_bounds", UP1)
def the_nibbles_are_in_the_wrong_order(file: Gguf) -> None:
    qs = file.tensors["blk.1.ffn_up.weight"].blocks[:, 2:]
    qs[:] = (qs >> 4) | (qs << 4)


@corruption("Q4_0", "block_bounds", f"{UP1}: row 2, values 32 to 63")
def the_nibbles_of_one_block_are_in_the_wrong_order(file: Gguf) -> None:
    qs = file.tensors["blk.1.ffn_up.weight"].blocks[2 * 8 + 1, 2:]
    qs[:] = (qs >> 4) | (qs << 4)


@corruption("Q4_0", "error_bounds", UP1)
def neighbours_share_a_byte_instead_of_halves(file: Gguf) -> None:
    qs = file.tensors["blk.1.ffn_up.weight"].blocks[:, 2:]
    codes = np.concatenate([qs & 15, qs >> 4], axis=1)
    qs[:] = codes[:, ::2] | (codes[:, 1::2] << 4)


@corruption("Q4_K_M", "error_bounds", DOWN2)
def the_high_bits_of_q6_k_are_lost(file: Gguf) -> None:
    file.tensors["blk.2.ffn_down.weight"].blocks[:, 128:192] = 0


@corruption("Q5_K_M", "block_bounds", f"{UP1}: row 3,")
def the_fifth_bits_of_one_block_of_q5_k_are_inverted(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[3, 16:48] ^= 0xFF


@corruption("Q5_0", "block_bounds", f"{UP1}: row 2, values 32 to 63")
def the_fifth_bits_of_one_block_of_q5_0_are_inverted(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[2 * 8 + 1, 2:6] ^= 0xFF


@corruption("Q5_1", "error_bounds", UP1)
def the_fifth_bits_of_q5_1_are_read_backwards(file: Gguf) -> None:
    qh = file.tensors["blk.1.ffn_up.weight"].blocks[:, 4:8]
    qh[:] = qh[:, ::-1]


@corruption("Q4_1", "block_bounds", f"{UP1}: row 3, values 0 to 31")
def the_minimum_of_one_block_of_q4_1_is_lost(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[3 * 8, 2:4] = 0


@corruption("Q2_K", "error_bounds", UP1)
def d_and_dmin_of_q2_k_are_swapped(file: Gguf) -> None:
    blocks = file.tensors["blk.1.ffn_up.weight"].blocks
    blocks[:, 80:] = blocks[:, [82, 83, 80, 81]]


@corruption("Q2_K", "block_bounds", f"{UP1}: row 4,")
def the_minima_of_one_block_of_q2_k_are_lost(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[4, 82:] = 0


@corruption("Q3_K_S", "error_bounds", UP1)
def the_mask_of_q3_k_is_lost(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[:, :32] = 0


@corruption("Q3_K_S", "block_bounds", f"{UP1}: row 6,")
def the_high_bits_of_the_scales_of_one_block_of_q3_k_are_lost(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[6, 104:108] = 0


@corruption("IQ4_XS", "error_bounds", UP1)
def the_high_bits_of_the_scales_of_iq4_xs_are_lost(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[:, 2:4] = 0


@corruption("IQ4_NL", "schemes", f"{UP1}: stored as Q4_0, planned as IQ4_NL")
def a_curve_is_labelled_as_a_line(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].type = BLOCKS["Q4_0"][0]


@corruption("TQ2_0", "error_bounds", UP1)
def the_digits_of_tq2_0_are_in_the_wrong_order(file: Gguf) -> None:
    qs = file.tensors["blk.1.ffn_up.weight"].blocks[:, :64]
    qs[:] = (qs >> 4) | (qs << 4)


@corruption("TQ1_0", "error_bounds", UP1)
def the_digits_of_tq1_0_are_not_scaled(file: Gguf) -> None:
    qs = file.tensors["blk.1.ffn_up.weight"].blocks[:, :52]
    qs[:] = (qs.astype(np.uint16) * 243 // 256).astype(np.uint8)


@corruption("BF16", "block_bounds", f"{UP1}: row 0, values 0 to 31")
def the_bytes_of_one_value_of_bf16_are_swapped(file: Gguf) -> None:
    value = file.tensors["blk.1.ffn_up.weight"].data[0, :2]
    value[:] = value[::-1].copy()


@corruption("Q8_0", "finite", f"{UP1}: 32 of 196608 values are NaN or infinite")
def a_scale_is_nan(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[100, :2] = (0x00, 0x7E)


@corruption("Q4_K_M", "finite", f"{UP1}: 256 of 196608 values are NaN or infinite")
def a_scale_is_infinite(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[100, 2:4] = (0x00, 0x7C)


@corruption("Q4_K_M", "error_bounds", UP1)
def the_rows_are_shuffled(file: Gguf) -> None:
    data = file.tensors["blk.1.ffn_up.weight"].data
    data[:] = data[np.random.default_rng(0).permutation(len(data))]


@corruption("Q4_K_M", "block_bounds", "model.embed_tokens.weight: row 30")
def two_rows_are_swapped(file: Gguf) -> None:
    swap(file.tensors["token_embd.weight"].data, 300, 301)


@corruption("Q8_0", "error_bounds", "model.layers.0.self_attn.o_proj.weight")
def a_square_tensor_is_transposed(file: Gguf) -> None:
    blocks = file.tensors["blk.0.attn_output.weight"].blocks.reshape(256, 8, 34)
    codes = blocks[:, :, 2:].reshape(256, 256).T.reshape(256, 8, 32)
    blocks[:, :, 2:] = codes


@corruption("Q4_K_M", "block_bounds", f"{UP1}: row 50,")
def a_block_is_zero(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[50] = 0


@corruption("Q4_0", "block_bounds", f"{UP1}: row 1, values 0 to 31")
def a_block_has_its_sign_flipped(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].blocks[8, 1] ^= 0x80


@corruption("Q4_K_M", "error_bounds", "model.norm.weight: relative RMSE")
def a_norm_is_off_by_one_bit(file: Gguf) -> None:
    file.tensors["output_norm.weight"].data[0, 0] ^= 1


@corruption("Q4_K_M", "error_bounds", f"{K0}: relative RMSE")
def two_tensors_of_one_shape_are_swapped(file: Gguf) -> None:
    a, b = file.tensors["blk.0.attn_k.weight"], file.tensors["blk.1.attn_k.weight"]
    a.data, b.data = b.data, a.data


def deinterleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    return rows.reshape(heads, len(rows) // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


@corruption("Q4_K_M", "error_bounds", f"{Q0}: relative RMSE")
def q_is_not_permuted_for_rope(file: Gguf) -> None:
    tensor = file.tensors["blk.0.attn_q.weight"]
    tensor.data = deinterleaved(tensor.data, 4)


@corruption("Q4_K_M", "error_bounds", f"{K0}: relative RMSE")
def k_is_permuted_by_the_query_heads(file: Gguf) -> None:
    tensor = file.tensors["blk.0.attn_k.weight"]
    plain = deinterleaved(tensor.data, 2)
    tensor.data = plain.reshape(4, 2, 16, -1).swapaxes(1, 2).reshape(plain.shape)


# The inventory


@corruption("Q4_K_M", "tensors_present", f"{UP1}: not stored")
def a_tensor_is_dropped(file: Gguf) -> None:
    del file.tensors["blk.1.ffn_up.weight"]


@corruption("Q4_K_M", "nothing_else", "model.layers.0.self_attn.q_proj.bias: not planned")
def a_tensor_is_added(file: Gguf) -> None:
    file.tensors["bias"] = Tensor("blk.0.attn_q.bias", (256,), 0, np.zeros((1, 1024), np.uint8))


@corruption("Q4_K_M", "readable", "'blk.0.attn_q_norm.weight' is no tensor of the architecture llama")
def a_tensor_of_another_architecture_is_added(file: Gguf) -> None:
    file.tensors["router"] = Tensor("blk.0.attn_q_norm.weight", (256,), 0, np.zeros((1, 1024), np.uint8))


@corruption("Q4_K_M", "readable", "has the tensor 'blk.1.ffn_up.weight' twice")
def a_tensor_is_stored_twice(file: Gguf) -> None:
    file.tensors["again"] = replace(file.tensors["blk.1.ffn_up.weight"])


@corruption("Q4_K_M", "schemes", f"{UP1}: stored as Q4_0, planned as Q4_K")
def a_type_is_labelled_as_another_of_the_same_size(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].type = BLOCKS["Q4_0"][0]


@corruption("Q4_K_M", "readable", "overlaps the one before it")
def a_type_is_labelled_as_a_larger_one(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].type = BLOCKS["Q6_K"][0]


@corruption("Q4_K_M", "shapes", f"{UP1}: float32 [256, 768] instead of float32 [768, 256]")
def a_shape_is_turned(file: Gguf) -> None:
    file.tensors["blk.1.ffn_up.weight"].dims = (768, 256)


@corruption("F16", "stored_bytes", "model.norm.weight: takes 512 bytes, 1024 were planned")
def a_norm_is_stored_in_half(file: Gguf) -> None:
    tensor = file.tensors["output_norm.weight"]
    half = tensor.data.view("<f4").astype("<f2")
    file.tensors["output_norm.weight"] = Tensor(tensor.name, tensor.dims, 1, half.view(np.uint8))


# The layout


@corruption("Q4_K_M", "metadata", "general.alignment: '64' instead of nothing")
def the_alignment_is_another(file: Gguf) -> None:
    file.keys["general.alignment"] = struct.pack("<II", 4, 64)
    file.alignment = 64


@corruption("Q4_K_M", "readable", "overlaps the one before it")
def an_offset_is_too_small(file: Gguf) -> None:
    file.shift["blk.1.ffn_up.weight"] = -32


@corruption("Q4_K_M", "readable", "is not aligned to 32 bytes")
def an_offset_is_not_aligned(file: Gguf) -> None:
    file.shift["blk.1.ffn_up.weight"] = 8


@corruption("Q4_K_M", "layout", "blk.1.ffn_down.weight: first byte")
def there_is_a_gap_between_tensors(file: Gguf) -> None:
    file.gap_after = "blk.1.ffn_up.weight"


@corruption("Q4_K_M", "layout", "bytes of the file")
def bytes_are_appended(file: Gguf) -> None:
    file.tail = bytes(32)


@corruption("Q4_K_M", "readable", "GGUF version 2, not 3")
def the_version_is_another(file: Gguf) -> None:
    file.version = 2


# Settings


def set_u32(key: str, value: int) -> Edit:
    return lambda file: file.keys.update({key: struct.pack("<II", 4, value)})


def set_f32(key: str, value: float) -> Edit:
    return lambda file: file.keys.update({key: struct.pack("<If", 6, value)})


def set_text(key: str, value: str) -> Edit:
    return lambda file: file.keys.update({key: struct.pack("<I", 8) + string(value)})


def remove(key: str) -> Edit:
    return lambda file: file.keys.pop(key)


SETTINGS: dict[str, tuple[Edit, str, str]] = {
    "query heads": (set_u32("llama.attention.head_count", 8), "metadata", "head_count: 8 instead of 4"),
    "query heads, in the values": (set_u32("llama.attention.head_count", 8), "error_bounds", Q0),
    "key/value heads": (set_u32("llama.attention.head_count_kv", 4), "metadata", "head_count_kv: 4 instead of 2"),
    "key/value heads forgotten": (remove("llama.attention.head_count_kv"), "metadata", "head_count_kv: nothing inst"),
    "rope base": (set_f32("llama.rope.freq_base", 500000.0), "metadata", "freq_base: 500000.0 instead of 10000.0"),
    "rope base forgotten": (remove("llama.rope.freq_base"), "metadata", "freq_base: nothing instead of 10000.0"),
    "rope scaling": (set_text("llama.rope.scaling.type", "linear"), "metadata", "rope.scaling.type: 'linear' instead"),
    "context": (set_u32("llama.context_length", 2048), "metadata", "context_length: 2048 instead of 512"),
    "vocabulary": (set_u32("llama.vocab_size", 4095), "metadata", "vocab_size: 4095 instead of 4096"),
    "epsilon": (set_f32("llama.attention.layer_norm_rms_epsilon", 1e-6), "metadata", "layer_norm_rms_epsilon: "),
    "width": (set_u32("llama.feed_forward_length", 512), "metadata", "feed_forward_length: 512 instead of 768"),
    "blocks": (set_u32("llama.block_count", 3), "readable", "'blk.3.attn_norm.weight' is no tensor"),
    "head size": (set_u32("llama.attention.key_length", 32), "metadata", "key_length: 32 instead of 64"),
    "file type": (set_u32("general.file_type", 2), "metadata", "general.file_type: 2 instead of 15"),
    "file type forgotten": (remove("general.file_type"), "metadata", "general.file_type: nothing instead of 15"),
    "architecture": (set_text("general.architecture", "mamba"), "readable", "general.architecture is 'mamba'"),
    "a number of another kind": (set_f32("llama.context_length", 512.0), "metadata", "512.0 instead of 512"),
    "a key of somebody else": (set_text("general.author", "me"), "metadata", "general.author: 'me' instead of nothing"),
    "no tokens": (remove("tokenizer.ggml.tokens"), "tokenizer", "number of tokens: 0 instead of 4096"),
    "no tokenizer model": (remove("tokenizer.ggml.model"), "tokenizer", "model: nothing instead of 'gpt2'"),
    "pre-tokenizer": (set_text("tokenizer.ggml.pre", "llama-bpe"), "tokenizer", "pre: 'llama-bpe' instead of 'gpt-2'"),
    "pre-tokenizer forgotten": (remove("tokenizer.ggml.pre"), "tokenizer", "pre: nothing instead of 'gpt-2'"),
    "end of text": (set_u32("tokenizer.ggml.eos_token_id", 0), "tokenizer", "eos_token_id: 0 instead of 1"),
    "begin forgotten": (remove("tokenizer.ggml.bos_token_id"), "tokenizer", "bos_token_id: nothing instead of 0"),
    "begin added": (
        lambda file: file.keys.update({"tokenizer.ggml.add_bos_token": struct.pack("<I?", 7, True)}),
        "tokenizer",
        "add_bos_token: True instead of False",
    ),
    "chat template": (set_text("tokenizer.chat_template", "{{ x }}"), "chat_template", "'{{ x }}' instead of nothing"),
}


@corruption("Q4_K_M", "tokenizer", "number of merges: 3837 instead of 3838")
def a_merge_is_missing(file: Gguf) -> None:
    merges = file.texts("tokenizer.ggml.merges")
    file.set_texts("tokenizer.ggml.merges", merges[:100] + merges[101:])


@corruption("Q4_K_M", "tokenizer", "merges[10]: ")
def two_merges_are_swapped(file: Gguf) -> None:
    merges = file.texts("tokenizer.ggml.merges")
    merges[10], merges[11] = merges[11], merges[10]
    file.set_texts("tokenizer.ggml.merges", merges)


@corruption("Q4_K_M", "tokenizer", "tokens[0]: ")
def the_tokens_are_shifted_by_one(file: Gguf) -> None:
    tokens = file.texts("tokenizer.ggml.tokens")
    file.set_texts("tokenizer.ggml.tokens", tokens[1:] + tokens[:1])


@corruption("Q4_K_M", "tokenizer", "token_type[1]: 1 instead of 3")
def a_control_token_is_a_normal_one(file: Gguf) -> None:
    raw = bytearray(file.keys["tokenizer.ggml.token_type"])
    raw[16 + 4] = 1
    file.keys["tokenizer.ggml.token_type"] = bytes(raw)


CORRUPTIONS |= {name: ("Q4_K_M", *rest) for name, rest in SETTINGS.items()}


@pytest.mark.parametrize(("type_", "edit", "check", "named"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_damaged_file_is_refused_by_the_check_that_names_it(
    failed: Callable[[Made, str, Spoil], dict[str, str]],
    millstone: Made,
    type_: str,
    edit: Edit,
    check: str,
    named: str,
) -> None:
    def spoil(path: Path) -> None:
        file = Gguf(path.read_bytes())
        edit(file)
        path.write_bytes(file.bytes())

    found = failed(millstone, type_, spoil)

    assert check in found, found
    assert named in found[check]


# What only the second model has


def untied_ends_swapped(file: Gguf) -> None:
    a, b = file.tensors["token_embd.weight"], file.tensors["output.weight"]
    a.data, b.data = b.data, a.data


def rope_factor_changed(file: Gguf) -> None:
    file.tensors["rope_freqs.weight"].data.view("<f4")[0, -1] = 4.0


OF_THE_SECOND_MODEL: dict[str, tuple[Edit, str, str]] = {
    "embedding and output swapped": (untied_ends_swapped, "error_bounds", "lm_head.weight: relative RMSE"),
    "rope factors lost": (lambda f: f.tensors.pop("rope_freqs.weight"), "rope_factors", "count: 0 instead of 20"),
    "rope factor changed": (rope_factor_changed, "rope_factors", "rope_freqs.weight[19]: 4.0 instead of 8.0"),
    "chat template lost": (remove("tokenizer.chat_template"), "chat_template", "nothing instead of '{{ messages }}'"),
    "chat template changed": (set_text("tokenizer.chat_template", "{{ m }}"), "chat_template", "'{{ m }}' instead of"),
    "begin not added": (
        lambda file: file.keys.update({"tokenizer.ggml.add_bos_token": struct.pack("<I?", 7, False)}),
        "tokenizer",
        "add_bos_token: False instead of True",
    ),
}


@pytest.mark.parametrize(("edit", "check", "named"), OF_THE_SECOND_MODEL.values(), ids=OF_THE_SECOND_MODEL)
def test_a_damaged_file_of_the_second_model_is_refused(
    failed: Callable[[Made, str, Spoil], dict[str, str]], odd: Made, edit: Edit, check: str, named: str
) -> None:
    def spoil(path: Path) -> None:
        file = Gguf(path.read_bytes())
        edit(file)
        path.write_bytes(file.bytes())

    found = failed(odd, "Q8_0", spoil)

    assert check in found, found
    assert named in found[check]


# Damage to the folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def linked(path: Path) -> None:
    path.rename(path.parents[1] / "elsewhere.gguf")
    path.symlink_to(path.parents[1] / "elsewhere.gguf")


def naming_its_source(path: Path) -> None:
    file = Gguf(path.read_bytes())
    set_text("general.source.url", f"file://{MILLSTONE}")(file)
    path.write_bytes(file.bytes())


FOLDERS: dict[str, tuple[Spoil, str, str]] = {
    "truncated": (cut, "readable", "after the file's"),
    "empty": (lambda path: path.write_bytes(b""), "readable", "is empty"),
    "missing": (Path.unlink, "readable", "expected one GGUF file in the artifact, or all its parts; found 0"),
    "no commands": (lambda p: (p.parent / "README.md").unlink(), "files", "README.md: missing"),
    "no Modelfile": (lambda p: (p.parent / "Modelfile").unlink(), "files", "Modelfile: missing"),
    "another name": (lambda p: p.rename(p.with_name("m.gguf")), "files", "m.gguf: not of this artifact"),
    "another file": (lambda p: (p.parent / "notes.txt").write_text("x"), "files", "notes.txt: not of this artifact"),
    "a hidden file": (lambda p: (p.parent / ".cache").write_text("x"), "files", ".cache: not of this artifact"),
    "a link": (linked, "plain_files", "model-Q4_K_M.gguf: is a link"),
    "a link to a folder": (lambda p: (p.parent / "up").symlink_to(".."), "plain_files", "up: is a link"),
    "a pipe": (lambda p: os.mkfifo(p.parent / "pipe"), "plain_files", "pipe: is not a plain file"),
    "a program": (lambda p: p.chmod(0o755), "portable_files", "it is marked as a program (mode 755)"),
    "open to all": (lambda p: p.chmod(0o666), "portable_files", "anybody may write to it"),
    "a name of a device": (lambda p: (p.parent / "aux.txt").touch(), "portable_files", "'aux.txt' does not work every"),
    "a name with a colon": (lambda p: (p.parent / "a:b").touch(), "portable_files", "'a:b' does not work everywhere"),
    "two names on one disk": (
        lambda p: (p.parent / p.name.upper()).touch(),
        "portable_files",
        "differs from MODEL-Q4_K_M.GGUF in capitals only",
    ),
    "a path of this machine": (naming_its_source, "no_local_paths", "model-Q4_K_M.gguf: names the path "),
    "a path in a key": (naming_its_source, "metadata", "general.source.url: "),
}


@pytest.mark.parametrize(("spoil", "check", "named"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_is_not_clean_is_refused(
    failed: Callable[[Made, str, Spoil], dict[str, str]], millstone: Made, spoil: Spoil, check: str, named: str
) -> None:
    found = failed(millstone, "Q4_K_M", spoil)

    assert check in found, found
    assert named in found[check]


def test_the_description_of_an_artifact_is_no_foreign_file(millstone: Made, tmp_path: Path) -> None:
    folder = written(millstone, "Q8_0", tmp_path).parent
    (folder / "quantmill.json").write_text(json.dumps({"source": str(MILLSTONE)}))

    assert failed_checks(millstone, "Q8_0", folder) == {}
