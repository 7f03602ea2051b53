"""The independent check of a written artifact.

It reopens the files with the method's `read` alone, which shares no code with the encoder, and compares what comes
out with the source and the plan. Memory is bounded by one tensor as `read` gives it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.checkpoints.folder import Checkpoint
from quantmill.contract.errors import Canceled, ResourceExhausted, VerificationFailed
from quantmill.contract.method import Method
from quantmill.contract.tensors import FloatArray, ModelIndex, Plan, TensorPlan
from quantmill.domain.artifacts import Metric

CHUNK = 1 << 16  # values compared at a time; float64 copies of this many stay in the processor's cache
SHOWN = 20  # tensors that a failed check names; the rest are counted

# What an artifact's files may hold beside its tensors' bytes.
FIXED_OVERHEAD = 64 << 10
TENSOR_OVERHEAD = 1 << 10  # name, shape, type, offset, padding of its parts
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
    """How far a tensor as read back is from its source: rms(read - source) / rms(source), max |read - source|."""

    name: str
    scheme: str
    values: int
    relative_rmse: float
    max_abs_error: float


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
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check the files that `method` wrote to `folder` against `plan` and the source.

    Every source tensor is stored exactly once or dropped for a stated reason, and nothing else is stored; shapes
    are the source's; all values are finite; each tensor's relative RMSE is within the method's bound for its
    scheme; the files have the planned size. `progress(done, total)` counts tensors.

    Raises VerificationFailed with every failed check in `failed`.
    """
    findings = _Findings()
    expected = [tensor for tensor in plan.tensors if tensor.action != "drop"]
    for name, values in _read(method, folder, findings):
        _examine(name, values, checkpoint, plan, findings)
        del values  # else it would stay while the next one is made
        if progress is not None:
            progress(len(findings.seen), len(expected))
    nbytes = _size_of(folder)
    checks = (
        *_plan_checks(plan, checkpoint.index),
        *_tensor_checks(expected, method, findings),
        _size_check(nbytes, plan, checkpoint),
    )
    _refuse_failed(checks)
    return Verification(
        checks=checks,
        tensors=tuple(findings.results[tensor.name] for tensor in expected),
        relative_rmse=_ratio(findings.squared_error, findings.squared_source),
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
    misshapen: dict[str, str] = field(default_factory=dict)
    not_finite: dict[str, str] = field(default_factory=dict)
    squared_error: float = 0.0
    squared_source: float = 0.0


def _read(method: Method, folder: Path, findings: _Findings) -> Iterator[tuple[str, FloatArray]]:
    """What `read` gives, until it fails: whatever it raises says that the files are not right."""
    try:
        yield from method.read.load()(folder)
    except (Canceled, ResourceExhausted, MemoryError, GeneratorExit):
        raise
    except Exception as error:
        findings.unreadable["files"] = f"{type(error).__name__}: {error}"[:500]


def _examine(name: str, values: FloatArray, checkpoint: Checkpoint, plan: Plan, findings: _Findings) -> None:
    planned = plan.by_name.get(name)
    if planned is None or planned.action == "drop" or name not in checkpoint.index.tensors:
        findings.unknown[name] = "not planned" if planned is None else "planned to be left out"
        return
    if name in findings.seen:
        findings.twice[name] = "stored more than once"
        return
    findings.seen.add(name)
    if values.dtype != np.float32 or values.shape != planned.shape:
        findings.misshapen[name] = f"{values.dtype} {list(values.shape)} instead of float32 {list(planned.shape)}"
        return
    error = _compare(values, checkpoint.tensor(name).values)
    if error.not_finite:
        findings.not_finite[name] = f"{error.not_finite} of {values.size} values are NaN or infinite"
        return
    findings.results[name] = TensorResult(
        name, planned.scheme, planned.values, _ratio(error.squared_error, error.squared_source), error.max_abs_error
    )
    findings.squared_error += error.squared_error
    findings.squared_source += error.squared_source


@dataclass
class _Error:
    """Sums over the values of one tensor, in float64."""

    not_finite: int = 0
    squared_error: float = 0.0
    squared_source: float = 0.0
    max_abs_error: float = 0.0


def _compare(values: FloatArray, source: NDArray[Any]) -> _Error:
    """The error of `values` (float32) against `source` (any dtype, the same shape)."""
    flat_values, flat_source = values.reshape(-1), source.reshape(-1)
    error = _Error()
    for start in range(0, flat_values.size, CHUNK):
        chunk = flat_values[start : start + CHUNK]
        wanted = flat_source[start : start + CHUNK].astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in `largest`
            difference = chunk - wanted
        largest = float(np.maximum(difference.max(), -difference.min()))
        if not math.isfinite(largest):
            error.not_finite += chunk.size - int(np.count_nonzero(np.isfinite(chunk)))
        error.max_abs_error = max(error.max_abs_error, largest)
        error.squared_error += _sum_of_squares(difference)
        error.squared_source += _sum_of_squares(wanted)
    return error


def _sum_of_squares(values: FloatArray) -> float:
    """In float64 and in one order; BLAS would choose the order, and wait for its threads, by the machine."""
    wide = values.astype(np.float64)
    return float(np.einsum("i,i->", wide, wide))


def _ratio(squared_error: float, squared_source: float) -> float:
    """rms(error) / rms(source); a tensor of zeros has no error or an infinite one."""
    if squared_source == 0.0:
        return 0.0 if squared_error == 0.0 else math.inf
    return math.sqrt(squared_error / squared_source)


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


def _tensor_checks(expected: list[TensorPlan], method: Method, findings: _Findings) -> Iterator[Check]:
    missing = {tensor.name: "not stored" for tensor in expected if tensor.name not in findings.seen}
    yield _check("readable", "the files can be read to their end", findings.unreadable)
    yield _check("tensors_present", "each planned tensor is stored", missing)
    yield _check("tensors_unique", "no tensor is stored twice", findings.twice)
    yield _check("nothing_else", "no other tensor is stored", findings.unknown)
    yield _check("shapes", "shapes are the source's", findings.misshapen)
    yield _check("finite", "no value is NaN or infinite", findings.not_finite)
    too_far = dict(_beyond_bounds(findings.results, method.error_bounds))
    yield _check("error_bounds", "each tensor's relative RMSE is within its scheme's bound", too_far)


def _beyond_bounds(results: Mapping[str, TensorResult], bounds: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for name, result in results.items():
        bound = bounds.get(result.scheme)
        if bound is None:
            yield name, f"the method states no bound for {result.scheme}"
        elif not result.relative_rmse <= bound:  # so that NaN fails
            yield name, f"relative RMSE {result.relative_rmse:.6g}, at most {bound:g} for {result.scheme}"


def _size_check(nbytes: int, plan: Plan, checkpoint: Checkpoint) -> Check:
    """All tensors' bytes must be there, and not much beside: a method that did nothing writes too much."""
    carried = sum(path.stat().st_size for path in checkpoint.index.files.values())
    allowance = FIXED_OVERHEAD + TENSOR_OVERHEAD * len(plan.tensors) + CARRIED_OVERHEAD * carried
    least, most = plan.nbytes, plan.nbytes + allowance
    detail = "" if least <= nbytes <= most else f"{nbytes} bytes were written, planned were {least} to {most}"
    return Check("size", not detail, nbytes, {"least": least, "most": most}, detail)


def _size_of(folder: Path) -> int:
    return sum(
        os.lstat(Path(inner) / name).st_size for inner, _, names in os.walk(folder, followlinks=False) for name in names
    )


def _check(name: str, expected: str, faults: Mapping[str, str]) -> Check:
    named = [f"{tensor}: {fault}" for tensor, fault in list(faults.items())[:SHOWN]]
    if len(faults) > SHOWN:
        named.append(f"and {len(faults) - SHOWN} more")
    return Check(name, not faults, len(faults), expected, "; ".join(named))


def _refuse_failed(checks: tuple[Check, ...]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        summary = ". ".join(f"{check.name}: {check.detail}" for check in failed)
        raise VerificationFailed(
            f"The written artifact is not what was planned. {summary}.", failed=[asdict(check) for check in failed]
        )
