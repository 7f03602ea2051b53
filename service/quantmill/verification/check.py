"""The independent check of a written artifact. docs/verification.md says what each check catches.

It reopens the files with the method's `read` and `inspect` alone, which share no code with the encoder and the
writer, and compares what comes out with the source and the plan. Memory is bounded by one tensor as `read` gives it;
of one that is decoded row by row, by a piece for each thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.errors import Canceled, ResourceExhausted, VerificationFailed
from quantmill.contract.folds import FoldedSource
from quantmill.contract.gguf import BlockTensor
from quantmill.contract.method import Method
from quantmill.contract.reading import BlockBound, DecodedRows, Inspection, Observation, ReadTensor
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill.domain.artifacts import DESCRIPTION_FILE, Metric
from quantmill.verification.compare import Mapped, TensorError, compare, distinct_values, ratio
from quantmill.verification.consistency import Moved
from quantmill.verification.hygiene import files_below, irregular, local_paths, unexpected, unfit

SHOWN = 20  # tensors that a failed check names; the rest are counted

# What an artifact's files may hold beside its tensors' bytes.
FIXED_OVERHEAD = 64 << 10
TENSOR_OVERHEAD = 1 << 10  # name, shape, type, offset, padding of its parts
GRAPH_OVERHEAD = 4  # times an ONNX graph's bytes: a quantized product is a dozen nodes
CARRIED_OVERHEAD = 2  # times the tokenizer and settings: GGUF stores a token in up to twice the bytes of its source


@dataclass(frozen=True)
class Check:
    """One property of the artifact. `observed` names what is wrong where it failed."""

    name: str
    passed: bool
    observed: Any
    expected: Any
    detail: str = ""


@dataclass(frozen=True)
class TensorResult:
    """How far a tensor as read back is from its source.

    relative_rmse  rms(read - source) / rms(source)
    max_abs_error  max |read - source|
    worst_block    the error of the block that is furthest off, as a share of what its scheme allows there
    """

    name: str
    scheme: str
    values: int
    relative_rmse: float
    max_abs_error: float
    worst_block: float


@dataclass(frozen=True)
class Verification:
    """What was checked, all of it passed, and the error of every tensor.

    `relative_rmse` is over all values together, `nbytes` is the size of all files, `bits_per_weight` 8 * nbytes over
    the number of stored values: the effective one, with everything that the container adds.
    """

    checks: tuple[Check, ...]
    tensors: tuple[TensorResult, ...]
    relative_rmse: float
    nbytes: int
    bits_per_weight: float

    @property
    def max_abs_error(self) -> float:
        return max((tensor.max_abs_error for tensor in self.tensors), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as quantmill.json keeps them."""
        return {
            "passed": True,
            "relative_rmse": self.relative_rmse,
            "max_abs_error": self.max_abs_error,
            "nbytes": self.nbytes,
            "bits_per_weight": self.bits_per_weight,
            "checks": [asdict(check) for check in self.checks],
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }

    def metrics(self) -> list[Metric]:
        n = len(self.tensors)
        return [
            Metric("relative_rmse", self.relative_rmse, "", n=n, higher_is_better=False),
            Metric("max_abs_error", self.max_abs_error, "", n=n, higher_is_better=False),
            Metric("file_bits_per_weight", self.bits_per_weight, "bit", n=n, higher_is_better=False),
            Metric("size", self.nbytes, "byte", higher_is_better=False),
        ]


def verify(
    checkpoint: Checkpoint,
    plan: Plan,
    method: Method,
    params: Any,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 1,
) -> Verification:
    """Check the files that `method` wrote to `folder` for `params` against `plan` and the source.

    The folder holds the artifact's plain files and no others; every source tensor is stored exactly once, as
    planned, or dropped for a stated reason, and nothing else is stored; all values are finite; each tensor and each
    block of it is within the method's bounds for its scheme; what the method's `inspect` states holds; the files
    have the planned size. `progress(done, total)` counts tensors; `threads` change no result.

    Raises VerificationFailed with every failed check in `failed`. A folder that holds a link or a device is refused
    before anything in it is opened.
    """
    files = files_below(folder)
    plain = _check("plain_files", "the folder holds plain files only", irregular(files))
    _refuse_failed((plain,))
    expected = [tensor for tensor in plan.tensors if tensor.action != "drop"]
    findings = _Findings()
    moved = _moved_scales(checkpoint, plan, method, folder, findings)
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        for tensor in _read(method, folder, findings):
            _examine(tensor, checkpoint, moved, plan, method, findings, pool.map)
            del tensor  # else it would stay while the next one is made
            if progress is not None:
                progress(len(findings.seen), len(expected))
    inspection = _inspect(method, folder, plan, checkpoint.index, params, findings)
    nbytes = sum(status.st_size for status in files.values())
    written = [name for name in files if name != DESCRIPTION_FILE]
    places = local_paths(folder, written, (checkpoint.folder, folder))
    checks = (
        plain,
        _check("portable_files", "names and modes work on any machine", unfit(files)),
        _check("files", "exactly the artifact's files are there", unexpected(written, inspection.files or written)),
        _check("no_local_paths", "no file names a folder of this machine", places),
        *_plan_checks(plan, checkpoint.index),
        *_tensor_checks(expected, findings),
        *_fold_checks(plan, findings),
        *_observation_checks(inspection.observations),
        _size_check(nbytes, plan, checkpoint),
    )
    _refuse_failed(checks)
    return Verification(
        checks=checks,
        tensors=tuple(findings.results[tensor.name] for tensor in expected),
        relative_rmse=ratio(findings.squared_error, findings.squared_source),
        nbytes=nbytes,
        bits_per_weight=8 * nbytes / max(1, sum(tensor.values for tensor in expected)),
    )


