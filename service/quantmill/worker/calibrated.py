"""A job's calibration: windows from its text, the engine over them, and what is reported of it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmill.calibration import StatisticsCache
from quantmill.calibration.samples import Samples, read_windows
from quantmill.checkpoints import Checkpoint
from quantmill.contract.calibration import CalibrationCost, calibration_cost, require_calibration
from quantmill.contract.errors import QuantmillError, RequestRejected, ResourceExhausted
from quantmill.contract.tensors import Plan, QuantizedTensor
from quantmill.domain.calibration import CalibrationOptions
from quantmill.files.blobs import BlobStore
from quantmill.worker.environment import peak_memory_bytes
from quantmill.worker.messages import Findings, FinishedUnit, SensitivityFound, Start
from quantmill.worker.session import check_canceled, require_finite

if TYPE_CHECKING:
    from quantmill.calibration.engine import Engine

LISTED = 20  # starved experts in a warning; the report has all


@dataclass(frozen=True)
class CalibrationRun:
    """A job that is calibrated: the windows, how they were asked for, and the engine that runs blocks on them, unless
    the method runs the model itself."""

    engine: Engine | None
    samples: Samples
    options: CalibrationOptions
    store: BlobStore

    def handing_on(
        self,
        units: Iterable[tuple[str, tuple[QuantizedTensor, ...]]],
        carries: MutableMapping[str, str],
        findings: MutableMapping[str, Findings],
    ) -> Iterator[tuple[str, tuple[QuantizedTensor, ...]]]:
        """The units, each once its block has been run as it has become.

        `carries` get what is behind it, by digest, `findings` what its experts were sent, those too of blocks before it
        that the plan leaves as they are, and what its weights lose.
        """
        engine = self.engine
        if engine is None:
            yield from units
            return
        known = {*engine.routed, *engine.sensitivity}
        for key, tensors in units:
            behind = engine.advance()
            routed = {module: tuple(counts) for module, counts in engine.routed.items() if module not in known}
            sensitivity = {
                name: SensitivityFound(**vars(found)) for name, found in engine.sensitivity.items() if name not in known
            }
            known |= routed.keys() | sensitivity.keys()
            findings[key] = Findings(routed=routed, sensitivity=sensitivity, device=engine.kind)
            if behind is not None:
                carries[key] = self.store.put_file(behind, move=True).digest
            yield key, tensors

    def to_json(self, findings: Sequence[Findings]) -> dict[str, Any]:
        """What quantmill.json keeps: the windows by their digest, what the experts saw of them, what the weights lose,
        what is doubtful.

        `findings` are those of all units, earlier attempts' too.
        """
        samples, engine = self.samples, self.engine
        told: dict[str, Any] = {
            "digest": samples.digest,
            "text": {**samples.text.to_json(), "tokens": samples.tokens, "unknown": samples.unknown},
            "options": self.options.asked() | {"windows": len(samples.ids), "window": samples.window},
        }
        if engine is None:
            return {**told, "warnings": list(samples.warnings)}
        lost = {name: found for each in findings for name, found in each.sensitivity.items()}
        lost |= {name: SensitivityFound(**vars(found)) for name, found in engine.sensitivity.items()}
        routed = {module: [*counts] for found in findings for module, counts in found.routed.items()}
        routed |= engine.routed
        starved = dict(self._starved(routed))
        return {
            **told,
            "experts": [
                {"module": module, "tokens": counts, "starved": starved.get(module, [])}
                for module, counts in routed.items()
            ],
            "sensitivity": {name: found.model_dump(mode="json") for name, found in lost.items()},
            "device": engine.kind,
            "statistics_from_cache": engine.from_cache,
            "seconds": {phase: round(seconds, 3) for phase, seconds in engine.seconds.items()},
            "warnings": [*samples.warnings, *self._expert_warnings(starved)],
        }

    def _starved(self, routed: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, list[int]]]:
        for module, counts in routed.items():
            few = [expert for expert, count in enumerate(counts) if count < self.options.least_expert_tokens]
            if few:
                yield module, few

    def _expert_warnings(self, starved: dict[str, list[int]]) -> Iterator[str]:
        if not starved:
            return
        names = [f"{module}.{expert}" for module, few in starved.items() for expert in few]
        listed = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        fed = "were fed all tokens" if self.options.starved_experts == "all_tokens" else "rest on few samples or none"
        yield (
            f"{len(names)} experts were sent fewer than {self.options.least_expert_tokens} calibration tokens and "
            f"{fed}: {listed}"
        )


def windows_of_task(task: Start, checkpoint: Checkpoint) -> Samples | None:
    """Now, so that a text that cannot be used ends the job before its source is read."""
    if task.calibration is None:
        return None
    return read_windows(checkpoint.index, Path(task.calibration.text), task.calibration)


@contextmanager
def calibration_of(
    task: Start,
    checkpoint: Checkpoint,
    plan: Plan,
    samples: Samples | None,
    source_digest: str,
    finished: Sequence[FinishedUnit],
    progress: Callable[[int, int], None],
    canceled: threading.Event,
) -> Iterator[CalibrationRun | None]:
    """`samples`, and where the host runs blocks the engine over them, going on behind the `finished` units.

    None for a job without calibration.

    Raises RequestRejected where the plan and the request disagree on that, ResourceExhausted when the disk has no room
    or the worker allows less memory than it takes, QuantmillError where the worker lacks the device that it is set to.
    """
    require_calibration(plan, task.method, given=samples is not None)
    if samples is None or task.calibration is None:
        yield None
        return
    store = BlobStore(task.carry_store, durable=False)  # a later attempt checks what it takes over
    options = task.calibration
    if plan.calibration is not None and not plan.calibration.runs_blocks:
        yield CalibrationRun(None, samples, options, store)
        return
    from quantmill.calibration.block import ExpertRules
    from quantmill.calibration.engine import Engine

    find_worker_device(task.device)
    folder = task.export_folder.parent
    cost = calibration_cost(
        checkpoint.index, plan, windows=len(samples.ids), window=samples.window, threads=task.threads
    )
    require_room(folder, cost)
    require_memory(cost, plan, held=peak_memory_bytes(), limit=task.memory_bytes)
    carries: MutableMapping[str, Path] = {unit.key: store.path(unit.carry) for unit in finished if unit.carry}
    with Engine(
        checkpoint.index,
        plan,
        lambda name: finite(checkpoint, name),
        samples.ids,
        folder=folder,
        threads=task.threads,
        device=task.device,
        carries=carries,
        experts=ExpertRules(options.least_expert_tokens, options.starved_experts == "all_tokens"),
        cache=StatisticsCache(task.statistics_cache, task.statistics_cache_bytes),
        key={"source": source_digest, "windows": samples.digest},
        progress=progress,
        pause=lambda: check_canceled(canceled),
    ) as engine:
        engine.know()
        yield CalibrationRun(engine, samples, options, store)


def find_worker_device(name: str) -> str:
    """The kind of the device that QUANTMILL_DEVICE names.

    Raises QuantmillError where this machine lacks it: the request is not to blame.
    """
    from quantmill.calibration.decoder import find_device, kind_of

    try:
        return kind_of(find_device(name))
    except RequestRejected as error:
        raise QuantmillError(f"QUANTMILL_DEVICE: {error.detail}", device=name) from error


def kind_of_worker(task: Start, plan: Plan) -> str:
    """The kind of device that this attempt runs blocks on; as a job's units have it that runs none, "cpu"."""
    runs = plan.calibration is not None and plan.calibration.runs_blocks
    return find_worker_device(task.device) if runs else Findings().device


