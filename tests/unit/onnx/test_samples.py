"""Which .npz files are samples for a graph, and what is said of the others."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.onnx import OnnxGraph, read_graph
from quantmill_onnx.samples import read_samples

IDS, MASK = np.arange(12, dtype=np.int64).reshape(4, 3), np.ones((4, 3), np.float32)
GOOD = {"ids": IDS, "mask": MASK}


def graph_of(*inputs: tuple[str, int, Any]) -> OnnxGraph:
    made = helper.make_graph(
        [helper.make_node("Identity", [inputs[0][0]], ["y"])],
        "inputs",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info("y", inputs[0][1], None)],
    )
    data = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return read_graph(memoryview(data), Path("model.onnx"))


@pytest.fixture(scope="module")
def graph() -> OnnxGraph:
    return graph_of(("ids", TensorProto.INT64, ["batch", "n"]), ("mask", TensorProto.FLOAT, ["batch", "n"]))


def test_each_row_is_a_sample_of_its_own(graph: OnnxGraph, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "s.npz", **GOOD)

    feeds = list(read_samples(tmp_path / "s.npz", graph).feeds())

    assert [feed["ids"].tolist() for feed in feeds] == [[[0, 1, 2]], [[3, 4, 5]], [[6, 7, 8]], [[9, 10, 11]]]
    assert [feed["mask"].shape for feed in feeds] == [(1, 3)] * 4


def test_a_graph_of_a_fixed_batch_takes_as_many_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", ids=IDS)

    samples = read_samples(tmp_path / "s.npz", graph_of(("ids", TensorProto.INT64, [2, 3])))

    assert (samples.count, [feed["ids"].shape for feed in samples.feeds()]) == (2, [(2, 3), (2, 3)])


def test_sizes_that_exporters_leave_open_take_any(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", ids=IDS)

    assert read_samples(tmp_path / "s.npz", graph_of(("ids", TensorProto.INT64, [-1, 0]))).count == 4


def test_inputs_without_a_common_leading_axis_are_one_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", ids=IDS, scale=np.array(2, np.float32))

    samples = read_samples(
        tmp_path / "s.npz", graph_of(("ids", TensorProto.INT64, ["batch", 3]), ("scale", TensorProto.FLOAT, []))
    )

    assert (samples.count, next(samples.feeds())["ids"].shape) == (1, (4, 3))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"ids": IDS}, "no array 'mask'"),
        ({**GOOD, "extra": IDS}, "no input 'extra'"),
        ({**GOOD, "ids": IDS.astype(np.int32)}, "'ids' has int32, the graph takes int64"),
        ({**GOOD, "ids": IDS.astype(">i8")}, "'ids' has >i8"),
        ({**GOOD, "ids": IDS.reshape(4, 3, 1)}, "'ids' has the shape"),
        ({**GOOD, "mask": np.ones((4, 5), np.float32)}, "'mask' has the shape"),
        ({**GOOD, "mask": MASK[:2]}, r"different numbers of samples: \[2, 4\]"),
        ({"ids": IDS[:0], "mask": MASK[:0]}, "no samples"),
        ({**GOOD, "ids": np.asfortranarray(IDS)}, "column by column"),
        ({**GOOD, "ids": np.array([[object()] * 3] * 4)}, "does not hold what its header says"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    graph: OnnxGraph, tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "s.npz", **arrays)

    with pytest.raises(ParamsRejected, match=said) as caught:
        read_samples(tmp_path / "s.npz", graph)
    assert caught.value.fields["errors"][0]["pointer"] == "/params/samples"


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def zipped(packed: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


HUGE = npy(IDS).replace(b"(4, 3), }   ", b"(4000, 3), }")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip",
        zipped(ids=b"no npy", mask=npy(MASK)),
        zipped(ids=npy(IDS)[:-1], mask=npy(MASK)),
        zipped(ids=npy(IDS) + b"more", mask=npy(MASK)),
        zipped(ids=HUGE, mask=npy(MASK)),
        zipped(ids=npy(IDS), mask=npy(MASK))[:-30],
        zipped(ids=npy(IDS), mask=npy(MASK)).replace(b"ids.npy", b"ids.bin"),
    ],
    ids=["empty", "no zip", "no npy", "cut off", "too long", "a header that lies", "a zip cut off", "another file"],
)
def test_what_is_no_npz_file_is_refused(graph: OnnxGraph, tmp_path: Path, data: bytes) -> None:
    assert npy(IDS) != HUGE
    (tmp_path / "s.npz").write_bytes(data)

    with pytest.raises(ParamsRejected, match="samples: "):
        read_samples(tmp_path / "s.npz", graph)


def npy_of(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': (",
        b"-" * 9000 + b"1",
        b"{[]: 1}",
        b"  x\n y",
        b"{'descr': ((),), 'fortran_order': False, 'shape': (1,)}",
    ],
    ids=["cut off", "deep", "a list as a key", "indented", "another dtype"],
)
def test_a_header_that_numpy_stumbles_over_is_refused(graph: OnnxGraph, tmp_path: Path, header: bytes) -> None:
    (tmp_path / "s.npz").write_bytes(zipped(ids=npy_of(header), mask=npy(MASK)))

    with pytest.raises(ParamsRejected, match="'ids' has a header that can't be read"):
        read_samples(tmp_path / "s.npz", graph)


@pytest.mark.parametrize("packed", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_arrays_that_numpy_would_not_have_packed_so_are_refused(graph: OnnxGraph, tmp_path: Path, packed: int) -> None:
    (tmp_path / "s.npz").write_bytes(zipped(packed, ids=npy(IDS), mask=npy(MASK)))

    with pytest.raises(ParamsRejected, match=r"'ids\.npy' in it is packed otherwise than numpy does"):
        read_samples(tmp_path / "s.npz", graph)


def test_a_file_that_is_not_there_is_refused(graph: OnnxGraph, tmp_path: Path) -> None:
    with pytest.raises(ParamsRejected, match="can be read"):
        read_samples(tmp_path / "s.npz", graph)


def test_values_that_are_not_finite_end_the_job(graph: OnnxGraph, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", ids=IDS, mask=MASK * np.nan)

    with pytest.raises(SourceRejected, match="mask has values that are not finite"):
        list(read_samples(tmp_path / "s.npz", graph).feeds())