@dataclass
class _Findings:
    """What reading the artifact brought to light. Each mapping goes from a tensor's name to what is wrong with it."""

    results: dict[str, TensorResult] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    twice: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    other_scheme: dict[str, str] = field(default_factory=dict)
    other_size: dict[str, str] = field(default_factory=dict)
    misshapen: dict[str, str] = field(default_factory=dict)
    not_finite: dict[str, str] = field(default_factory=dict)
    copied: dict[str, str] = field(default_factory=dict)
    unfolded: dict[str, str] = field(default_factory=dict)
    too_far: dict[str, str] = field(default_factory=dict)
    biased: dict[str, str] = field(default_factory=dict)
    bad_block: dict[str, str] = field(default_factory=dict)
    squared_error: float = 0.0
    squared_source: float = 0.0


def _read(
    method: Method, folder: Path, findings: _Findings, names: Collection[str] | None = None
) -> Iterator[ReadTensor]:
    """What `read` gives, until it fails: whatever it raises says that the files are not right."""
    try:
        read = method.read.load()
        yield from read(folder) if names is None else read(folder, names)
    except (Canceled, ResourceExhausted, MemoryError, GeneratorExit):
        raise
    except Exception as error:
        findings.unreadable["files"] = f"{type(error).__name__}: {error}"[:500]


def _moved_scales(checkpoint: Checkpoint, plan: Plan, method: Method, folder: Path, findings: _Findings) -> Moved:
    """The source as the plan's folds have changed it; what they are divided by is read before all else."""
    folded = FoldedSource(plan, lambda name: checkpoint.tensor(name).values)
    for wave in folded.waves:
        for tensor in _read(method, folder, findings, wave):
            folded.learn(tensor)
    findings.unfolded |= folded.faults
    return Moved(plan, folded)


def _inspect(
    method: Method, folder: Path, plan: Plan, index: ModelIndex, params: Any, findings: _Findings
) -> Inspection:
    """What `inspect` states; as with `_read`, whatever it raises says that the files are not right."""
    if method.inspect is None:
        return Inspection((), ())
    try:
        inspection = method.inspect.load()(folder, plan, index, params)
        return Inspection(inspection.files, tuple(inspection.observations))
    except (Canceled, ResourceExhausted, MemoryError):
        raise
    except Exception as error:
        findings.unreadable.setdefault("files", f"{type(error).__name__}: {error}"[:500])
        return Inspection((), ())


def _examine(
    tensor: ReadTensor,
    checkpoint: Checkpoint,
    moved: Moved,
    plan: Plan,
    method: Method,
    findings: _Findings,
    mapped: Mapped,
) -> None:
    name = tensor.name
    planned = plan.by_name.get(name)
    if planned is None or planned.action == "drop" or name not in checkpoint.index.tensors:
        findings.unknown[name] = "not planned" if planned is None else "planned to be left out"
        return
    if name in findings.seen:
        findings.twice[name] = "stored more than once"
        return
    findings.seen.add(name)
    if tensor.scheme != planned.scheme:
        findings.other_scheme[name] = f"stored as {tensor.scheme}, planned as {planned.scheme}"
    if tensor.nbytes != planned.nbytes:
        findings.other_size[name] = f"takes {tensor.nbytes} bytes, {planned.nbytes} were planned"
    content = tensor.content
    dtype = np.dtype(np.float32) if isinstance(content, DecodedRows) else content.dtype
    if dtype != np.float32 or content.shape != planned.shape:
        findings.misshapen[name] = f"{dtype} {list(content.shape)} instead of float32 {list(planned.shape)}"
        return
    try:
        _compare(tensor, planned, checkpoint, moved, method, findings, mapped)
    except (Canceled, ResourceExhausted, MemoryError):
        raise
    except Exception as error:  # as where it is read: what cannot be decoded is not right
        findings.unreadable[name] = f"{type(error).__name__}: {error}"[:500]


