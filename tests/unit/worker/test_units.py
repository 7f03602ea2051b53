"""Finished units on disk."""

import os
import stat

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import load_file

from quantmill.contract.errors import PluginBroken
from quantmill.contract.placement import Place, Placement, WeightFile
from quantmill.contract.tensors import PieceByPiece, Plan, QuantizedTensor, TensorPlan, Unit
from quantmill.worker.messages import FinishedUnit
from quantmill.worker.pipeline import kept
from quantmill.worker.units import PlacedUnits, UnitFiles, read_unit, write_unit

PACKED = np.arange(36, dtype=np.uint8).reshape(2, 18)
SCALES = np.array([0.5, 0.25], np.float16)


def unit():
    return [
        QuantizedTensor("q", "Q4_0", (2, 32), {"packed": PACKED}),
        QuantizedTensor("k", "nf4", (2, 32), {"packed": PACKED[:, :16], "scales": SCALES}),
    ]


def test_a_unit_is_read_back_as_it_was_written(tmp_path):
    write_unit(unit(), tmp_path / "unit.safetensors")

    q, k = read_unit(tmp_path / "unit.safetensors")

    assert (q.name, q.scheme, q.shape) == ("q", "Q4_0", (2, 32))
    assert (k.name, k.scheme, k.shape) == ("k", "nf4", (2, 32))
    np.testing.assert_array_equal(q.parts["packed"], PACKED)
    np.testing.assert_array_equal(k.parts["packed"], PACKED[:, :16])
    np.testing.assert_array_equal(k.parts["scales"], SCALES)


def test_the_same_unit_gives_the_same_bytes(tmp_path):
    write_unit(unit(), tmp_path / "a")
    write_unit(unit(), tmp_path / "b")

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_unit_file_is_plain_safetensors(tmp_path):
    write_unit(unit(), tmp_path / "unit.safetensors")

    assert sorted(load_file(tmp_path / "unit.safetensors")) == ["0/packed", "1/packed", "1/scales"]


def test_a_unit_whose_tensors_are_all_dropped_is_empty(tmp_path):
    write_unit([], tmp_path / "unit.safetensors")

    assert list(read_unit(tmp_path / "unit.safetensors")) == []


PLAN = Plan(
    (
        TensorPlan("q", (2, 32), "F32", "quantize", "Q4_0", "q", 36),
        TensorPlan("k", (2, 32), "F32", "quantize", "nf4", "k", 36),
    ),
    (Unit("first", ("q",)), Unit("second", ("k",))),
    0,
)
# head, k's scales, q, two bytes of nothing, k's codes
PLACEMENT = Placement(
    {"model.bin": WeightFile(b"HEAD", 78)},
    {
        "q": (Place("packed", "q", "model.bin", 8, 36),),
        "k": (Place("scales", "k.scales", "model.bin", 4, 4), Place("packed", "k", "model.bin", 46, 32)),
    },
    {"config.json": b"{}"},
)
WHOLE = b"HEAD" + SCALES.tobytes() + PACKED.tobytes() + bytes(2) + PACKED[:, :16].tobytes()


@pytest.fixture(params=["placed", "files"])
def stores(request, tmp_path):
    """Opens the store of one job's units, once for each attempt."""

    def write(tensors, folder):
        (folder / "model.bin").write_bytes(b"".join(tensor.name.encode() for tensor in tensors))
        return [folder / "model.bin"]

    def opened():
        root = tmp_path / "units"
        return PlacedUnits(root, PLAN, PLACEMENT) if request.param == "placed" else UnitFiles(root, PLAN, write)

    return opened


def test_a_later_attempt_holds_what_an_earlier_one_has_put(stores):
    earlier = stores().put("first", unit()[:1])

    later = stores()

    assert later.holds(earlier)
    assert not later.holds(FinishedUnit(key="first", digest=f"sha256:{0:064}", size=earlier.size))


