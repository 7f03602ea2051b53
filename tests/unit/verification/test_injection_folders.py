"""Real bnb and fp8 folders, damaged in one way each: verification refuses each by the check, and names the fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract import model_folder
from quantmill.contract.errors import VerificationFailed
from quantmill.contract.method import Method
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_bnb.plugin import BNB
from quantmill_fp8.params import SchemeName
from quantmill_fp8.plugin import FP8

MILLSTONE = Path(__file__).parents[2] / "data" / "millstone-4m"
ITEM_TYPES = {"U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F32": "<f4", "BF16": ml_dtypes.bfloat16, "F16": "<f2"}


# Folders, taken apart and put together again


@dataclass
class Array:
    """A stored array; `values` may be changed in place. F8_E4M3 are bytes."""

    dtype: str
    shape: list[int]
    values: np.ndarray


@dataclass
class Folder:
    """config.json and the arrays of model.safetensors, in the order of the file."""

    path: Path
    config: dict[str, Any] = field(init=False)
    arrays: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.config = json.loads((self.path / "config.json").read_text())
        raw = (self.path / "model.safetensors").read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        del header["__metadata__"]
        self.arrays = {name: self._array(entry, raw[8 + size :]) for name, entry in header.items()}

    def _array(self, entry: dict[str, Any], data: bytes) -> Array:
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[begin:end], ITEM_TYPES[entry["dtype"]]).reshape(entry["shape"])
        return Array(entry["dtype"], entry["shape"], values.copy())

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name].values

    def __setitem__(self, name: str, values: np.ndarray) -> None:
        """Other values of the same dtype, or an array of bytes that is added."""
        dtype = self.arrays[name].dtype if name in self.arrays else "U8"
        self.arrays[name] = Array(dtype, list(values.shape), values)

    def state(self, weight: str, **changed: Any) -> None:
        """Change the JSON of a bnb weight's quantization state, keeping its bytes' number."""
        (name,) = (each for each in self.arrays if each.startswith(f"{weight}.quant_state"))
        old = self[name].tobytes()
        text = json.dumps(json.loads(old) | changed).ljust(len(old)).encode()
        self[name] = np.frombuffer(text, np.uint8)

    def save(self) -> None:
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, array in self.arrays.items():
            begin, end = end, end + array.values.nbytes
            entries[name] = {"dtype": array.dtype, "shape": array.shape, "data_offsets": [begin, end]}
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        data = (array.values.tobytes() for array in self.arrays.values())
        (self.path / "model.safetensors").write_bytes(b"".join([len(header).to_bytes(8, "little"), header, *data]))
        (self.path / "config.json").write_text(json.dumps(self.config))


Params = tuple[tuple[str, Any], ...]
Damage = Callable[[Folder], object]


@dataclass(frozen=True)
class Made:
    """A checkpoint with its artifacts by method and parameters, each made once."""

    checkpoint: Checkpoint
    folder: Path

    def artifact(self, method: Method, params: Mapping[str, Any]) -> Path:
        name = "-".join([method.name, *map(str, params.values())])
        if not (self.folder / name).exists():
            run = self.run(method, params)
            run.write(run.quantize(threads=2), self.folder / name)
        return self.folder / name

    def run(self, method: Method, params: Mapping[str, Any]) -> Run:
        return Run(method, method.params(**params), self.checkpoint)

    def failed_checks(self, method: Method, params: Mapping[str, Any], folder: Path) -> dict[str, str]:
        run = self.run(method, params)
        try:
            verify(self.checkpoint, run.plan, method, run.params, folder)
        except VerificationFailed as error:
            return {check["name"]: check["detail"] for check in error.fields["failed"]}
        return {}


@pytest.fixture(scope="module")
def millstone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with open_checkpoint(MILLSTONE) as checkpoint:
        yield Made(checkpoint, tmp_path_factory.mktemp("millstone"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Random, untied, in float32, rows that only the formats without blocks along them go with."""
    folder = tmp_path_factory.mktemp("odd")
    model = SyntheticLlama(hidden=80, ffn=96, heads=2, kv_heads=1, blocks=3, vocab=301, dtype="F32", seed=2)
    with open_checkpoint(model.write(folder / "model")) as checkpoint:
        yield Made(checkpoint, folder)


# Clean ones

