"""Verification against artifacts that went wrong in each of the ways that it must notice.

The method of these tests keeps every tensor as float16 in a safetensors file, which is read back by the
safetensors library: enough to be a real method, and nothing of it is shared with the check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from safetensors.numpy import load_file, save_file

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import Canceled, VerificationFailed
from quantmill.contract.method import Method, lazy
from quantmill.contract.reading import BlockBound, Inspection, Observation, ReadTensor
from quantmill.contract.tensors import Plan, TensorPlan, Unit
from quantmill.verification import Verification, verify
from quantmill.verification.hygiene import local_paths

BOUND = 1e-3
SOURCE = {
    "embed": np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32),
    "norm": np.ones(32, np.float32),
    "proj": np.random.default_rng(2).standard_normal((32, 32)).astype(np.float32),
    "rotary": np.ones(4, np.float32),
}
FILE = "model.safetensors"


class NoParams(BaseModel):
    pass


def read_half(folder: Path, names: object = None) -> Iterator[ReadTensor]:
    for name, values in load_file(folder / FILE).items():
        yield ReadTensor(name, "F16", 2 * values.size, values.astype(np.float32))


class given(lazy[Any]):  # noqa: N801
    """A `lazy` that already holds its function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__("")
        object.__setattr__(self, "function", function)

    def load(self) -> Any:
        return self.function


def method_reading(read: Callable[[Path], Iterator[ReadTensor]]) -> Method:
    return Method(
        name="half",
        version="1",
        summary="keeps tensors as float16",
        params=NoParams,
        plan=lazy(""),
        quantize=lazy(""),
        write=lazy(""),
        read=given(read),
        formats=("safetensors",),
        architectures=("A",),
        error_bounds={"F16": BOUND},
        block_bounds={"F16": BlockBound(32, 10.0)},
        runtimes=(),
    )


METHOD = method_reading(read_half)


def planned(name: str, action: Any = "keep", reason: str = "kept") -> TensorPlan:
    values = SOURCE[name]
    return TensorPlan(
        name, values.shape, "F32", action, "F16", name, 0 if action == "drop" else 2 * values.size, reason
    )


PLAN = Plan(
    tensors=(planned("embed"), planned("norm"), planned("proj"), planned("rotary", "drop", "computed on load")),
    units=(Unit("all", tuple(SOURCE)),),
    peak_memory_bytes=0,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["A"]}))
    save_file(SOURCE, folder / FILE)
    with open_checkpoint(folder) as opened:
        yield opened


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    write(folder, {})
    return folder


def write(folder: Path, changes: Mapping[str, np.ndarray | None]) -> None:
    """The artifact as it should be, but for `changes`; None leaves a tensor out."""
    right = {name: SOURCE[name].astype(np.float16) for name in ("embed", "norm", "proj")}
    save_file({name: values for name, values in {**right, **changes}.items() if values is not None}, folder / FILE)


def failed_checks(checkpoint: Checkpoint, artifact: Path, plan: Plan = PLAN, method: Method = METHOD) -> dict[str, str]:
    with pytest.raises(VerificationFailed) as failed:
        verify(checkpoint, plan, method, NoParams(), artifact)
    failures = failed.value.fields["failed"]
    assert failed.value.detail.startswith(failures[0]["name"])  # what is wrong at all is the problem's title
    return {check["name"]: check["detail"] for check in failures}


def test_a_right_artifact_passes_every_check(checkpoint: Checkpoint, artifact: Path) -> None:
    verification = verify(checkpoint, PLAN, METHOD, NoParams(), artifact)

    assert [check.name for check in verification.checks] == [
        "plain_files",
        "portable_files",
        "files",
        "no_local_paths",
        "source_covered",
        "drops_explained",
        "readable",
        "tensors_present",
        "tensors_unique",
        "nothing_else",
        "schemes",
        "stored_bytes",
        "shapes",
        "finite",
        "quantized",
        "error_bounds",
        "slopes",
        "block_bounds",
        "size",
    ]
    assert all(check.passed for check in verification.checks)
    assert [tensor.name for tensor in verification.tensors] == ["embed", "norm", "proj"]


