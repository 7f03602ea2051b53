"""The host's side of a running method."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.checkpoints import Checkpoint
from quantmill.contract.calibration import CalibratedBlock, Calibration, Statistics, required
from quantmill.contract.errors import CalibrationMissing, Canceled, NonFiniteTensor
from quantmill.contract.gguf import TYPES, BlockTensor
from quantmill.contract.session import Figure, Note, checked_note
from quantmill.contract.tensors import ModelIndex, Plan, SourceTensor, TensorInfo, Unit
from quantmill.worker.kept import KeptState

WEIGHTS = ("F32", "F16", "BF16")  # dtypes that the kernels look through
CHUNK_VALUES = 1 << 22  # values looked at in one step, so that the check needs no second copy of a tensor


class RunnerSession:
    """Session over an open checkpoint; `finished` names the units that an earlier attempt has done."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        *,
        threads: int,
        device: str,
        seed: int,
        finished: Collection[str],
        canceled: threading.Event,
        calibration: Calibration | None = None,
        windows: Sequence[NDArray[np.int64]] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        kept: KeptState | None = None,
    ) -> None:
        """`kept` is what outlives the attempt; without it nothing does."""
        self._checkpoint = checkpoint
        self._plan = plan
        self._threads = threads
        self._device = device
        self._seed = seed
        self._finished = frozenset(finished)
        self._canceled = canceled
        self._calibration = calibration
        self._windows = windows
        self._progress = progress
        self._kept = kept
        self._notes: dict[tuple[str, str], Note] = {}

    @property
    def index(self) -> ModelIndex:
        return self._checkpoint.index

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def device(self) -> str:
        return self._device

    @property
    def seed(self) -> int:
        return self._seed

    def units(self) -> Iterator[Unit]:
        for unit in self._plan.units:
            if unit.key in self._finished or unit.block is not None:
                continue
            check_canceled(self._canceled)
            yield unit

    def tensor(self, name: str) -> SourceTensor:
        check_canceled(self._canceled)
        tensor = self._checkpoint.tensor(name)
        require_finite(tensor, self._threads)
        return tensor

    def statistics(self, name: str) -> Statistics:
        return required(self._calibration).statistics(name)

    def blocks(self) -> Iterator[CalibratedBlock]:
        for block in required(self._calibration).blocks(self._finished):
            check_canceled(self._canceled)
            yield block

    def windows(self) -> Sequence[NDArray[np.int64]]:
        need = self._plan.calibration
        if self._windows is None or need is None or not need.windows:
            raise CalibrationMissing("the job's plan takes no windows of a calibration text")
        return self._windows

    def pause(self) -> None:
        check_canceled(self._canceled)

    def progress(self, done: int, total: int) -> None:
        check_canceled(self._canceled)
        self._progress(done, total)

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        if self._kept is not None:
            self._kept.put(name, arrays)

    def kept(self, name: str) -> Mapping[str, NDArray[Any]] | None:
        return None if self._kept is None else self._kept.get(name)

    def note(self, tensor: str, found: str, **figures: Figure) -> None:
        self._notes[tensor, found] = checked_note(self._plan, tensor, found, figures)

    def take_notes(self) -> Sequence[Note]:
        """For the host: what has been said since it asked last."""
        taken, self._notes = self._notes, {}
        return [*taken.values()]


def check_canceled(canceled: threading.Event) -> None:
    if canceled.is_set():
        raise Canceled("the job was canceled")


def require_finite(tensor: SourceTensor, threads: int = 1) -> None:
    """Raise NonFiniteTensor with the first bad position of a float tensor."""
    if isinstance(tensor, BlockTensor):
        _require_finite_blocks(tensor)
        return
    if np.issubdtype(tensor.values.dtype, np.integer) or tensor.values.dtype == np.bool_ or _is_finite(tensor, threads):
        return
    flat = tensor.values.reshape(-1)
    for start in range(0, flat.size, CHUNK_VALUES):
        finite = np.isfinite(flat[start : start + CHUNK_VALUES])
        if not finite.all():
            offset = start + int(np.argmin(finite))
            raise _not_finite(tensor.info, offset, flat[offset])


def _require_finite_blocks(tensor: BlockTensor) -> None:
    """As `require_finite`, of a tensor in blocks: as many rows as fit are decoded at a time."""
    cols = tensor.info.shape[-1]
    step = max(1, CHUNK_VALUES // cols)
    for row in range(0, len(tensor.packed), step):
        some = slice(row, row + step)
        coded = tensor.type.name in TYPES  # else the kernels do not know it
        values = quantmill_kernels.decode(tensor.type.name, tensor.packed[some], cols) if coded else tensor.at(some)
        finite = np.isfinite(values).reshape(-1)
        if not finite.all():
            offset = int(np.argmin(finite))
            raise _not_finite(tensor.info, row * cols + offset, values.reshape(-1)[offset])


def _not_finite(info: TensorInfo, offset: int, value: object) -> NonFiniteTensor:
    position = [int(axis) for axis in np.unravel_index(offset, info.shape)]
    return NonFiniteTensor(
        f"tensor {info.name!r} holds {value} at {position}; repair or re-export the checkpoint",
        tensor=info.name,
        position=position,
    )


def _is_finite(tensor: SourceTensor, threads: int) -> bool:
    """Whether the kernels find a largest magnitude, at the speed of memory; False where they cannot say."""
    values = tensor.values
    if tensor.info.dtype not in WEIGHTS or values.size == 0:
        return False
    try:
        quantmill_kernels.absmax(values.reshape(-1, values.shape[-1] if values.ndim else 1), threads=threads)
    except ValueError:  # of the first value that is not finite, by row and column of the matrix alone
        return False
    return True