def finite(checkpoint: Checkpoint, name: str) -> Any:
    tensor = checkpoint.tensor(name)
    require_finite(tensor)
    return tensor.values


def require_room(folder: Path, cost: CalibrationCost) -> None:
    """Raises ResourceExhausted with both numbers where the disk has too little for hidden states and statistics."""
    free = shutil.disk_usage(folder).free
    if cost.disk > free:
        raise ResourceExhausted(
            f"calibration takes {cost.disk} bytes of disk, {folder} has {free}; use fewer samples or a smaller window, "
            "or make room in the data folder",
            needed_bytes=cost.disk,
            free_bytes=free,
        )


def require_memory(cost: CalibrationCost, plan: Plan, *, held: int, limit: int | None) -> None:
    """Raises ResourceExhausted with both numbers where the runner, which holds `held` bytes, may not take what a block,
    its activations, its statistics and the method take: now, not hours later when the supervisor would stop it."""
    needed = held + cost.memory + plan.peak_memory_bytes
    if limit is not None and needed > limit:
        raise ResourceExhausted(
            f"calibration takes {needed} bytes of memory: {cost.memory} for a block, its activations and statistics, "
            f"{plan.peak_memory_bytes} for the method, {held} that the runner holds already; this worker allows "
            f"{limit} (QUANTMILL_RUNNER_MEMORY_BYTES). Use a smaller window or fewer threads, or allow more",
            needed_bytes=needed,
            limit_bytes=limit,
        )


def usable(plan: Plan, finished: Sequence[FinishedUnit], carries: Path, device: str) -> tuple[FinishedUnit, ...]:
    """Those finished units that a new attempt can build on which calibrates on this kind of device.

    Devices of two kinds do not compute the same bits: units that were calibrated on another kind are done anew. Blocks
    stand on each other: they count as far as they are there without a gap, and only with the hidden states
    behind the last of them, unless that is the last of all. Else all blocks are done anew.
    """
    finished = [unit for unit in finished if unit.findings.device == device]
    by_key = {unit.key: unit for unit in finished}
    walked = [unit.key for unit in plan.units if unit.block is not None]
    done = [key for key in walked if key in by_key]
    whole = done == walked[: len(done)] and (done == walked or _is_whole(BlobStore(carries), by_key, done))
    return tuple(unit for unit in finished if unit.key not in walked or whole)


def _is_whole(store: BlobStore, by_key: Mapping[str, FinishedUnit], done: Sequence[str]) -> bool:
    carry = by_key[done[-1]].carry if done else None
    if carry is None:
        return not done
    try:
        store.verify(carry)
    except (QuantmillError, OSError):
        return False
    return True