def test_the_errors_are_those_of_the_definition(checkpoint: Checkpoint, artifact: Path) -> None:
    wrong = SOURCE["norm"].copy()
    wrong[:8] += 0.0005
    write(artifact, {"norm": wrong})

    verification = verify(checkpoint, PLAN, METHOD, NoParams(), artifact)

    norm = verification.tensors[1]
    assert norm.max_abs_error == pytest.approx(0.0005, rel=1e-3)
    assert norm.relative_rmse == pytest.approx(0.00025, rel=1e-3)  # a quarter of the values is off by 0.0005 of 1
    assert verification.max_abs_error == max(tensor.max_abs_error for tensor in verification.tensors)
    read = np.concatenate(
        [SOURCE["embed"].ravel().astype(np.float16), wrong, SOURCE["proj"].ravel().astype(np.float16)]
    )
    source = np.concatenate([SOURCE[name].ravel() for name in ("embed", "norm", "proj")]).astype(np.float64)
    expected = np.sqrt(((read - source) ** 2).sum() / (source**2).sum())
    assert verification.relative_rmse == pytest.approx(expected, rel=1e-6)


def test_errors_are_summed_over_all_chunks(tmp_path: Path, artifact: Path) -> None:
    values = np.ones((700, 1000), np.float32)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text('{"architectures": ["A"]}')
    save_file({"w": values}, tmp_path / "large" / FILE)
    plan = Plan((TensorPlan("w", (700, 1000), "F32", "keep", "F16", "w", 1_400_000),), (), 0)
    wrong = values.astype(np.float16)
    wrong[-1, -1] = 1.5
    save_file({"w": wrong}, artifact / FILE)

    with open_checkpoint(tmp_path / "large") as checkpoint:
        verification = verify(checkpoint, plan, METHOD, NoParams(), artifact)

    assert verification.max_abs_error == 0.5
    assert verification.relative_rmse == pytest.approx(0.5 / np.sqrt(700_000))


def test_a_verification_can_be_kept_as_json(checkpoint: Checkpoint, artifact: Path) -> None:
    verification = verify(checkpoint, PLAN, METHOD, NoParams(), artifact)

    kept = json.loads(json.dumps(verification.to_json(), allow_nan=False))

    assert kept["passed"] is True
    assert kept["tensors"][1] == {
        "name": "norm",
        "scheme": "F16",
        "values": 32,
        "relative_rmse": 0.0,
        "max_abs_error": 0.0,
        "worst_block": 0.0,
    }


def test_the_metrics_are_those_of_the_files(checkpoint: Checkpoint, artifact: Path) -> None:
    metrics = {metric.name: metric for metric in verify(checkpoint, PLAN, METHOD, NoParams(), artifact).metrics()}

    nbytes = (artifact / FILE).stat().st_size
    assert metrics["size"].value == nbytes
    assert metrics["file_bits_per_weight"].value == 8 * nbytes / (64 * 32 + 32 + 32 * 32)
    assert metrics["relative_rmse"].n == 3
    assert set(metrics) == {"relative_rmse", "max_abs_error", "file_bits_per_weight", "size"}


def test_progress_counts_the_tensors(checkpoint: Checkpoint, artifact: Path) -> None:
    seen: list[tuple[int, int]] = []

    verify(checkpoint, PLAN, METHOD, NoParams(), artifact, lambda done, total: seen.append((done, total)))

    assert seen == [(1, 3), (2, 3), (3, 3)]


HALF = {name: values.astype(np.float16) for name, values in SOURCE.items()}


def with_value(name: str, value: float) -> np.ndarray:
    changed = HALF[name].copy()
    changed.reshape(-1)[-1] = value
    return changed