def _compare(
    tensor: ReadTensor,
    planned: TensorPlan,
    checkpoint: Checkpoint,
    moved: Moved,
    method: Method,
    findings: _Findings,
    mapped: Mapped,
) -> None:
    name = tensor.name
    source = _source(checkpoint, moved, name)
    values, along_rows = tensor.content, source
    if tensor.transposed and not isinstance(source, DecodedRows):
        values, along_rows = tensor.values.swapaxes(-1, -2), source.swapaxes(-1, -2)
    bound = method.block_bounds.get(planned.scheme, ANYTHING).relaxed(planned.block_slack)
    error = compare(values, along_rows, bound, mapped)
    if error.not_finite:
        findings.not_finite[name] = f"{error.not_finite} of {planned.values} values are NaN or infinite"
        return
    _judge(planned, values.shape, error, method, findings)
    if not isinstance(source, DecodedRows):
        fault = moved.fault(tensor, source, method.error_bounds.get(planned.scheme, 0.0))
        if fault is not None:
            findings.unfolded.setdefault(name, fault)
    if planned.action != "quantize":
        return
    distinct = distinct_values(source)
    if error.max_abs_error == 0.0 and _is_a_copy(planned, distinct):
        findings.copied[name] = f"all values are the source's, which {planned.scheme} cannot hold"
    least, most = slope_limits(error.relative_rmse, planned.values)
    if distinct >= ORDINARY and not least <= error.slope <= most:
        findings.biased[name] = f"the source times {error.slope:.4f}, at least {least:.4f} and at most {most:.4f}"


def _source(checkpoint: Checkpoint, moved: Moved, name: str) -> NDArray[Any] | DecodedRows:
    """What the artifact should hold; of a tensor in GGUF's blocks row by row, which no folds touch."""
    if checkpoint.index.gguf is not None:
        stored = checkpoint.tensor(name)
        if isinstance(stored, BlockTensor):
            return DecodedRows(stored.info.shape, stored.rows)
    return moved.source.values(name)


def slope_limits(relative_rmse: float, values: int) -> tuple[float, float]:
    """Between what factors of the source a tensor of that error lies that was quantized well.

    Rounding to the nearest level leaves a factor of 1, to the mean of each level's values 1 - e^2 for a relative
    RMSE of e; clipping makes it smaller. Nothing makes it larger but chance: e / sqrt(values) is its deviation.
    """
    chance = 6 * relative_rmse / math.sqrt(max(1, values))
    squared = relative_rmse**2
    return 1 - SHRINKING - 2 * squared - chance, 1 + GROWTH + squared / 2 + chance


ORDINARY = 1000  # different values among a tensor's first: one with fewer may have all its errors on one side
SHRINKING, GROWTH = 0.08, 0.05  # by a factor that is no fault: integers that become NF4 grow by 0.03


# Stands in for the bound of a scheme that the method gives none for, which is a fault of its own
ANYTHING = BlockBound(values=32, relative=0.0, absolute=math.inf)


def _judge(
    planned: TensorPlan, shape: tuple[int, ...], error: TensorError, method: Method, findings: _Findings
) -> None:
    """Note the tensor's error, and whether it is within the bounds of the scheme that was planned.

    `shape` is that in which blocks run along rows.
    """
    name, scheme = planned.name, planned.scheme
    findings.results[name] = TensorResult(
        name, scheme, planned.values, error.relative_rmse, error.max_abs_error, error.worst.share
    )
    findings.squared_error += error.squared_error
    findings.squared_source += error.squared_source
    bound = method.error_bounds.get(scheme)
    if bound is None or scheme not in method.block_bounds:
        findings.too_far[name] = f"the method states no bound for {scheme}"
    elif not error.relative_rmse <= bound:  # so that NaN fails
        findings.too_far[name] = f"relative RMSE {error.relative_rmse:.6g}, at most {bound:g} for {scheme}"
    if error.worst.share > 1.0:
        row, column = divmod(error.worst.start, shape[-1] if shape else 1)
        findings.bad_block[name] = (
            f"row {row}, values {column} to {column + error.worst.values - 1}: "
            f"rms error {error.worst.rms_error:.3g}, at most {error.worst.allowed:.3g} for {scheme}"
        )


def _is_a_copy(planned: TensorPlan, distinct: int) -> bool:
    """Whether values that are exactly the source's are more than the scheme's codes can tell apart.

    A source in float32 may have been decoded from the same scheme before, and then comes back as it was.
    """
    codes = 2 ** math.floor(8 * planned.nbytes / max(1, planned.values))
    return planned.source_dtype != "F32" and distinct > codes