BNB_SETTINGS: list[Mapping[str, Any]] = [
    *({"quant_type": "nf4", "block_size": size} for size in (32, 64, 512, 4096)),
    {"quant_type": "fp4"},
    *({"quant_type": type_, "double_quant": False} for type_ in ("nf4", "fp4")),
    *({"quant_type": "nf4", "quant_storage": storage} for storage in ("bfloat16", "float16", "float32")),
    {"quant_type": "int8"},
    {"quant_type": "nf4", "skip_modules": ["lm_head", "*.down_proj"], "compute_dtype": "float16"},
]
FP8_SETTINGS: list[Mapping[str, Any]] = [
    *({"scheme": scheme} for scheme in get_args(SchemeName)),
    {"scheme": "FP8_DYNAMIC", "skip_modules": ["lm_head", "*.down_proj"]},
]
ON_ODD_ROWS = ({"scheme": "FP8_DYNAMIC"}, {"scheme": "FP8A16"}, {"scheme": "NVFP4A16"})
CLEAN = [
    *((BNB, params, model) for params in BNB_SETTINGS for model in ("millstone", "odd")),
    *((FP8, params, "millstone") for params in FP8_SETTINGS),
    *((FP8, params, "odd") for params in ON_ODD_ROWS),
]


@pytest.mark.parametrize(("method", "params", "model"), CLEAN)
def test_a_clean_artifact_passes(
    request: pytest.FixtureRequest, method: Method, params: Mapping[str, Any], model: str
) -> None:
    made = request.getfixturevalue(model)

    assert made.failed_checks(method, params, made.artifact(method, params)) == {}


@pytest.mark.parametrize(("method", "params"), [(BNB, {}), (FP8, {"scheme": "NVFP4A16"})])
def test_every_check_stands_in_the_documentation(millstone: Made, method: Method, params: Mapping[str, Any]) -> None:
    run, page = millstone.run(method, params), Path(__file__).parents[3] / "docs" / "verification.md"
    checked = verify(millstone.checkpoint, run.plan, method, run.params, millstone.artifact(method, params)).checks

    assert [check.name for check in checked if f"| `{check.name}` |" not in page.read_text()] == []


def test_taking_a_folder_apart_and_putting_it_together_changes_no_array(millstone: Made, tmp_path: Path) -> None:
    folder = Folder(copied(millstone, BNB, {}, tmp_path))
    folder.save()

    assert millstone.failed_checks(BNB, {}, folder.path) == {}


# The damages

CORRUPTIONS: dict[str, tuple[Method, Mapping[str, Any], Damage, str, str]] = {}


def damage(method: Method, check: str, named: str, **params: Any) -> Callable[[Damage], Damage]:
    """Adds a row: what a folder of `method` with `params` is refused by after it, and what that names."""

    def add(edit: Damage) -> Damage:
        CORRUPTIONS[f"{method.name} {edit.__name__.replace('_', ' ').strip()}"] = (method, params, edit, check, named)
        return edit

    return add


UP1, UP1_MODULE = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj"  # 768 x 256
O0, O0_MODULE = "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.o_proj"  # 256 x 256
K0, K1 = "model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight"
NORM = "model.norm.weight"
UP1_SCALE = f"{UP1_MODULE}.weight_scale"


def swap(values: np.ndarray, a: Any, b: Any) -> None:
    values[[a, b]] = values[[b, a]]


def extremes(scales: np.ndarray) -> tuple[int, int]:
    """The smallest and the largest of some scales, in one dimension."""
    return int(scales.argmin()), int(scales.argmax())


def shuffled(values: np.ndarray) -> np.ndarray:
    return values[np.random.default_rng(0).permutation(len(values))]


def source_of(name: str) -> np.ndarray:
    with open_checkpoint(MILLSTONE) as checkpoint:
        return np.array(checkpoint.tensor(name).values)


def parts(folder: Folder, weight: str) -> list[str]:
    """All arrays of a weight, in either method's folder."""
    module = weight.removesuffix(".weight")
    return [name for name in folder.arrays if name.startswith((f"{module}.weight", f"{module}.SCB"))]


def drop(folder: Folder, *names: str) -> None:
    for name in names:
        del folder.arrays[name]


def relabel(folder: Folder, old: str, new: str) -> None:
    folder.arrays = {new if name == old else name: array for name, array in folder.arrays.items()}


def exchange(folder: Folder, a: str, b: str) -> None:
    """All arrays of two weights of one shape."""
    for one, other in zip(parts(folder, a), parts(folder, b), strict=True):
        folder.arrays[one], folder.arrays[other] = folder.arrays[other], folder.arrays[one]


def leave_unquantized(folder: Folder) -> None:
    drop(folder, *parts(folder, UP1))
    values = source_of(UP1)
    folder.arrays[UP1] = Array("BF16", list(values.shape), values)