def test_a_unit_that_was_damaged_since_is_not_held(stores, tmp_path):
    earlier = stores().put("first", unit()[:1])
    for path in (tmp_path / "units").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes().replace(PACKED.tobytes(), bytes(36)))

    assert not stores().holds(earlier)


def test_units_of_two_attempts_make_one_artifact(stores, tmp_path):
    earlier = stores().put("second", unit()[1:])
    later = stores()
    assert later.holds(earlier)
    later.put("first", unit()[:1])

    written = later.export(tmp_path / "artifact")

    assert all(path.is_file() for path in written)
    assert (tmp_path / "artifact/model.bin").read_bytes() in {WHOLE, b"qk"}


def placed(tmp_path):
    return PlacedUnits(tmp_path / "units", PLAN, PLACEMENT)


def test_the_digest_of_a_placed_unit_is_blake3_over_its_parts_in_the_order_of_their_places(tmp_path):
    put = placed(tmp_path).put("second", unit()[1:])

    assert put.digest == f"blake3:{blake3(SCALES.tobytes() + PACKED[:, :16].tobytes()).hexdigest()}"


def test_placed_units_stand_on_the_disk_once(tmp_path):
    store = placed(tmp_path)
    for key, tensor in zip(("second", "first"), unit()[::-1], strict=True):
        store.put(key, [tensor])

    store.export(tmp_path / "artifact")

    assert (tmp_path / "artifact/model.bin").read_bytes() == WHOLE
    assert (tmp_path / "artifact/model.bin").samefile(tmp_path / "units/placed/model.bin")
    assert (tmp_path / "artifact/config.json").read_bytes() == b"{}"


def test_a_tensor_that_is_made_piece_by_piece_is_written_piece_by_piece(tmp_path):
    asked = []

    def make(piece):
        asked.append(piece)
        return [{"scales": SCALES}, {"packed": PACKED[:, :16]}][piece]

    store = placed(tmp_path)
    in_pieces = QuantizedTensor("k", "nf4", (2, 32), PieceByPiece([["scales"], ["packed"]], make, 36))
    unit_ = store.put("second", [in_pieces])

    assert asked == [0, 1]
    assert unit_ == store.put("second", unit()[1:])


def test_without_links_placed_units_are_copied(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    store = placed(tmp_path)
    for key, tensor in zip(("first", "second"), unit(), strict=True):
        store.put(key, [tensor])

    store.export(tmp_path / "artifact")

    assert (tmp_path / "artifact/model.bin").read_bytes() == WHOLE


def test_a_file_that_has_become_a_blob_is_never_written_to_again(tmp_path):
    published = placed(tmp_path)
    unit_ = published.put("first", unit()[:1])
    published.export(tmp_path / "artifact")
    blob = tmp_path / "blob"
    (tmp_path / "artifact/model.bin").rename(blob)
    blob.chmod(0o444)

    later = placed(tmp_path)
    later.put("second", unit()[1:])

    assert later.holds(unit_)
    assert blob.read_bytes() != WHOLE
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444


@pytest.mark.parametrize("parts", [{"packed": PACKED[:, :2]}, {"other": PACKED}, {}])
def test_a_tensor_that_does_not_fit_its_places_is_refused(tmp_path, parts):
    with pytest.raises(PluginBroken, match="q"):
        placed(tmp_path).put("first", [QuantizedTensor("q", "Q4_0", (2, 32), parts)])


@pytest.mark.parametrize("threads", [1, 3])
def test_units_are_given_in_their_order_once_they_are_kept(tmp_path, threads):
    store = UnitFiles(tmp_path / "units", PLAN, lambda *_: [])
    units = [(str(number), unit()) for number in range(20)]

    given = list(kept(iter(units), store, threads))

    assert [one.key for one in given] == [str(number) for number in range(20)]
    assert all(store.holds(one) for one in given)


def test_a_unit_that_cannot_be_kept_ends_the_job(tmp_path):
    with pytest.raises(PluginBroken):
        list(kept(iter([("first", [QuantizedTensor("q", "Q4_0", (2, 32), {})])] * 3), placed(tmp_path), 2))
