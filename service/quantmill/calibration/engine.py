"""The calibration half of a Session: the source model's own pass, and the walk over blocks that change on the way.

Each window runs by itself in one thread of torch's, several windows at a time, and what is gathered takes them in
their order. So nothing depends on how many threads there are or how many windows are in memory.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray

from quantmill.calibration.activations import Activations
from quantmill.calibration.block import ExpertRules, RunningBlock, Threads
from quantmill.calibration.decoder import Call, Decoder, compute_in_float32, kind_of, limit_threads
from quantmill.calibration.known import KnownStatistics, StatisticsCache, Writing
from quantmill.calibration.resident import Tensors, aligned, resident
from quantmill.contract.calibration import CalibratedBlock, CalibrationNeed, Statistics, cached_names
from quantmill.contract.errors import CalibrationMissing, SourceRejected
from quantmill.contract.experts import Stack, stacks
from quantmill.contract.sensitivity import Sensitivity
from quantmill.contract.tensors import ModelIndex, Plan, SourceTensor, Unit


class TensorSource(Protocol):
    """An opened checkpoint."""

    @property
    def index(self) -> ModelIndex: ...

    def tensor(self, name: str) -> SourceTensor: ...


Ids = Sequence[NDArray[np.int64]]  # the tokens of each window
Progress = Callable[[int, int], None]


class Engine:
    """A Calibration over the windows `ids`; `tensors` gives the source's values by name.

    `carries` are files with the hidden states behind a block, by the key of its unit: those of an earlier attempt, and
    those that this one makes in `folder`. A context manager: its threads and files go in the end.
    """

    def __init__(
        self,
        index: ModelIndex,
        plan: Plan,
        tensors: Tensors,
        ids: Ids,
        *,
        folder: Path,
        threads: int = 1,
        device: str = "cpu",
        carries: MutableMapping[str, Path] | None = None,
        experts: ExpertRules | None = None,
        cache: StatisticsCache | None = None,
        key: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """`key` names source and windows for the `cache` of the source's own pass. `progress(done, total)` counts its
        blocks; `pause` is called between them and while another job makes what this one needs, and may raise. `device`
        is torch's: what statistics are gathered on.

        Raises ArchitectureUnsupported where transformers does not have the model, SourceRejected for a token that it
        does not know, RequestRejected where this machine has no such device."""
        self._index = index
        self._plan = plan
        self._tensors = tensors
        self._ids = ids
        self._folder = folder
        self._carries = {} if carries is None else carries
        self._rules = experts or ExpertRules()
        self._cache = cache or StatisticsCache(folder / "statistics", 0)
        self._key = dict(key or {})
        self._progress = progress
        self._pause = pause
        self._decoder = Decoder.of(index, device)
        self._decoder.run_experts_alone()
        compute_in_float32(self._decoder.device)
        self.kind = kind_of(self._decoder.device)
        highest = max(int(window.max()) for window in ids)
        if highest >= self._decoder.vocabulary:
            raise SourceRejected(
                f"The tokenizer makes token {highest}, but the model knows {self._decoder.vocabulary} tokens."
            )
        self._threads = Threads(threads)
        self._calls: dict[int, list[Call]] = {}  # by the window's length
        self._known: KnownStatistics | None = None
        self._reused: list[bool] = []  # whether what is known was an earlier job's, opening by opening
        self._stack = ExitStack()
        self.seconds: dict[str, float] = defaultdict(float)
        self.routed: dict[str, list[int]] = {}
        self.sensitivity: dict[str, Sensitivity] = {}
        self._walked = [unit for unit in plan.units if unit.block is not None]
        self._running: RunningBlock | None = None
        self._at: tuple[int, Activations] | None = None  # hidden states before this block

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._threads.close()
        self._leave()

    # The source's own pass

    def statistics(self, name: str) -> Statistics:
        need = self._plan.calibration
        if need is None or not need.of_source or name not in (*need.weights, *_cached(need)):
            raise CalibrationMissing(f"the plan does not ask for statistics of {name!r}", tensor=name)
        self.know()
        found = self._known.get(name) if self._known is not None else None
        if found is None:
            when = " in the block that is given now" if self._unchanged else ""
            raise CalibrationMissing(f"the source's pass gave no statistics of {name!r}{when}", tensor=name)
        return found

    def know(self) -> None:
        """Have the statistics of the source's own pass: made now, or by an earlier job.

        Nothing where the plan asks for none, or for those of each block when `blocks` comes to it.
        """
        need = self._plan.calibration
        if self._known is None and need is not None and need.of_source and not self._unchanged:
            asked = {"weights": sorted(need.weights)} | ({"caches": sorted(need.caches)} if need.caches else {})
            self._known = self._stack.enter_context(
                self._opened(need, asked, lambda writing: self._source_pass(need, writing))
            )

    @contextmanager
    def _opened(
        self, need: CalibrationNeed, asked: Mapping[str, Any], make: Callable[[Writing], None]
    ) -> Iterator[KnownStatistics]:
        key = {**self._key, "kinds": sorted(need.of_source), **asked, **vars(self._rules)}
        key |= {"device": self.kind} if self.kind != "cpu" else {}
        with self._cache.opened(key, make, self._folder, self._pause) as known:
            self._reused.append(known.from_cache)
            self.routed = known.routed | self.routed
            self.sensitivity = known.sensitivity | self.sensitivity
            yield known

    def _source_pass(self, need: CalibrationNeed, writing: Writing) -> None:
        """The statistics of every wanted Linear, block by block."""
        where = self._block_of()
        unknown = sorted(set(need.weights) - where.keys())
        if unknown:
            raise CalibrationMissing(f"{unknown[0]!r} is in no block of the model ({len(unknown)} in all)")
        attention_of = self._attentions(need, where)
        last = max((*(where[name] for name in need.weights), *attention_of), default=-1)
        before, routed, found = self._embed(), dict[str, list[int]](), dict[str, Sensitivity]()
        for number in range(last + 1):
            self._pause()
            names = [name for name in need.weights if where[name] == number]
            after = self._room() if number < last else None
            with self._block(number, "", before) as block, self._timed("source"):
                writing.add(number, block.gather_named(names, need.of_source, after, attention_of.get(number)))
                routed |= block.routed
                found |= block.sensitivity
                self.seconds["sensitivity"] += block.measuring_seconds
            before.discard()
            before = after or before
            if self._progress is not None:
                self._progress(number + 1, last + 1)
        writing.note(routed, found)

    def _block_of(self) -> dict[str, int]:
        """The block of each source tensor that is in one, and of the experts that `need.weights` tells apart."""
        where = self._decoder.block_of()
        for name, stack in self._apart.items():
            where |= {f"{module}.weight": where[name] for module in stack.modules}
        return where

    @cached_property
    def _apart(self) -> Mapping[str, Stack]:
        """The stacks whose experts are asked for one by one."""
        need = self._plan.calibration
        wanted = set(need.weights if need is not None else ())
        return {
            name: stack
            for name, stack in stacks(self._index).items()
            if not stack.transposed and any(f"{module}.weight" in wanted for module in stack.modules)
        }

    def _attentions(self, need: CalibrationNeed, where: Mapping[str, int]) -> dict[int, str]:
        """The attention of each block whose keys and values are wanted."""
        blocks = {name.rpartition(".")[0].rpartition(".")[0]: number for name, number in where.items()}
        unknown = sorted(set(need.caches) - blocks.keys())
        if unknown:
            raise CalibrationMissing(f"{unknown[0]!r} is in no block of the model ({len(unknown)} in all)")
        return {blocks[attention]: attention for attention in need.caches}

    # The walk

    def blocks(self, finished: Collection[str]) -> Generator[CalibratedBlock, None, None]:
        for unit in self._walked:
            if unit.key in finished:
                continue
            number, before = self._stand_before(unit)
            with self._block(number, unit.key, before) as block, self._as_the_source_has_it(unit, block):
                self._running = block
                yield block
                self.advance()
                self._running = None

    @property
    def _unchanged(self) -> bool:
        """Whether the walk leaves the blocks as the source has them, and is its own pass."""
        return self._plan.calibration is not None and self._plan.calibration.walks_the_source(self._plan.units)

    @contextmanager
    def _as_the_source_has_it(self, unit: Unit, block: RunningBlock) -> Iterator[None]:
        """While it lasts, `statistics` answers for this block: by a run of now, which gives its outputs too, or by an
        earlier job."""
        need = self._plan.calibration
        if need is None or not self._unchanged:
            yield
            return
        block.stays = True
        names = [name for name in need.weights if name in unit.tensors]
        last = unit is self._walked[-1]

        def make(writing: Writing) -> None:
            with self._timed("source"):
                block.outputs = None if last else self._room()
                writing.add(block.number, block.gather_named(names, need.of_source, block.outputs))
            writing.note(block.routed, block.sensitivity)

        with self._opened(need, {"weights": sorted(names), "block": block.number}, make) as self._known:
            yield
        self._known = None

    def advance(self) -> Path | None:
        """Run all windows through the block that `blocks` has given, as it has become; nothing the second time.

        Gives the file with the hidden states behind it; None where no block of the plan follows.
        """
        if self._running is None or self._running.done or self._at is None:
            return None
        block, number = self._running, self._at[0]
        if unit_number(self._walked[-1]) == number:
            block.done = True
            self._learn(block)
            return None
        with self._timed("advance"):
            after = block.outputs or self._room()
            if block.outputs is None:
                block.advance(after)
            block.done = True
            self._learn(block)
            after.say({"routed": self.routed})
        self._stand(number + 1, after)
        self._carries[block.unit] = after.path
        return after.path

    def _learn(self, block: RunningBlock) -> None:
        self.routed |= block.routed
        self.sensitivity |= block.sensitivity
        self.seconds["sensitivity"] += block.measuring_seconds

    def _stand_before(self, unit: Unit) -> tuple[int, Activations]:
        """The hidden states that the unit's block is fed."""
        number, position = unit_number(unit), self._walked.index(unit)
        if self._at is None or self._at[0] != number:
            self._stand(*self._nearest(position))
        while self._at is not None and self._at[0] < number:  # blocks that the plan leaves as they are
            at, before = self._at
            after = self._room()
            with self._block(at, "", before) as block, self._timed("advance"):
                block.advance(after)
                self.routed |= block.routed
            self._stand(at + 1, after)
        assert self._at is not None
        return self._at

    def _nearest(self, position: int) -> tuple[int, Activations]:
        """Behind the unit before, where an earlier attempt left it, or at the beginning."""
        if position == 0:
            return 0, self._embed()
        before = self._walked[position - 1]
        if before.key not in self._carries:
            raise CalibrationMissing(
                f"the hidden states behind {before.key!r} are gone; the blocks have to be done anew"
            )
        found = Activations.open(self._carries[before.key], self._lengths, self._decoder.hidden)
        self.routed |= found.said["routed"]
        self._embed_one_each()
        return unit_number(before) + 1, found

    def _stand(self, number: int, hidden: Activations) -> None:
        if self._at is not None:
            self._leave()
        self._at = number, hidden

    def _leave(self) -> None:
        """Close the hidden states; those that no later attempt can use go."""
        if self._at is not None:
            _, hidden = self._at
            hidden.close() if hidden.path in self._carries.values() else hidden.discard()
            self._at = None

    # Windows

    @property
    def from_cache(self) -> bool:
        """Whether the source's own pass was an earlier job's."""
        return bool(self._reused) and all(self._reused)

    @property
    def _lengths(self) -> list[int]:
        return [len(window) for window in self._ids]

    def _room(self) -> Activations:
        return Activations.create(self._folder / f"{uuid4().hex}.hidden", self._lengths, self._decoder.hidden)

    def _embed(self) -> Activations:
        """The hidden states before the first block."""
        room = self._room()
        with self._embedding(), self._timed("embed"):
            for window, ids in enumerate(self._ids):
                room.write(window, self._hidden_of(ids))
        return room

    def _embed_one_each(self) -> None:
        """Find out what blocks are called with beside hidden states: it depends on a window's length alone."""
        with self._embedding():
            for ids in {len(ids): ids for ids in self._ids}.values():
                self._hidden_of(ids)

    @contextmanager
    def _embedding(self) -> Iterator[None]:
        weights = aligned(self._tensors, self._index)
        with limit_threads(1), torch.inference_mode(), self._decoder.loaded(self._decoder.embedding_names(), weights):
            yield

    def _hidden_of(self, ids: NDArray[np.int64]) -> torch.Tensor:
        hidden, calls = self._decoder.embed(torch.from_numpy(ids[None]).to(self._decoder.device))
        self._calls.setdefault(len(ids), calls)
        return hidden

    @contextmanager
    def _block(self, number: int, unit: str, before: Activations) -> Iterator[RunningBlock]:
        with self._timed("load"), ExitStack() as stack:
            weights = aligned(self._tensors, self._index)
            loaded = stack.enter_context(resident(self._decoder, number, self._tensors, weights, self._apart))
            stack = stack.pop_all()
        with stack:
            calls = [self._call(length, number) for length in self._lengths]
            yield RunningBlock(loaded, unit, before, calls, self._threads, self._rules)

    def _call(self, length: int, number: int) -> Call:
        calls = self._calls[length]
        return calls[number] if number < len(calls) else ((), {})  # the head is called with nothing

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start


def _cached(need: CalibrationNeed) -> list[str]:
    """The names of what is wanted of keys and values."""
    return [name for attention in need.caches for name in cached_names(attention)]


def unit_number(unit: Unit) -> int:
    if unit.block is None:
        raise ValueError(f"unit {unit.key!r} is not a block")
    return unit.block


def calibrate(
    source: TensorSource,
    plan: Plan,
    ids: Ids,
    **options: Any,
) -> Engine:
    """An engine over an opened checkpoint; `options` are Engine's."""
    return Engine(source.index, plan, lambda name: source.tensor(name).values, ids, **options)