# bnb: values


@damage(BNB, "schemes", f"{UP1}: stored as BF16, planned as NF4-64-DQ")
def a_layer_is_not_quantized(folder: Folder) -> None:
    leave_unquantized(folder)


@damage(BNB, "stored_arrays", f"{UP1}: 'BF16 [192, 256]' instead of 'U8 [98304, 1]'")
def source_bytes_stand_under_the_label_of_codes(folder: Folder) -> None:
    values = source_of(UP1)[:192]
    folder.arrays[UP1] = Array("BF16", list(values.shape), values)


@damage(BNB, "error_bounds", UP1)
def the_nibbles_are_in_the_wrong_order(folder: Folder) -> None:
    folder[UP1] = (folder[UP1] >> 4) | (folder[UP1] << 4)


@damage(BNB, "block_bounds", f"{UP1}: row 1, values 64 to 127")
def the_nibbles_of_one_block_are_in_the_wrong_order(folder: Folder) -> None:
    block = folder[UP1][160:192]
    block[:] = (block >> 4) | (block << 4)


@damage(BNB, "error_bounds", UP1)
def the_packed_codes_are_transposed(folder: Folder) -> None:
    folder[UP1] = np.ascontiguousarray(folder[UP1].reshape(768, 128).T).reshape(-1, 1)


@damage(BNB, "error_bounds", UP1)
def the_rows_are_shuffled(folder: Folder) -> None:
    folder[UP1] = shuffled(folder[UP1].reshape(768, 128)).reshape(-1, 1)


@damage(BNB, "block_bounds", f"{UP1}: row 10")
def two_rows_are_swapped(folder: Folder) -> None:
    swap(folder[UP1].reshape(768, 128), 100, 101)
    swap(folder[f"{UP1}.absmax"].reshape(768, 4), 100, 101)


@damage(BNB, "error_bounds", UP1)
def all_codes_are_one_too_high(folder: Folder) -> None:
    low, high = np.minimum((folder[UP1] & 15) + 1, 15), np.minimum((folder[UP1] >> 4) + 1, 15)
    folder[UP1] = low | (high << 4)


@damage(BNB, "block_bounds", UP1)
def the_scales_of_two_blocks_are_swapped(folder: Folder) -> None:
    swap(folder[f"{UP1}.absmax"], *extremes(folder[f"{UP1}.absmax"]))


@damage(BNB, "block_bounds", UP1)
def all_scales_move_on_by_one(folder: Folder) -> None:
    folder[f"{UP1}.absmax"] = np.roll(folder[f"{UP1}.absmax"], 1)


@damage(BNB, "error_bounds", UP1)
def the_offset_of_the_nested_absmax_is_lost(folder: Folder) -> None:
    folder.state(UP1, nested_offset=0.0)


@damage(BNB, "block_bounds", UP1)
def a_nested_scale_is_twice_too_large(folder: Folder) -> None:
    folder[f"{UP1}.nested_absmax"][3] *= 2


@damage(BNB, "finite", f"{UP1}: 16384 of 196608 values are NaN or infinite")
def a_nested_scale_is_nan(folder: Folder) -> None:
    folder[f"{UP1}.nested_absmax"][3] = np.nan


@damage(BNB, "error_bounds", UP1)
def the_nested_table_is_turned_round(folder: Folder) -> None:
    folder[f"{UP1}.nested_quant_map"] = folder[f"{UP1}.nested_quant_map"][::-1].copy()


@damage(BNB, "quant_maps", f"wrong entries of {UP1}.nested_quant_map: 1 instead of 0")
def an_entry_of_the_nested_table_is_off(folder: Folder) -> None:
    folder[f"{UP1}.nested_quant_map"][200] *= 1.001


@damage(BNB, "quant_maps", f"wrong entries of {UP1}.quant_map: 1 instead of 0")
def an_entry_of_the_table_is_off(folder: Folder) -> None:
    folder[f"{UP1}.quant_map"][3] *= 1.001


@damage(BNB, "error_bounds", UP1)
def the_table_is_that_of_fp4(folder: Folder) -> None:
    half = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
    folder[f"{UP1}.quant_map"] = np.concatenate([half, -half])


@damage(BNB, "finite", f"{UP1}: 64 of 196608 values are NaN or infinite", double_quant=False)
def a_scale_is_nan(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] = np.nan


@damage(BNB, "finite", f"{UP1}: 64 of 196608 values are NaN or infinite", double_quant=False)
def a_scale_is_infinite(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] = np.inf