def _plan_checks(plan: Plan, index: ModelIndex) -> Iterator[Check]:
    """Whether the plan speaks of each source tensor once, and says why it leaves one out."""
    unplanned = {name: "not in the plan" for name in index.tensors if name not in plan.by_name}
    invented = {name: "not in the source" for name in plan.by_name if name not in index.tensors}
    other_shape = {
        name: f"planned as {list(tensor.shape)}, stored as {list(index.tensors[name].shape)}"
        for name, tensor in plan.by_name.items()
        if name in index.tensors and tensor.shape != index.tensors[name].shape
    }
    repeated = {"plan": "names a tensor twice"} if len(plan.by_name) < len(plan.tensors) else {}
    yield _check("source_covered", "each source tensor is planned once", unplanned | invented | other_shape | repeated)
    silent = {tensor.name: "no reason" for tensor in plan.tensors if tensor.action == "drop" and not tensor.reason}
    yield _check("drops_explained", "each tensor that is left out has a reason", silent)


def _tensor_checks(expected: list[TensorPlan], findings: _Findings) -> Iterator[Check]:
    missing = {tensor.name: "not stored" for tensor in expected if tensor.name not in findings.seen}
    yield _check("readable", "the files can be read to their end", findings.unreadable)
    yield _check("tensors_present", "each planned tensor is stored", missing)
    yield _check("tensors_unique", "no tensor is stored twice", findings.twice)
    yield _check("nothing_else", "no other tensor is stored", findings.unknown)
    yield _check("schemes", "each tensor is stored in its planned scheme", findings.other_scheme)
    yield _check("stored_bytes", "each tensor takes its planned bytes", findings.other_size)
    yield _check("shapes", "shapes are the source's", findings.misshapen)
    yield _check("finite", "no value is NaN or infinite", findings.not_finite)
    yield _check("quantized", "no quantized tensor is a copy of its source", findings.copied)
    yield _check("error_bounds", "each tensor's relative RMSE is within its scheme's bound", findings.too_far)
    yield _check("slopes", "no tensor is larger or smaller than its source by a factor", findings.biased)
    yield _check("block_bounds", "each block's error is within its scheme's bound", findings.bad_block)


def _fold_checks(plan: Plan, findings: _Findings) -> Iterator[Check]:
    if plan.folds:
        yield _check("folds", "what one weight is divided by, the others are multiplied by", findings.unfolded)


def _observation_checks(observations: Iterable[Observation]) -> Iterator[Check]:
    """One check for each group of observations, in the order in which the method states them."""
    groups: dict[str, list[Observation]] = {}
    for observation in observations:
        groups.setdefault(observation.check, []).append(observation)
    for name, group in groups.items():
        faults = {
            observation.name: f"{_shown(observation.found)} instead of {_shown(observation.expected)}"
            for observation in group
            if not observation.holds
        }
        yield _check(name, f"{len(group)} observations are what the source and the plan say", faults)


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _size_check(nbytes: int, plan: Plan, checkpoint: Checkpoint) -> Check:
    """All tensors' bytes must be there, and not much beside: a method that did nothing writes too much."""
    carried = sum(path.stat().st_size for path in checkpoint.index.files.values())
    graph, gguf = checkpoint.index.graph, checkpoint.index.gguf
    stored = sum(map(_stored_names, plan.tensors))
    allowance = FIXED_OVERHEAD + TENSOR_OVERHEAD * stored + CARRIED_OVERHEAD * carried
    allowance += GRAPH_OVERHEAD * graph.nbytes if graph is not None else 0
    allowance += gguf.nbytes if gguf is not None else 0
    least = plan.nbytes + sum(tensor.beside for tensor in plan.tensors)
    most = least + allowance
    detail = "" if least <= nbytes <= most else f"{nbytes} bytes were written, planned were {least} to {most}"
    return Check("size", not detail, nbytes, {"least": least, "most": most}, detail)


def _stored_names(tensor: TensorPlan) -> int:
    """How many tensors of an artifact it may be: experts are stored one by one, and gate and up each for itself."""
    apart = tensor.action == "quantize" or tensor.output != tensor.name  # what is kept as it is has the source's name
    return 2 * math.prod(tensor.shape[:-2]) if apart and len(tensor.shape) > 2 else 1


def _check(name: str, expected: str, faults: Mapping[str, str]) -> Check:
    named = [f"{tensor}: {fault}" for tensor, fault in list(faults.items())[:SHOWN]]
    if len(faults) > SHOWN:
        named.append(f"and {len(faults) - SHOWN} more")
    return Check(name, not faults, len(faults), expected, "; ".join(named))


def _refuse_failed(checks: tuple[Check, ...]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        summary = ". ".join(f"{check.name}: {check.detail}" for check in failed)
        raise VerificationFailed(f"{summary}.", failed=[asdict(check) for check in failed])