CORRUPTIONS: dict[str, tuple[dict[str, np.ndarray | None], dict[str, str]]] = {
    "dropped": ({"proj": None, "extra_bytes": None}, {"tensors_present": "proj: not stored"}),
    "extra": ({"mtp": HALF["norm"]}, {"nothing_else": "mtp: not planned"}),
    "meant to be dropped": ({"rotary": HALF["rotary"]}, {"nothing_else": "rotary: planned to be left out"}),
    "NaN": ({"proj": with_value("proj", np.nan)}, {"finite": "proj: 1 of 1024 values are NaN or infinite"}),
    "infinity": ({"embed": with_value("embed", -np.inf)}, {"finite": "embed: 1 of 2048 values are NaN or infinite"}),
    "other shape": (
        {"proj": HALF["proj"].reshape(64, 16)},
        {"shapes": "proj: float32 [64, 16] instead of float32 [32, 32]"},
    ),
    "transposed": (
        {"embed": HALF["embed"].T.copy()},
        {"shapes": "embed: float32 [32, 64] instead of float32 [64, 32]"},
    ),
    "rows shuffled": ({"proj": HALF["proj"][::-1].copy()}, {"error_bounds": "proj: relative RMSE 1."}),
    "square transposed": ({"proj": HALF["proj"].T.copy()}, {"error_bounds": "proj: relative RMSE 1."}),
    "scaled": ({"proj": HALF["proj"] * np.float16(1.01)}, {"error_bounds": "proj: relative RMSE 0.0097"}),
    "zeros": ({"proj": 0 * HALF["proj"]}, {"error_bounds": "proj: relative RMSE 1, at most 0.001 for F16"}),
    "one row lost": (
        {"embed": np.concatenate([HALF["embed"][:63], np.zeros((1, 32), np.float16)])},
        {"error_bounds": "embed: relative RMSE 0.1"},
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_wrong_artifact_is_refused_by_the_check_that_names_it(
    checkpoint: Checkpoint, artifact: Path, changes: dict[str, np.ndarray | None], expected: dict[str, str]
) -> None:
    write(artifact, changes)

    failed = failed_checks(checkpoint, artifact)

    failed.pop("size", None)
    assert failed.keys() == expected.keys()
    for name, detail in expected.items():
        assert failed[name].startswith(detail)


def test_a_truncated_file_is_unreadable(checkpoint: Checkpoint, artifact: Path) -> None:
    (artifact / FILE).write_bytes((artifact / FILE).read_bytes()[:-100])

    failed = failed_checks(checkpoint, artifact)

    assert failed["readable"].startswith("files: SafetensorError: ")
    assert failed["tensors_present"] == "embed: not stored; norm: not stored; proj: not stored"


def test_a_missing_file_is_unreadable(checkpoint: Checkpoint, artifact: Path) -> None:
    (artifact / FILE).unlink()

    assert "FileNotFoundError" in failed_checks(checkpoint, artifact)["readable"]


def test_a_tensor_that_is_stored_twice_is_refused(checkpoint: Checkpoint, artifact: Path) -> None:
    def read_twice(folder: Path) -> Iterator[ReadTensor]:
        yield from read_half(folder)
        yield from read_half(folder)

    failed = failed_checks(checkpoint, artifact, method=method_reading(read_twice))

    assert failed == {
        "tensors_unique": "embed: stored more than once; norm: stored more than once; proj: stored more than once"
    }


def test_a_tensor_of_another_dtype_is_refused(checkpoint: Checkpoint, artifact: Path) -> None:
    def read_as_stored(folder: Path) -> Iterator[ReadTensor]:
        for name, values in load_file(folder / FILE).items():
            yield ReadTensor(name, "F16", 2 * values.size, values)

    failed = failed_checks(checkpoint, artifact, method=method_reading(read_as_stored))

    assert "norm: float16 [32] instead of float32 [32]" in failed["shapes"]


def test_files_that_are_too_large_are_refused(checkpoint: Checkpoint, artifact: Path) -> None:
    (artifact / "forgotten.bin").write_bytes(bytes(100_000))

    failed = failed_checks(checkpoint, artifact)

    assert list(failed) == ["size"]
    assert failed["size"].endswith(" bytes were written, planned were 6208 to 75840")


def test_a_method_that_compressed_nothing_is_refused_for_its_size(tmp_path: Path, artifact: Path) -> None:
    values = np.ones((256, 1024), np.float32)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text('{"architectures": ["A"]}')
    save_file({"w": values}, tmp_path / "large" / FILE)
    plan = Plan((TensorPlan("w", values.shape, "F32", "quantize", "F16", "w", 524_288),), (), 0)
    save_file({"w": values}, artifact / FILE)

    with open_checkpoint(tmp_path / "large") as checkpoint:
        assert list(failed_checks(checkpoint, artifact, plan)) == ["size"]


def test_files_smaller_than_their_tensors_are_refused(checkpoint: Checkpoint, artifact: Path) -> None:
    plan = replace(PLAN, tensors=(replace(PLAN.tensors[0], nbytes=8192), *PLAN.tensors[1:]))

    assert list(failed_checks(checkpoint, artifact, plan)) == ["stored_bytes", "size"]


def test_a_scheme_without_a_bound_is_refused(checkpoint: Checkpoint, artifact: Path) -> None:
    method = replace(METHOD, error_bounds={})

    assert (
        "norm: the method states no bound for F16" in failed_checks(checkpoint, artifact, method=method)["error_bounds"]
    )


@pytest.mark.parametrize(
    ("tensors", "check", "detail"),
    [
        (PLAN.tensors[:3], "source_covered", "rotary: not in the plan"),
        ((*PLAN.tensors, PLAN.tensors[0]), "source_covered", "plan: names a tensor twice"),
        (
            (*PLAN.tensors, replace(PLAN.tensors[3], name="invented")),
            "source_covered",
            "invented: not in the source",
        ),
        (
            (*PLAN.tensors[:3], replace(PLAN.tensors[3], shape=(2, 2))),
            "source_covered",
            "rotary: planned as [2, 2], stored as [4]",
        ),
        ((*PLAN.tensors[:3], planned("rotary", "drop", "")), "drops_explained", "rotary: no reason"),
    ],
    ids=["tensor forgotten", "tensor twice", "tensor invented", "other shape", "dropped in silence"],
)
def test_a_plan_that_does_not_account_for_the_source_is_refused(
    checkpoint: Checkpoint, artifact: Path, tensors: tuple[TensorPlan, ...], check: str, detail: str
) -> None:
    failed = failed_checks(checkpoint, artifact, replace(PLAN, tensors=tensors))

    assert failed[check] == detail


def test_every_failed_check_is_named(checkpoint: Checkpoint, artifact: Path) -> None:
    write(artifact, {"proj": with_value("proj", np.nan), "norm": None, "mtp": HALF["norm"]})

    with pytest.raises(VerificationFailed) as failed:
        verify(checkpoint, PLAN, METHOD, NoParams(), artifact)

    for name in ("tensors_present", "nothing_else", "finite"):
        assert name in failed.value.detail
    json.dumps(failed.value.fields, allow_nan=False)


def test_a_tensor_of_zeros_must_stay_one(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "zeros").mkdir()
    (tmp_path / "zeros" / "config.json").write_text('{"architectures": ["A"]}')
    save_file({"w": np.zeros(8, np.float32)}, tmp_path / "zeros" / FILE)
    plan = Plan((TensorPlan("w", (8,), "F32", "keep", "F16", "w", 16, ""),), (), 0)

    with open_checkpoint(tmp_path / "zeros") as checkpoint:
        save_file({"w": np.zeros(8, np.float16)}, artifact / FILE)
        assert verify(checkpoint, plan, METHOD, NoParams(), artifact).relative_rmse == 0.0
        save_file({"w": np.full(8, 1e-4, np.float16)}, artifact / FILE)
        assert "relative RMSE inf" in failed_checks(checkpoint, artifact, plan)["error_bounds"]


def test_a_source_that_is_not_finite_passes_no_bound(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "nan").mkdir()
    (tmp_path / "nan" / "config.json").write_text('{"architectures": ["A"]}')
    save_file({"w": np.array([1, np.nan], np.float32)}, tmp_path / "nan" / FILE)
    plan = Plan((TensorPlan("w", (2,), "F32", "keep", "F16", "w", 4, ""),), (), 0)
    save_file({"w": np.ones(2, np.float16)}, artifact / FILE)

    with open_checkpoint(tmp_path / "nan") as checkpoint:
        assert "w: relative RMSE nan" in failed_checks(checkpoint, artifact, plan)["error_bounds"]


def test_one_bad_block_is_named_though_the_tensor_is_within_its_bound(checkpoint: Checkpoint, artifact: Path) -> None:
    changed = HALF["embed"].copy()
    changed[40, :4] += np.float16(0.02)
    write(artifact, {"embed": changed})
    method = replace(METHOD, error_bounds={"F16": 0.01}, block_bounds={"F16": BlockBound(4, 0.005)})

    failed = failed_checks(checkpoint, artifact, method=method)

    assert list(failed) == ["block_bounds"]
    assert failed["block_bounds"].startswith("embed: row 40, values 0 to 3: rms error 0.0196, at most 0.0087 for F16")


def test_a_scheme_without_a_block_bound_is_refused(checkpoint: Checkpoint, artifact: Path) -> None:
    method = replace(METHOD, block_bounds={})

    assert (
        "norm: the method states no bound for F16" in failed_checks(checkpoint, artifact, method=method)["error_bounds"]
    )


def test_a_tensor_in_another_scheme_or_size_than_planned_is_refused(checkpoint: Checkpoint, artifact: Path) -> None:
    def read_otherwise(folder: Path) -> Iterator[ReadTensor]:
        for tensor in read_half(folder):
            yield replace(tensor, scheme="BF16", nbytes=1) if tensor.name == "proj" else tensor

    failed = failed_checks(checkpoint, artifact, method=method_reading(read_otherwise))

    assert failed == {
        "schemes": "proj: stored as BF16, planned as F16",
        "stored_bytes": "proj: takes 1 bytes, 2048 were planned",
    }


@pytest.mark.parametrize(
    ("dtype", "distinct", "is_refused"),
    [("F16", 300, True), ("F16", 256, False), ("F32", 300, False)],
    ids=["more than 256 codes", "as many as 256 codes", "decoded before"],
)
def test_a_quantized_tensor_that_is_a_copy_of_its_source_is_refused(
    tmp_path: Path, artifact: Path, dtype: str, distinct: int, is_refused: bool
) -> None:
    values = (np.arange(1024) % distinct).astype({"F16": np.float16, "F32": np.float32}[dtype])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["A"]}')
    save_file({"w": values}, tmp_path / "other" / FILE)
    plan = Plan((TensorPlan("w", (1024,), dtype, "quantize", "INT8", "w", 1024),), (), 0)
    method = replace(
        method_reading(lambda folder: iter([ReadTensor("w", "INT8", 1024, values.astype(np.float32))])),
        error_bounds={"INT8": 0.01},
        block_bounds={"INT8": BlockBound(32, 0.01)},
    )

    with open_checkpoint(tmp_path / "other") as checkpoint:
        failed = failed_checks(checkpoint, artifact, plan, method) if is_refused else None
        if not is_refused:
            assert verify(checkpoint, plan, method, NoParams(), artifact)

    assert failed == ({"quantized": "w: all values are the source's, which INT8 cannot hold"} if is_refused else None)


def inspecting(*observations: Observation, files: tuple[str, ...] = (FILE,)) -> Method:
    return replace(METHOD, inspect=given(lambda *asked: Inspection(files, observations)))


def test_facts_are_checked_by_their_groups(checkpoint: Checkpoint, artifact: Path) -> None:
    method = inspecting(
        Observation("settings", "heads", 4, 4),
        Observation("tokenizer", "eos", 1, 1),
        Observation("settings", "base", 1.0, 1.0),
    )

    verification = verify(checkpoint, PLAN, method, NoParams(), artifact)

    assert [check.name for check in verification.checks[-3:]] == ["settings", "tokenizer", "size"]
    assert verification.checks[-3].expected == "2 observations are what the source and the plan say"


@pytest.mark.parametrize(
    ("found", "expected", "detail"),
    [
        (4, 8, "heads: 4 instead of 8"),
        (None, 8, "heads: nothing instead of 8"),
        (8, None, "heads: 8 instead of nothing"),
        (True, 1, "heads: True instead of 1"),
        (1.0, 1, "heads: 1.0 instead of 1"),
        ("x" * 1000, 1, f"heads: '{'x' * 76}... instead of 1"),
    ],
)
def test_a_fact_that_does_not_hold_is_named(
    checkpoint: Checkpoint, artifact: Path, found: Any, expected: Any, detail: str
) -> None:
    method = inspecting(Observation("settings", "heads", found, expected), Observation("settings", "right", 1, 1))

    assert failed_checks(checkpoint, artifact, method=method) == {"settings": detail}


def test_files_that_the_artifact_does_not_consist_of_are_named(checkpoint: Checkpoint, artifact: Path) -> None:
    (artifact / "debug.log").write_text("x")

    failed = failed_checks(checkpoint, artifact, method=inspecting(files=(FILE, "vocab.txt")))

    assert failed == {"files": "debug.log: not of this artifact; vocab.txt: missing"}


def test_an_inspection_that_fails_says_that_the_files_are_not_right(checkpoint: Checkpoint, artifact: Path) -> None:
    def fail(*asked: Any) -> Inspection:
        raise KeyError("tokens")

    failed = failed_checks(checkpoint, artifact, method=replace(METHOD, inspect=given(fail)))

    assert failed == {"readable": "files: KeyError: 'tokens'"}


def test_a_link_is_refused_before_anything_is_read(checkpoint: Checkpoint, artifact: Path) -> None:
    (artifact / "endless").symlink_to("/dev/zero")

    failed = failed_checks(checkpoint, artifact, method=method_reading(lambda folder: pytest.fail("was read")))

    assert failed == {"plain_files": "endless: is a link"}


@pytest.mark.parametrize("split", [0, 1, 7])
def test_a_path_of_this_machine_is_found_across_chunks(
    checkpoint: Checkpoint, artifact: Path, monkeypatch: pytest.MonkeyPatch, split: int
) -> None:
    monkeypatch.setattr("quantmill.verification.hygiene.CHUNK", 64)
    (artifact / "notes.txt").write_bytes(bytes(64 - split) + str(checkpoint.folder).encode())

    failed = failed_checks(checkpoint, artifact)

    assert failed == {"no_local_paths": f"notes.txt: names the path {checkpoint.folder} of this machine"}


@pytest.mark.parametrize(("at", "is_found"), [(0, True), (250, False), (400, True)])
def test_paths_are_looked_for_at_the_ends_of_a_large_file(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, is_found: bool
) -> None:
    monkeypatch.setattr("quantmill.verification.hygiene.CHUNK", 10)
    monkeypatch.setattr("quantmill.verification.hygiene.END", 100)
    place = str(checkpoint.folder).encode()
    size = 600 + len(place)
    (tmp_path / "large").write_bytes(bytes(at) + place + bytes(size - at - len(place) if at != 400 else 20))

    assert bool(local_paths(tmp_path, ["large"], [checkpoint.folder])) == is_found


def test_a_canceled_job_is_not_a_failed_one(checkpoint: Checkpoint, artifact: Path) -> None:
    def read_canceled(folder: Path) -> Iterator[ReadTensor]:
        raise Canceled("Asked for.")
        yield

    with pytest.raises(Canceled):
        verify(checkpoint, PLAN, method_reading(read_canceled), NoParams(), artifact)


def test_many_faults_are_counted_and_not_all_listed() -> None:
    from quantmill.verification.check import _check

    check = _check("finite", "", {f"t{number}": "bad" for number in range(1000)})

    assert check.observed == 1000
    assert check.detail.endswith("t19: bad; and 980 more")


def test_a_verification_is_a_value(checkpoint: Checkpoint, artifact: Path) -> None:
    assert isinstance(verify(checkpoint, PLAN, METHOD, NoParams(), artifact), Verification)
    assert verify(checkpoint, PLAN, METHOD, NoParams(), artifact) == verify(
        checkpoint, PLAN, METHOD, NoParams(), artifact
    )
