"""The laws that every method obeys, as a test class to inherit from.

    class TestMyMethod(MethodConformance):
        method = MY_METHOD
        open_source = lazy("quantmill.checkpoints:open_checkpoint")
        ladder = ({"bits": 2}, {"bits": 4}, {"bits": 8})

runs them all with pytest. A method whose plans need calibration also says

        open_calibration = lazy("quantmill.calibration.engine:calibrate")

`ladder` holds parameters from the fewest bits to the most. The checkpoints are small
synthetic ones (`CHECKPOINTS`); a method for other architectures overrides the fixture `checkpoint`, and `wide`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from quantmill.contract.calibration import CalibratedBlock, Calibration, Statistics, calibration_cost, required
from quantmill.contract.errors import QuantmillError
from quantmill.contract.folds import FoldedSource
from quantmill.contract.method import Method, lazy
from quantmill.contract.placement import PlacedFiles, write_plain
from quantmill.contract.session import Figure, Note, checked_note
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, SourceTensor, Unit

# Running a method without a service


class Source(Protocol):
    """An opened checkpoint."""

    @property
    def index(self) -> ModelIndex: ...

    def tensor(self, name: str) -> SourceTensor: ...


OpenSource = Callable[[Path], AbstractContextManager[Source]]


class OpenCalibration(Protocol):
    """Calibration on windows of token ids. `folder` takes its files, `carries` names those behind finished blocks."""

    def __call__(
        self,
        source: Source,
        plan: Plan,
        ids: Sequence[NDArray[np.int64]],
        *,
        folder: Path,
        threads: int,
        carries: MutableMapping[str, Path],
    ) -> AbstractContextManager[Calibration]: ...


def calibration_ids() -> list[NDArray[np.int64]]:
    """What the laws calibrate on: windows of tokens that every checkpoint here knows, not all of one length."""
    generator = np.random.default_rng(0)
    return [generator.integers(2, 258, 20 if window == 0 else 32) for window in range(12)]


@dataclass(frozen=True)
class MemorySession:
    """A Session over an opened source. `finished` are the keys of units that an earlier attempt has done."""

    source: Source
    plan: Plan
    threads: int = 1
    seed: int = 0
    finished: Collection[str] = field(default=())
    calibration: Calibration | None = None
    notes: list[Note] = field(default_factory=list)
    device: str = "cpu"
    steps: list[tuple[int, int]] = field(default_factory=list)
    state: dict[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)

    @property
    def index(self) -> ModelIndex:
        return self.source.index

    def units(self) -> Iterator[Unit]:
        return (unit for unit in self.plan.units if unit.key not in self.finished and unit.block is None)

    def tensor(self, name: str) -> SourceTensor:
        return self.source.tensor(name)

    def statistics(self, name: str) -> Statistics:
        return required(self.calibration).statistics(name)

    def windows(self) -> Sequence[NDArray[np.int64]]:
        return calibration_ids()

    def pause(self) -> None:
        pass

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.state[name] = {key: array.copy() for key, array in arrays.items()}

    def kept(self, name: str) -> Mapping[str, NDArray[Any]] | None:
        kept = self.state.get(name)
        return None if kept is None else {key: array.copy() for key, array in kept.items()}

    def note(self, tensor: str, found: str, **figures: Figure) -> None:
        self.notes.append(checked_note(self.plan, tensor, found, figures))

    def blocks(self) -> Iterator[CalibratedBlock]:
        return required(self.calibration).blocks(self.finished)


@dataclass(frozen=True)
class Run:
    """A method with its parameters on one source.

    `folder` takes what calibration keeps; `carries` are its files behind blocks that are done, by their unit's key.
    `notes` gather what the method says of what it found.
    """

    method: Method
    params: BaseModel
    source: Source
    open_calibration: OpenCalibration | None = None
    folder: Path = Path()
    carries: dict[str, Path] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def first_plan(self) -> Plan:
        """From the headers alone."""
        return self.method.plan.load()(self.source.index, self.params)

    @cached_property
    def plan(self) -> Plan:
        """What is carried out: every scheme decided."""
        return self.settled()

    def settled(self, threads: int = 1) -> Plan:
        plan = self.first_plan
        if plan.settled or self.method.settle is None:
            return plan
        with self._calibration(plan, threads) as calibration:
            return self.method.settle.load()(
                MemorySession(self.source, plan, threads, calibration=calibration), self.params
            )

    def quantize(self, threads: int = 1, finished: Collection[str] = ()) -> Iterator[QuantizedTensor]:
        """The tensors of all units but those `finished`; each block goes on when its last tensor is there."""
        plan = self.plan
        last = {unit.tensors[-1] for unit in plan.units if unit.block is not None}
        with self._calibration(plan, threads) as calibration:
            session = MemorySession(
                self.source, plan, threads, finished=finished, calibration=calibration, notes=self.notes
            )
            for tensor in self.method.quantize.load()(session, self.params):
                if calibration is not None and tensor.name in last:
                    calibration.advance()
                yield tensor

    def _calibration(self, plan: Plan, threads: int) -> AbstractContextManager[Calibration | None]:
        if plan.calibration is None or self.open_calibration is None:
            return nullcontext()
        return self.open_calibration(
            self.source, plan, calibration_ids(), folder=self.folder, threads=threads, carries=self.carries
        )

    def write(self, tensors: Iterator[QuantizedTensor], folder: Path) -> list[Path]:
        folder.mkdir(parents=True)
        return self.method.write.load()(tensors, self.plan, self.source.index, self.params, folder)

    def relative_errors(self, folder: Path) -> dict[str, float]:
        """rms(read - source) / rms(source) of each tensor that `read` gives, the source as folds have changed it."""
        errors, read = {}, self.method.read.load()
        folded = FoldedSource(self.plan, lambda name: self.source.tensor(name).values)
        for wave in folded.waves:
            for tensor in read(folder, wave):
                folded.learn(tensor)
        assert folded.faults == {}
        for name, values in self.method.weights(folder):
            source = folded.values(name).astype(np.float64)
            errors[name] = float(np.sqrt(np.mean((values - source) ** 2) / np.mean(source**2)))
        return errors


# The laws

CHECKPOINTS = {
    "bf16, tied": SyntheticLlama(tied=True),
    "f16, sharded": SyntheticLlama(dtype="F16", shards=3, kv_heads=4, seed=1),
    "f32, odd rows": SyntheticLlama(hidden=80, ffn=96, heads=2, kv_heads=1, blocks=3, vocab=301, dtype="F32", seed=2),
}
WIDE = SyntheticLlama(hidden=1024, ffn=10240, blocks=1, heads=8, kv_heads=2, tied=True)  # 20 MiB in each of three

# What a process needs beside the method's own working memory: the allocator's reserve, buffers, tables of names.
# Well below the 40 MiB that one float32 copy of a tensor of WIDE would take.
MEMORY_ALLOWANCE_BYTES = 24 * 2**20
TORCH_ALLOWANCE_BYTES = 24 * 2**20  # what torch's threads keep for themselves where a run is calibrated


class MethodConformance:
    """Inherit, set the three attributes, and pytest runs the laws."""

    method: ClassVar[Method]
    open_source: ClassVar[lazy[OpenSource]]
    ladder: ClassVar[tuple[Mapping[str, Any], ...]]
    open_calibration: ClassVar[lazy[OpenCalibration] | None] = None

    @pytest.fixture(scope="class", params=sorted(CHECKPOINTS))
    @classmethod
    def checkpoint(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of a small checkpoint; each of CHECKPOINTS in turn."""
        return CHECKPOINTS[request.param].write(tmp_path_factory.mktemp("checkpoint") / "model")

    @pytest.fixture(scope="class")
    @classmethod
    def wide(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of a checkpoint whose largest tensor outweighs MEMORY_ALLOWANCE_BYTES."""
        return WIDE.write(tmp_path_factory.mktemp("checkpoint") / "wide")

    @pytest.fixture
    def runs(self, checkpoint: Path, tmp_path: Path) -> Iterator[list[Run]]:
        """The method on `checkpoint`, once for each rung of the ladder."""
        folder = tmp_path / "calibration"
        folder.mkdir()
        opened = self.open_calibration.load() if self.open_calibration else None
        with self.open_source.load()(checkpoint) as source:
            yield [Run(self.method, self.method.params(**rung), source, opened, folder) for rung in self.ladder]

    # Parameters

    def test_a_foreign_parameter_is_refused(self) -> None:
        with pytest.raises(ValidationError):
            self.method.params(**{**self.ladder[0], "no_such_parameter": 1})

    def test_a_parameter_of_another_kind_is_refused(self) -> None:
        for name in self.method.params.model_fields:
            with pytest.raises(ValidationError):
                self.method.params(**{**self.ladder[0], name: {"of": ["another", "kind"]}})

    def test_parameters_are_frozen(self) -> None:
        assert self.method.params.model_config.get("frozen")

    def test_the_rungs_of_its_ladder_that_go_with_other_parameters_are_in_order(self, wide: Path) -> None:
        with self.open_source.load()(wide) as source:
            sizes = list(_sizes_of_rungs(self.method, self.ladder[0], source))
        assert sizes or not self.method.ladder
        assert sizes == sorted(sizes)

    def test_promoting_a_tensor_gives_more_bytes_to_it_and_takes_none_from_others(self, runs: list[Run]) -> None:
        if self.method.promote is None:
            return
        for run in runs:
            plan = run.plan
            name = next((row.name for row in plan.tensors if row.action == "quantize"), None)
            if name is None or plan.limit_bytes is not None:  # the rung is a float type, or its size is given
                continue
            change = self.method.promote.load()(run.source.index, plan, run.params, [name])
            params = self.method.params.model_validate({**run.params.model_dump(mode="json"), **change})
            after = Run(self.method, params, run.source).plan
            grown = {row.name for row in after.tensors if row.nbytes > plan.by_name[row.name].nbytes}
            assert name in grown, (run.params, change)
            changed = {row.name for row in after.tensors if row.scheme != plan.by_name[row.name].scheme}
            assert changed == grown, (run.params, change)

    def test_the_description_is_json(self) -> None:
        assert json.loads(json.dumps(self.method.describe())) == self.method.describe()

    # Plans

    def test_a_plan_is_the_same_each_time_and_survives_json(self, runs: list[Run]) -> None:
        for run in runs:
            assert run.first_plan == run.first_plan == Plan.from_json(json.loads(json.dumps(run.first_plan.to_json())))

    def test_weights_settle_what_a_plan_leaves_open_and_nothing_else(self, runs: list[Run]) -> None:
        for run in runs:
            if run.first_plan.settled:
                continue
            assert run.plan.settles(run.first_plan), run.params
            assert run.settled(threads=2) == run.plan == Plan.from_json(json.loads(json.dumps(run.plan.to_json())))

    def test_a_plan_reads_no_weight(self, checkpoint: Path, tmp_path: Path) -> None:
        without_weights = tmp_path / "model"
        without_weights.mkdir()
        with self.open_source.load()(checkpoint) as source:
            index = source.index
        files = {name: without_weights / name for name in index.files}
        for name, path in files.items():
            path.write_bytes(index.files[name].read_bytes())
        moved = replace(index, files=files)
        params = self.method.params(**self.ladder[0])
        assert self.method.plan.load()(moved, params) == self.method.plan.load()(index, params)

    def test_a_plan_has_every_source_tensor_once(self, runs: list[Run]) -> None:
        for run in runs:
            assert sorted(row.name for row in run.plan.tensors) == sorted(run.source.index.tensors)

    def test_a_plan_has_every_stored_tensor_in_one_unit(self, runs: list[Run]) -> None:
        for run in runs:
            stored = [row.name for row in run.plan.tensors if row.action != "drop"]
            assert sorted(name for unit in run.plan.units for name in unit.tensors) == sorted(stored)
            assert len({unit.key for unit in run.plan.units}) == len(run.plan.units)

    def test_blocks_are_a_plan_s_first_units_in_their_order(self, runs: list[Run]) -> None:
        for run in runs:
            numbers = [unit.block for unit in run.plan.units]
            walked = [number for number in numbers if number is not None]
            assert numbers[: len(walked)] == sorted(set(walked))

    def test_whatever_is_not_quantized_has_a_reason(self, runs: list[Run]) -> None:
        nominal = {row.scheme for run in runs for row in run.plan.tensors if not row.reason}
        for run in runs:
            for row in run.plan.tensors:
                assert row.reason or row.scheme in nominal, row
                assert row.reason or row.action != "drop", row

    # Outputs

    def test_the_outputs_are_those_of_the_plan(self, runs: list[Run]) -> None:
        for run in runs:
            made = [(tensor.name, tensor.scheme, tensor.shape, tensor.nbytes) for tensor in run.quantize()]
            planned = {row.name: (row.name, row.scheme, row.shape, row.nbytes + row.beside) for row in run.plan.tensors}
            expected = [planned[name] for unit in run.plan.units for name in unit.tensors]
            assert made == expected, (
                run.params,
                [pair for pair in zip(made, expected, strict=False) if len(set(pair)) > 1],
            )

    def test_unit_by_unit_gives_the_same_bytes(self, runs: list[Run]) -> None:
        for run in runs:
            whole = _digests(run.quantize())
            keys = {unit.key for unit in run.plan.units}
            alone = [_digests(run.quantize(finished=keys - {key})) for key in keys]
            together = {name: digest for unit in alone for name, digest in unit.items()}
            assert whole == together, (run.params, _differing(whole, together))

    def test_a_run_stopped_after_any_unit_resumes_to_the_same_artifact(self, runs: list[Run], tmp_path: Path) -> None:
        run = runs[0]
        expected = _folder_digest(run, list(run.quantize()), tmp_path / "undisturbed")
        for done in range(1, len(run.plan.units)):
            finished = run.plan.units[:done]
            count = sum(len(unit.tensors) for unit in finished)
            again = replace(run, carries={})
            stopped = again.quantize()
            tensors = [next(stopped) for _ in range(count)]
            del stopped  # what an attempt that lost its worker leaves: its finished units
            tensors += again.quantize(finished={unit.key for unit in finished})
            assert _folder_digest(run, tensors, tmp_path / f"resumed-{done}") == expected, f"stopped after unit {done}"

    def test_threads_do_not_change_a_byte(self, runs: list[Run]) -> None:
        for run in runs:
            each = [replace(run, notes=[]) for _ in range(3)]
            one, two, four = (_digests(run.quantize(threads)) for run, threads in zip(each, (1, 2, 4), strict=True))
            assert one == two == four, (run.params, _differing(one, two) | _differing(one, four))
            assert each[0].notes == each[1].notes == each[2].notes, run.params

    # Artifacts

    def test_a_tensor_s_place_is_where_the_writer_puts_it(self, runs: list[Run], tmp_path: Path) -> None:
        if self.method.place is None:
            return
        assert self.method.determinism == "bitwise"  # attempts write over each other's bytes
        for rung, run in enumerate(runs):
            written, placed = tmp_path / f"written-{rung}", tmp_path / f"placed-{rung}"
            run.write(run.quantize(), written)
            placed.mkdir()
            placement = self.method.place.load()(run.plan, run.source.index, run.params)
            with PlacedFiles(placement, placed) as files:
                for tensor in reversed(list(run.quantize())):
                    files.put(tensor)
            write_plain(placement, placed)
            assert _files(placed) == _files(written), run.params

    def test_the_artifact_reopens_with_every_stored_tensor(self, runs: list[Run], tmp_path: Path) -> None:
        for rung, run in enumerate(runs):
            folder = tmp_path / str(rung)
            written = run.write(run.quantize(), folder)
            assert sorted(written) == sorted(path for path in folder.rglob("*") if path.is_file())
            read = {row.name: (row.scheme, row.nbytes, row.values.shape) for row in self.method.read.load()(folder)}
            stored = {row.name: (row.scheme, row.nbytes, row.shape) for row in run.plan.tensors if row.action != "drop"}
            assert read == stored, (run.params, _differing(read, stored))

    def test_read_gives_the_tensors_that_are_asked_for_and_no_others(self, runs: list[Run], tmp_path: Path) -> None:
        run = runs[0]
        run.write(run.quantize(), tmp_path / "artifact")
        every = dict(self.method.weights(tmp_path / "artifact"))
        asked = {*sorted(every)[::2], "no.such.tensor"}
        some = dict(self.method.weights(tmp_path / "artifact", asked))
        assert list(some) == [name for name in every if name in asked]
        assert all(np.array_equal(values, every[name]) for name, values in some.items())

    def test_what_is_inspected_is_what_was_written(self, runs: list[Run], tmp_path: Path) -> None:
        if self.method.inspect is None:
            return
        for rung, run in enumerate(runs):
            folder = tmp_path / str(rung)
            written = run.write(run.quantize(), folder)
            inspection = self.method.inspect.load()(folder, run.plan, run.source.index, run.params)
            assert sorted(inspection.files) == sorted(path.relative_to(folder).as_posix() for path in written)
            assert [observation for observation in inspection.observations if not observation.holds] == []

    def test_every_scheme_has_both_bounds(self, runs: list[Run]) -> None:
        schemes = {row.scheme for run in runs for row in run.plan.tensors if row.action != "drop"}
        assert schemes <= self.method.error_bounds.keys() & self.method.block_bounds.keys()

    def test_the_error_of_each_tensor_is_within_its_scheme_s_bound(self, runs: list[Run], tmp_path: Path) -> None:
        for rung, run in enumerate(runs):
            run.write(run.quantize(), tmp_path / str(rung))
            for name, error in run.relative_errors(tmp_path / str(rung)).items():
                assert error <= self.method.error_bounds[run.plan.by_name[name].scheme], (name, run.params, error)

    def test_the_error_falls_as_the_bits_rise(self, runs: list[Run], tmp_path: Path) -> None:
        errors = []
        for rung, run in enumerate(runs):
            run.write(run.quantize(), tmp_path / str(rung))
            squares = [error**2 for error in run.relative_errors(tmp_path / str(rung)).values()]
            errors.append(float(np.mean(squares)))
        # equal where the rows leave two rungs the same schemes to choose from
        assert errors == sorted(errors, reverse=True), errors
        assert errors[0] > errors[-1]

    # The process

    def test_a_run_stays_in_its_folder_off_the_network_and_within_the_planned_memory(
        self, wide: Path, tmp_path: Path
    ) -> None:
        for rung, params in enumerate(self.ladder):
            seen = _observe(self, params, wide, tmp_path / str(rung))
            assert seen["trespasses"] == [], (params, seen["trespasses"])
            allowed = MEMORY_ALLOWANCE_BYTES + (TORCH_ALLOWANCE_BYTES if self.open_calibration else 0)
            assert seen["peak_bytes"] <= seen["planned_bytes"] + allowed, (params, seen)


def _sizes_of_rungs(method: Method, parameters: Mapping[str, Any], source: Source) -> Iterator[int]:
    """The planned bytes of each rung with these parameters; one that they do not go with is left out."""
    for rung in method.ladder:
        with suppress(QuantmillError, ValidationError):
            yield Run(method, method.params(**{**parameters, **rung}), source).plan.nbytes


def _digests(tensors: Iterator[QuantizedTensor]) -> dict[str, str]:
    """Each tensor's digest over its parts, so that no two runs have to be held in memory."""
    return {tensor.name: _digest(tensor) for tensor in tensors}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


def _digest(tensor: QuantizedTensor) -> str:
    digest = hashlib.sha256(f"{tensor.scheme} {tensor.shape}".encode())
    for part, values in sorted(tensor.parts.items()):
        digest.update(f"{part} {values.dtype} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, str]:
    """The digest of each file by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _folder_digest(run: Run, tensors: list[QuantizedTensor], folder: Path) -> dict[str, str]:
    files = run.write(iter(tensors), folder)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# One run in a process of its own, watched


@dataclass(frozen=True)
class _Errand:
    """What the watched process is to do, as it travels through its command line."""

    plan: str
    settle: str | None
    quantize: str
    write: str
    params_class: str
    params: str
    open_source: str
    open_calibration: str | None
    checkpoint: str
    folder: str


def _observe(laws: MethodConformance, params: Mapping[str, Any], checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Run the method in a fresh process: its peak_bytes, the planned_bytes, and its trespasses."""
    method = laws.method
    errand = _Errand(
        plan=method.plan.target,
        settle=method.settle.target if method.settle else None,
        quantize=method.quantize.target,
        write=method.write.target,
        params_class=f"{method.params.__module__}:{method.params.__qualname__}",
        params=method.params(**params).model_dump_json(),
        open_source=laws.open_source.target,
        open_calibration=laws.open_calibration.target if laws.open_calibration else None,
        checkpoint=str(checkpoint),
        folder=str(folder),
    )
    folder.mkdir(parents=True)
    command = [
        sys.executable,
        "-B",
        "-c",
        f"from {__name__} import run_errand; run_errand()",
        json.dumps(asdict(errand)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def run_errand() -> None:
    """The watched process: one job, from opening the source to the written files. Prints what was seen as JSON."""
    errand = _Errand(**json.loads(sys.argv[1]))
    plan, quantize, write, params_class, open_source = (
        lazy[Any](target).load()
        for target in (errand.plan, errand.quantize, errand.write, errand.params_class, errand.open_source)
    )
    settle = lazy[Any](errand.settle).load() if errand.settle else None
    opened = lazy[Any](errand.open_calibration).load() if errand.open_calibration else None
    folder = Path(errand.folder)
    own = folder.with_name(f"{folder.name}-calibration")
    own.mkdir()
    params = params_class.model_validate_json(errand.params)
    with (
        open_source(Path(errand.checkpoint)) as source,
        _calibrated(opened, source, plan(source.index, params), own) as calibration,
    ):
        trespasses: list[str] = []
        sys.addaudithook(lambda event, details: _watch(event, details, (folder, own), trespasses))
        planned: Plan = plan(source.index, params)
        before = _memory("VmRSS")
        session = MemorySession(source, planned, threads=2, calibration=calibration)
        if settle is not None and not planned.settled:
            planned = settle(session, params)
            session = replace(session, plan=planned)
        write(quantize(session, params), planned, source.index, params, folder)
        peak = _memory("VmHWM") - before
        ids = calibration_ids()
        cost = calibration_cost(source.index, planned, windows=len(ids), window=max(map(len, ids)), threads=2)
    seen = {"peak_bytes": peak, "planned_bytes": planned.peak_memory_bytes + cost.memory, "trespasses": trespasses}
    print(json.dumps(seen))  # noqa: T201


def _calibrated(
    opened: OpenCalibration | None, source: Source, plan: Plan, folder: Path
) -> AbstractContextManager[Calibration | None]:
    if opened is None or plan.calibration is None:
        return nullcontext()
    return opened(source, plan, calibration_ids(), folder=folder, threads=2, carries={})


def _memory(field_: str) -> int:
    """Bytes of this process from /proc; `ru_maxrss` would start from the parent's peak, which execve hands on."""
    found = re.search(rf"^{field_}:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert found is not None, "needs Linux's /proc"
    return int(found[1]) * 1024


NETWORK_AND_PROCESSES = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "ctypes.dlopen")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def _watch(event: str, details: tuple[Any, ...], folders: Sequence[Path], trespasses: list[str]) -> None:
    """An audit hook: notes each way out of `folders`. Raising here could be caught by the method, a note cannot."""
    if event.startswith(NETWORK_AND_PROCESSES):
        trespasses.append(f"{event} {details!r}")
    elif event in CHANGES or (event == "open" and _writes(details)):
        paths = [part for part in details[:2] if isinstance(part, str | bytes | os.PathLike)]
        paths = paths[:1] if event == "open" else paths
        if not all(any(_is_inside(path, folder) for folder in folders) for path in paths):
            trespasses.append(f"{event} {details!r}")


def _writes(details: tuple[Any, ...]) -> bool:
    flags = details[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _is_inside(path: Any, folder: Path) -> bool:
    return Path(os.fsdecode(path)).resolve().is_relative_to(folder.resolve())