@damage(BNB, "block_bounds", f"{UP1}: row 25, values 0 to 63", double_quant=False)
def a_scale_is_twice_too_large(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] *= 2


@damage(BNB, "block_bounds", f"{UP1}: row 25, values 0 to 63", double_quant=False)
def a_scale_is_negative(folder: Folder) -> None:
    folder[f"{UP1}.absmax"][100] *= -1


@damage(BNB, "error_bounds", UP1, double_quant=False)
def all_scales_are_a_fifth_too_large(folder: Folder) -> None:
    folder[f"{UP1}.absmax"] *= np.float32(1.2)


@damage(BNB, "block_bounds", UP1, quant_type="int8")
def the_scales_of_two_rows_of_int8_are_swapped(folder: Folder) -> None:
    swap(folder[f"{UP1_MODULE}.SCB"], *extremes(folder[f"{UP1_MODULE}.SCB"]))


@damage(BNB, "error_bounds", UP1, quant_type="int8")
def the_scales_of_int8_are_steps_and_not_absmax(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.SCB"] /= np.float32(127)


@damage(BNB, "error_bounds", O0, quant_type="int8")
def a_square_int8_weight_is_transposed(folder: Folder) -> None:
    folder[O0] = np.ascontiguousarray(folder[O0].T)


@damage(BNB, "block_bounds", UP1, quant_type="int8")
def the_zero_point_of_int8_is_off_by_one(folder: Folder) -> None:
    folder[UP1] = np.minimum(folder[UP1], 126) + np.int8(1)


@damage(BNB, "finite", f"{UP1}: 256 of 196608 values are NaN or infinite", quant_type="int8")
def a_scale_of_int8_is_nan(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.SCB"][7] = np.nan


@damage(BNB, "readable", "weight_format is 1", quant_type="int8")
def int8_is_said_to_be_in_columns(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_format"][...] = 1


# bnb: the inventory and its labels


@damage(BNB, "tensors_present", f"{UP1}: not stored")
def a_tensor_is_dropped(folder: Folder) -> None:
    drop(folder, *parts(folder, UP1))


@damage(BNB, "nothing_else", "model.layers.0.self_attn.q_proj.bias: not planned")
def a_tensor_is_added(folder: Folder) -> None:
    folder.arrays["model.layers.0.self_attn.q_proj.bias"] = Array("F32", [256], np.zeros(256, np.float32))


@damage(BNB, "readable", f"{UP1}.absmax")
def the_scales_are_dropped(folder: Folder) -> None:
    drop(folder, f"{UP1}.absmax")


@damage(BNB, "readable", f"{UP1}.nested_absmax")
def the_nested_scales_are_dropped(folder: Folder) -> None:
    drop(folder, f"{UP1}.nested_absmax")


@damage(BNB, "schemes", f"{UP1}: stored as U8, planned as NF4-64-DQ")
def the_state_is_dropped(folder: Folder) -> None:
    drop(folder, f"{UP1}.quant_state.bitsandbytes__nf4")


@damage(BNB, "readable", "2 quantization states")
def there_are_two_states(folder: Folder) -> None:
    folder[f"{UP1}.quant_state.bitsandbytes__fp4"] = folder[f"{UP1}.quant_state.bitsandbytes__nf4"]


@damage(BNB, "schemes", f"{UP1}: stored as FP4-64-DQ, planned as NF4-64-DQ")
def nf4_is_labelled_as_fp4(folder: Folder) -> None:
    folder.state(UP1, quant_type="fp4")
    relabel(folder, f"{UP1}.quant_state.bitsandbytes__nf4", f"{UP1}.quant_state.bitsandbytes__fp4")


@damage(BNB, "readable", UP1)
def the_state_has_another_block_size(folder: Folder) -> None:
    folder.state(UP1, blocksize=128)


@damage(BNB, "shapes", f"{UP1}: float32 [256, 768] instead of float32 [768, 256]")
def the_shape_in_the_state_is_turned(folder: Folder) -> None:
    folder.state(UP1, shape=[256, 768])


@damage(BNB, "quant_states", f"{UP1}.quant_state.bitsandbytes__nf4: ")
def the_state_has_another_dtype(folder: Folder) -> None:
    folder.state(UP1, dtype="float16")


@damage(BNB, "readable", "cannot be read")
def the_state_is_no_json(folder: Folder) -> None:
    folder[f"{UP1}.quant_state.bitsandbytes__nf4"][0] = ord("[")


@damage(BNB, "stored_arrays", f"{UP1}: 'I8 [98304, 1]' instead of 'U8 [98304, 1]'")
def the_codes_have_another_dtype(folder: Folder) -> None:
    folder.arrays[UP1].dtype = "I8"


@damage(BNB, "stored_arrays", f"{UP1}: 'U8 [1, 98304]' instead of 'U8 [98304, 1]'")
def the_codes_lie_in_a_row(folder: Folder) -> None:
    folder.arrays[UP1].shape = [1, 98304]


@damage(BNB, "error_bounds", K0)
def two_weights_of_one_shape_are_swapped(folder: Folder) -> None:
    exchange(folder, K0, K1)


@damage(BNB, "error_bounds", NORM)
def a_norm_is_off_by_one_bit(folder: Folder) -> None:
    folder[NORM].view("<u2")[0] ^= 1


# fp8: values


@damage(FP8, "schemes", f"{UP1}: stored as BF16, planned as FP8")
def a_weight_is_not_quantized(folder: Folder) -> None:
    leave_unquantized(folder)


@damage(FP8, "block_bounds", UP1)
def the_scales_of_two_rows_are_swapped(folder: Folder) -> None:
    swap(folder[UP1_SCALE], *extremes(folder[UP1_SCALE][:, 0].astype(np.float32)))


@damage(FP8, "error_bounds", UP1)
def the_scales_move_on_by_one_row(folder: Folder) -> None:
    folder[UP1_SCALE] = np.roll(folder[UP1_SCALE], 1, axis=0)


@damage(FP8, "error_bounds", UP1)
def the_scales_are_a_tenth_too_large(folder: Folder) -> None:
    folder[UP1_SCALE] = (folder[UP1_SCALE].astype(np.float32) * np.float32(1.1)).astype(ml_dtypes.bfloat16)


@damage(FP8, "block_bounds", f"{UP1}: row 7,")
def the_scale_of_one_row_is_twice_too_large(folder: Folder) -> None:
    folder[UP1_SCALE][7] *= 2


@damage(FP8, "error_bounds", UP1)
def the_scales_are_inverted(folder: Folder) -> None:
    folder[UP1_SCALE] = (1 / folder[UP1_SCALE].astype(np.float32)).astype(ml_dtypes.bfloat16)


@damage(FP8, "finite", f"{UP1}: 256 of 196608 values are NaN or infinite")
def the_scale_of_a_row_is_nan(folder: Folder) -> None:
    folder[UP1_SCALE][7] = np.nan


@damage(FP8, "finite", f"{UP1}: 1 of 196608 values are NaN or infinite")
def a_code_is_nan(folder: Folder) -> None:
    folder[UP1][3, 5] = 0x7F


@damage(FP8, "block_bounds", f"{UP1}: row 7,")
def the_scale_of_a_row_is_zero(folder: Folder) -> None:
    folder[UP1_SCALE][7] = 0


@damage(FP8, "error_bounds", UP1)
def the_rows_of_codes_are_shuffled(folder: Folder) -> None:
    folder[UP1] = shuffled(folder[UP1])


@damage(FP8, "error_bounds", O0)
def the_codes_of_a_square_weight_are_transposed(folder: Folder) -> None:
    folder[O0] = np.ascontiguousarray(folder[O0].T)


@damage(FP8, "block_bounds", f"{UP1}: row 7,")
def the_signs_of_a_row_are_flipped(folder: Folder) -> None:
    folder[UP1][7] ^= 0x80


@damage(FP8, "stored_arrays", f"{UP1}: 'F8_E5M2 [768, 256]' instead of 'F8_E4M3 [768, 256]'")
def the_codes_are_labelled_as_e5m2(folder: Folder) -> None:
    folder.arrays[UP1].dtype = "F8_E5M2"


@damage(FP8, "error_bounds", UP1)
def the_codes_are_labelled_as_another_e4m3(folder: Folder) -> None:
    folder.arrays[UP1].dtype = "F8_E4M3FNUZ"


@damage(FP8, "error_bounds", O0, scheme="FP8_BLOCK")
def the_scales_of_blocks_are_transposed(folder: Folder) -> None:
    scale = folder[f"{O0_MODULE}.weight_scale"]
    scale *= np.array([[1, 1.5], [1, 1]], np.float32).astype(scale.dtype)
    folder[f"{O0_MODULE}.weight_scale"] = np.ascontiguousarray(scale.T)


@damage(FP8, "block_bounds", UP1, scheme="FP8_NATIVE")
def the_scale_of_a_block_is_twice_too_large(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_scale_inv"][2, 1] *= 2


@damage(FP8, "error_bounds", UP1, scheme="NVFP4A16")
def the_nibbles_of_nvfp4_are_in_the_wrong_order(folder: Folder) -> None:
    packed = folder[f"{UP1_MODULE}.weight_packed"]
    folder[f"{UP1_MODULE}.weight_packed"] = (packed >> 4) | (packed << 4)


@damage(FP8, "error_bounds", UP1, scheme="NVFP4A16")
def the_scale_of_the_whole_tensor_is_halved(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_global_scale"] /= 2


@damage(FP8, "error_bounds", UP1, scheme="NVFP4A16")
def the_scale_of_the_whole_tensor_is_inverted(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_global_scale"] **= -1


@damage(FP8, "finite", UP1, scheme="NVFP4A16")
def the_scale_of_the_whole_tensor_is_nan(folder: Folder) -> None:
    folder[f"{UP1_MODULE}.weight_global_scale"][0] = np.nan


@damage(FP8, "shared_scales", f"{UP1_MODULE}.weight_global_scale: ", scheme="NVFP4A16")
def fused_modules_have_scales_of_their_own(folder: Folder) -> None:
    codes = folder[UP1_SCALE].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    folder[UP1_SCALE] = (codes / 2).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    folder[f"{UP1_MODULE}.weight_global_scale"] /= 2


@damage(FP8, "block_bounds", UP1, scheme="NVFP4A16")
def the_scales_of_two_groups_are_swapped(folder: Folder) -> None:
    scale = folder[UP1_SCALE].reshape(-1)
    swap(scale, *extremes(scale))


@damage(FP8, "error_bounds", UP1, scheme="MXFP4A16")
def the_exponents_are_one_too_high(folder: Folder) -> None:
    folder[UP1_SCALE] += 1


@damage(FP8, "finite", f"{UP1}: 32 of 196608 values are NaN or infinite", scheme="MXFP4A16")
def an_exponent_is_nan(folder: Folder) -> None:
    folder[UP1_SCALE][7, 3] = 255


@damage(FP8, "block_bounds", f"{UP1}: row 7, values 96 to 127", scheme="MXFP8")
def an_exponent_of_mxfp8_is_one_too_high(folder: Folder) -> None:
    folder[UP1_SCALE][7, 3] += 1


@damage(FP8, "error_bounds", UP1, scheme="MXFP8")
def the_exponents_of_mxfp8_are_shuffled(folder: Folder) -> None:
    folder[UP1_SCALE] = shuffled(folder[UP1_SCALE])


# fp8: the inventory and its labels


@damage(FP8, "tensors_present", f"{UP1}: not stored")
def a_weight_is_dropped(folder: Folder) -> None:
    drop(folder, *parts(folder, UP1))


@damage(FP8, "nothing_else", "model.layers.0.self_attn.q_proj.bias: not planned")
def a_bias_is_added(folder: Folder) -> None:
    folder.arrays["model.layers.0.self_attn.q_proj.bias"] = Array("F32", [256], np.zeros(256, np.float32))


@damage(FP8, "schemes", f"{UP1}: stored as F8_E4M3, planned as FP8")
def the_scales_of_a_weight_are_dropped(folder: Folder) -> None:
    drop(folder, UP1_SCALE)


@damage(FP8, "stored_arrays", f"{UP1_MODULE}.weight_scale_inv: nothing instead of 'F32 [6, 2]'", scheme="FP8_NATIVE")
def the_scales_have_the_name_of_another_layout(folder: Folder) -> None:
    relabel(folder, f"{UP1_MODULE}.weight_scale_inv", UP1_SCALE)


@damage(FP8, "stored_arrays", f"{UP1_SCALE}: 'F32 [768, 1]' instead of 'BF16 [768, 1]'")
def the_scales_have_another_dtype(folder: Folder) -> None:
    folder.arrays[UP1_SCALE] = Array("F32", [768, 1], folder[UP1_SCALE].astype(np.float32))


@damage(FP8, "readable", "do not fit")
def the_scales_are_those_of_columns(folder: Folder) -> None:
    folder.arrays[UP1_SCALE] = Array("BF16", [1, 256], folder[UP1_SCALE][:256].reshape(1, 256))


@damage(FP8, "shapes", f"{UP1}: float32 [256, 768] instead of float32 [768, 256]")
def the_shape_is_turned(folder: Folder) -> None:
    folder.arrays[UP1].shape = [256, 768]
    folder.arrays[UP1_SCALE] = Array("BF16", [256, 1], folder[UP1_SCALE][:256])


@damage(FP8, "error_bounds", K0)
def the_weights_of_two_blocks_are_swapped(folder: Folder) -> None:
    exchange(folder, K0, K1)


# Settings and files: the same for both


def set_key(path: str, value: Any) -> Damage:
    """Another value at a dotted path of config.json; None removes it."""

    def edit(folder: Folder) -> None:
        *parents, last = path.split(".")
        at = folder.config
        for key in parents:
            at = at[key]
        at[last] = value
        if value is None:
            del at[last]

    return edit


QC = "quantization_config"
GROUP = f"{QC}.config_groups.group_0"
SETTINGS: list[tuple[Method, dict[str, Any], str, Damage, str, str]] = [
    (BNB, {}, "8 bits are said", set_key(f"{QC}.load_in_4bit", False), QC, "load_in_4bit: False instead of True"),
    (BNB, {}, "fp4 is said", set_key(f"{QC}.bnb_4bit_quant_type", "fp4"), QC, "quant_type: 'fp4' instead of 'nf4'"),
    (BNB, {}, "doubling is denied", set_key(f"{QC}.bnb_4bit_use_double_quant", False), QC, "use_double_quant: False"),
    (BNB, {}, "another compute dtype", set_key(f"{QC}.bnb_4bit_compute_dtype", "float32"), QC, "compute_dtype: 'floa"),
    (BNB, {}, "another storage", set_key(f"{QC}.bnb_4bit_quant_storage", "bfloat16"), QC, "quant_storage: 'bfloat16'"),
    (BNB, {}, "nothing is skipped", set_key(f"{QC}.llm_int8_skip_modules", []), "skip_modules", "lm_head"),
    (
        *(BNB, {}, "a quantized module is skipped"),
        lambda folder: folder.config[QC]["llm_int8_skip_modules"].append(UP1_MODULE),
        *("skip_modules", f"{UP1_MODULE}: True instead of False"),
    ),
    (FP8, {}, "another format", set_key(f"{QC}.format", "int-quantized"), QC, "format: 'int-quantized' instead of"),
    (FP8, {}, "another width", set_key(f"{GROUP}.weights.num_bits", 4), QC, "weights.num_bits: 4 instead of 8"),
    (FP8, {}, "integers are said", set_key(f"{GROUP}.weights.type", "int"), QC, "weights.type: 'int' instead of"),
    (FP8, {}, "one scale is said", set_key(f"{GROUP}.weights.strategy", "tensor"), QC, "strategy: 'tensor' instead of"),
    (FP8, {}, "static activations", set_key(f"{GROUP}.input_activations.dynamic", False), QC, "activations.dynamic: F"),
    (FP8, {}, "4-bit activations", set_key(f"{GROUP}.input_activations.num_bits", 4), QC, "activations.num_bits: 4"),
    (FP8, {"scheme": "FP8A16"}, "activations appear", set_key(f"{GROUP}.input_activations", {"strategy": "token"}), QC,
     "input_activations.strategy: 'token' instead of nothing"),
    (FP8, {"scheme": "FP8_BLOCK"}, "other blocks", set_key(f"{GROUP}.weights.block_structure", [64, 64]), QC,
     "weights.block_structure: '[64, 64]' instead of '[128, 128]'"),
    (FP8, {"scheme": "FP8_NATIVE"}, "other native blocks", set_key(f"{QC}.weight_block_size", [64]), QC, "'[64]' inst"),
    (FP8, {}, "a cache scheme appears", set_key(f"{QC}.kv_cache_scheme", {"num_bits": 8}), QC, "kv_cache_scheme"),
    (FP8, {}, "a transform appears", set_key(f"{QC}.transform_config", {"u": {}}), QC, "transform_config"),
    (FP8, {}, "nothing is ignored", set_key(f"{QC}.ignore", []), "ignored_modules", "lm_head"),
    (FP8, {}, "all is ignored", lambda f: f.config[QC]["ignore"].append(UP1_MODULE), "ignored_modules", UP1_MODULE),
]  # fmt: skip

OF_THE_MODEL: dict[str, tuple[Damage, str, str]] = {
    "no quantization is said": (set_key(QC, None), "quantization_config", "quant_method: nothing instead of"),
    "another method is said": (set_key(f"{QC}.quant_method", "gptq"), "quantization_config", "quant_method: 'gptq'"),
    "a stale rope base": (set_key("rope_theta", 1e6), "config", "rope_theta: '1000000.0' instead of"),
    "stale heads": (set_key("num_key_value_heads", 4), "config", "num_key_value_heads: '4' instead of '2'"),
    "a forgotten tie": (set_key("tie_word_embeddings", None), "config", "tie_word_embeddings: nothing instead of"),
    "a foreign key": (set_key("auto_map", {"AutoModel": "x.py"}), "config", "auto_map: "),
    "a place of this machine": (set_key("_name_or_path", str(MILLSTONE)), "no_local_paths", "config.json: names the"),
}


def cut(folder: Folder) -> None:
    path = folder.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def blurred(folder: Folder) -> None:
    path = folder.path / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b'"model"', b'"modal"', 1))


FILES: dict[str, tuple[Damage, str, str]] = {
    "a truncated file": (cut, "readable", "model.safetensors"),
    "an empty file": (lambda f: (f.path / "model.safetensors").write_bytes(b""), "readable", "model.safetensors"),
    "no file": (lambda f: (f.path / "model.safetensors").unlink(), "readable", "must hold model.safetensors or"),
    "no tokenizer": (
        lambda f: (f.path / "tokenizer.json").unlink(),
        "carried_files",
        "tokenizer.json: nothing instead",
    ),
    "another tokenizer": (blurred, "carried_files", "tokenizer.json: "),
    "a foreign file": (lambda f: (f.path / "notes.txt").write_text("x"), "files", "notes.txt: not of this artifact"),
    "a pickle": (lambda f: (f.path / "pytorch_model.bin").write_text("x"), "files", "pytorch_model.bin: not of this"),
    "no settings": (lambda f: (f.path / "config.json").unlink(), "readable", "config.json cannot be read"),
    "an index beside one file": (
        lambda f: (f.path / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
        *("readable", "and not both"),
    ),
}
CORRUPTIONS |= {f"{method.name} {name}": (method, params, *rest) for method, params, name, *rest in SETTINGS}  # type: ignore[misc]
CORRUPTIONS |= {f"{m.name} {name}": (m, {}, *rest) for m in (BNB, FP8) for name, rest in OF_THE_MODEL.items()}


def copied(made: Made, method: Method, params: Mapping[str, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.artifact(method, params), tmp_path / "artifact"))


@pytest.mark.parametrize(("method", "params", "edit", "check", "named"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_damaged_folder_is_refused_by_the_check_that_names_it(
    millstone: Made,
    tmp_path: Path,
    method: Method,
    params: Mapping[str, Any],
    edit: Damage,
    check: str,
    named: str,
) -> None:
    folder = Folder(copied(millstone, method, params, tmp_path))
    edit(folder)
    folder.save()

    found = millstone.failed_checks(method, params, folder.path)

    assert check in found, found
    assert named in found[check]


@pytest.mark.parametrize("method", [BNB, FP8], ids=lambda method: method.name)
@pytest.mark.parametrize(("edit", "check", "named"), FILES.values(), ids=FILES)
def test_a_folder_with_other_files_is_refused(
    millstone: Made, tmp_path: Path, method: Method, edit: Damage, check: str, named: str
) -> None:
    folder = Folder(copied(millstone, method, {}, tmp_path))
    edit(folder)

    found = millstone.failed_checks(method, {}, folder.path)

    assert check in found, found
    assert named in found[check]


# Shards

INDEX = "model.safetensors.index.json"


def a_stale_index(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][NORM] = min(index["weight_map"].values())
    (folder / INDEX).write_text(json.dumps(index))


def a_missing_shard(folder: Path) -> None:
    next(folder.glob("model-00002-*")).unlink()


def a_truncated_shard(folder: Path) -> None:
    shard = next(folder.glob("model-00002-*"))
    shard.write_bytes(shard.read_bytes()[:-100])


def a_tensor_in_two_shards(folder: Path) -> None:
    one, two = next(folder.glob("model-00001-*")), next(folder.glob("model-00002-*"))
    two.write_bytes(one.read_bytes())


@pytest.mark.parametrize("method", [BNB, FP8], ids=lambda method: method.name)
@pytest.mark.parametrize("edit", [a_stale_index, a_missing_shard, a_truncated_shard, a_tensor_in_two_shards])
def test_damaged_shards_are_refused(
    millstone: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method, edit: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(model_folder, "SHARD_BYTES", 1_500_000)
    run = millstone.run(method, {})
    run.write(run.quantize(threads=2), tmp_path / "artifact")
    assert millstone.failed_checks(method, {}, tmp_path / "artifact") == {}

    edit(tmp_path / "artifact")

    assert "readable" in millstone.failed_checks(method, {}, tmp_path / "artifact")
