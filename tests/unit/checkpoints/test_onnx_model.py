"""ONNX models as sources: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.onnx_models import SmallModel, one_product, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import QuantmillError, SourceRejected


@pytest.mark.parametrize("external", ["", "weights.bin"])
def test_weights_are_read_as_they_are_stored(tmp_path: Path, external: str) -> None:
    model = SmallModel(external=external)

    with open_checkpoint(model.write(tmp_path / "model")) as checkpoint:
        found = {name: checkpoint.tensor(name).values for name in checkpoint.index.tensors}

    expected = {name: values for name, values in model.weights().items() if values.nbytes > 1024}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert not any(values.flags.writeable for values in found.values())


def test_packed_floats_are_read_as_raw_data_is(tmp_path: Path) -> None:
    model = one_product()
    values = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", 1, values.shape, values.ravel()))

    with open_checkpoint(save(model, tmp_path / "model")) as checkpoint:
        assert np.array_equal(checkpoint.tensor("w").values, values)


def test_the_digest_covers_the_external_data(tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        with open_checkpoint(folder) as checkpoint:
            return checkpoint.source_digest()

    folder = SmallModel(external="weights.bin").write(tmp_path / "model")
    before = digest(folder)
    data = bytearray((folder / "weights.bin").read_bytes())
    data[100] ^= 1
    (folder / "weights.bin").write_bytes(data)

    assert digest(folder) != before


def test_the_tokenizer_and_the_config_belong_to_the_model(tmp_path: Path) -> None:
    folder = SmallModel().write(tmp_path / "model")
    for name in ("tokenizer.json", "config.json"):
        (folder / name).write_text("{}")

    with open_checkpoint(folder) as checkpoint:
        assert sorted(checkpoint.index.files) == ["config.json", "tokenizer.json"]


def test_names_used_in_a_graph_within_a_node_are_seen(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["inner"])],
        "branch",
        [],
        [helper.make_empty_tensor_value_info("inner")],
    )
    model = one_product()
    node = helper.make_node("If", ["choice"], ["z"], name="if", then_branch=branch, else_branch=branch)
    model.graph.node.append(node)

    with open_checkpoint(save(model, tmp_path / "model")) as checkpoint:
        assert checkpoint.index.graph is not None
        assert checkpoint.index.graph.nodes[1].captured == {"x", "w", "inner"}


# Refusals


def relocated(key: str, value: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        SmallModel(external="weights.bin").write(folder)
        model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = value
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return edit


def text(folder: Path) -> None:
    (folder / "model.onnx").write_text("this is no model, but text that is long enough")


def empty(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def cut_off(folder: Path) -> None:
    data = SmallModel().proto().SerializeToString()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


def short_data(folder: Path) -> None:
    SmallModel(external="weights.bin").write(folder)
    data = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(data[:-4096])


def no_data(folder: Path) -> None:
    SmallModel(external="weights.bin").write(folder)
    (folder / "weights.bin").unlink()


def link(folder: Path) -> None:
    no_data(folder)
    (folder / "weights.bin").symlink_to("/dev/zero")


def several(folder: Path) -> None:
    SmallModel().write(folder)
    (folder / "other.onnx").write_bytes(b"")


def twice(folder: Path) -> None:
    model = one_product()
    model.graph.initializer.append(model.graph.initializer[0])
    save(model, folder)


def misshapen(folder: Path) -> None:
    model = one_product()
    model.graph.initializer[0].dims[0] = 65
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def enormous(folder: Path) -> None:
    model = one_product()
    model.graph.initializer[0].dims[:] = [2**40, 2**40]
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def many_dimensions(folder: Path) -> None:
    model = one_product()
    model.graph.initializer[0].dims[:] = [1] * 1_000
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def many_open_dimensions(folder: Path) -> None:
    model = one_product()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None] * 65))
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def constants_only(folder: Path) -> None:
    save(one_product(weight=np.ones((2, 2), np.float32)), folder)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (text, "model.onnx is not an ONNX model"),
    "empty": (empty, "model.onnx is empty"),
    "cut off": (cut_off, "bytes, "),
    "external data missing": (no_data, "weights.bin cannot be opened"),
    "external data cut off": (short_data, "weights.bin has"),
    "external data a link": (link, "weights.bin is a link that leaves the model folder"),
    "external data above": (relocated("location", "../weights.bin"), "Only plain names of files in the same folder"),
    "external data anywhere": (relocated("location", "/etc/passwd"), "Only plain names of files in the same folder"),
    "external data nowhere": (relocated("location", ""), "lies in a file that has no name"),
    "offset beyond the end": (relocated("offset", "999999999"), "would end at byte"),
    "offset below zero": (relocated("offset", "-64"), "of its file"),
    "another length": (relocated("length", "12"), "has 12 bytes instead of"),
    "several models": (several, "2 ONNX models ('model.onnx', 'other.onnx')"),
    "a name twice": (twice, "'w' is empty or there twice"),
    "too few values": (misshapen, "has 8192 bytes instead of 8320"),
    "too many values": (enormous, "has the shape"),
    "many dimensions": (many_dimensions, "an initializer has more than 16 dimensions"),
    "many open dimensions": (many_open_dimensions, "a value has more than 64 dimensions"),
    "no weights": (constants_only, "holds no weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_be_read_safely_is_refused_and_says_why(tmp_path: Path, case: str) -> None:
    edit, named = REFUSED[case]
    (tmp_path / "model").mkdir()
    edit(tmp_path / "model")

    with pytest.raises(SourceRejected) as refused:
        open_checkpoint(tmp_path / "model")

    assert named in refused.value.detail


def test_no_damage_of_a_single_byte_ends_in_another_error(tmp_path: Path) -> None:
    data = SmallModel(vocab=30, blocks=1).proto().SerializeToString()
    generator = np.random.default_rng(0)
    (tmp_path / "model").mkdir()

    for position in generator.integers(0, len(data), 150):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(generator.integers(0, 8))
        (tmp_path / "model" / "model.onnx").write_bytes(damaged)
        try:
            with open_checkpoint(tmp_path / "model") as checkpoint:
                for name in checkpoint.index.tensors:
                    checkpoint.tensor(name)
        except QuantmillError:
            pass
