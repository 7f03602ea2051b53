"""What a method learns from calibration text: statistics of what the Linears of a model are fed.

There are two sources of them. The source model's own pass sees every Linear with the source's weights before it; a
method that quantizes block by block sees each block behind the blocks that it has quantized already.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import CalibrationMissing, RequestRejected

if TYPE_CHECKING:
    from quantmill.contract.tensors import FloatArray, ModelIndex, Plan, Unit

Statistic = Literal["second_moment", "mean_abs", "absmax", "hessian", "magnitudes", "samples"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)

SAMPLED_TOKENS = 512  # rows of `samples`, evenly spread over the tokens; fewer where a Linear has seen fewer
MAGNITUDE_BUCKETS = 1 << 16


@dataclass(frozen=True)
class Statistics:
    """What the inputs x of one Linear were, over all calibration tokens that it saw. What was not asked for is None.

    tokens         that the Linear saw; of an expert, those that were routed to it
    second_moment  mean of x^2, float32 (in,): an importance matrix's row
    mean_abs       mean of |x|, float32 (in,)
    absmax         largest |x|, float32 (in,)
    hessian        sum of x x^T / tokens, float32 (in, in), symmetric
    magnitudes     how many values have |x| in each bucket, int64 (MAGNITUDE_BUCKETS,): what `percentile` reads
    samples        inputs of SAMPLED_TOKENS tokens, float32 (samples, in)

    An expert that no token was routed to has 0 tokens and zeros.
    """

    tokens: int
    second_moment: FloatArray | None = None
    mean_abs: FloatArray | None = None
    absmax: FloatArray | None = None
    hessian: FloatArray | None = None
    magnitudes: NDArray[np.int64] | None = None
    samples: FloatArray | None = None

    def percentile(self, share: float) -> float:
        """The smallest bound that `share` (0 to 1) of all |x| do not exceed, 0.8 % too high at most.

        Raises ValueError where the magnitudes have not been counted.
        """
        if self.magnitudes is None:
            raise ValueError("the magnitudes of these inputs have not been counted")
        reached = np.cumsum(self.magnitudes)
        bucket = int(np.searchsorted(reached, np.ceil(share * reached[-1])))
        return float(np.array((bucket << 15) | 0x7FFF, np.uint32).view(np.float32))


def magnitude_buckets(values: FloatArray) -> NDArray[np.int64]:
    """The bucket of each |value|: the upper 16 bits of a float32 without its sign, so 7 of its mantissa."""
    bits = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    return (bits >> 15).astype(np.int64)


@dataclass(frozen=True)
class CalibrationNeed:
    """What a plan needs of calibration.

    of_source  kinds of statistics that the source model's own pass gives to `Session.statistics`
    weights    for which weights that pass gives them; experts of a stack that is not transposed may be named one by one
    of_blocks  kinds that the method asks blocks for; units with a `block` are walked by `Session.blocks`
    caches     attentions (modules) of whose keys and values that pass gives them too, under their `cached_names`
    windows    whether the method runs the model itself, on the windows of tokens that `Session.windows` gives

    A plan with units that are blocks and no kinds for `of_blocks` has the pass made by the walk: blocks stay as the
    source has them, and `Session.statistics` answers for the block that `Session.blocks` has given last. Then the
    statistics of one block are on disk at a time, beside those that are kept for other jobs.
    """

    of_source: tuple[Statistic, ...] = ()
    weights: tuple[str, ...] = ()
    of_blocks: tuple[Statistic, ...] = ()
    caches: tuple[str, ...] = ()
    windows: bool = False

    @property
    def runs_blocks(self) -> bool:
        """Whether the host runs the source's blocks."""
        return bool(self.of_source or self.of_blocks)

    def walks_the_source(self, units: Sequence[Unit]) -> bool:
        """Whether the source's own pass is made block by block, as `Session.blocks` gives them."""
        return bool(self.of_source) and not self.of_blocks and any(unit.block is not None for unit in units)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        lists = {name: list(values) for name, values in vars(self).items() if name != "windows"}
        return {**lists, "windows": True} if self.windows else lists

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CalibrationNeed:
        lists: dict[str, Any] = {name: tuple(values) for name, values in data.items() if name != "windows"}
        return cls(**lists, windows=bool(data.get("windows")))


def cached_names(attention: str) -> tuple[str, str]:
    """Under what names `Session.statistics` has the keys and the values of an attention.

    They are as its cache stores them, keys after RoPE; an `in` is a channel of a head, one head after the other.
    """
    return f"{attention}.keys", f"{attention}.values"


class CalibratedBlock(Protocol):
    """One decoder block with its weights in memory, fed by the blocks before it as they have become.

    An untied head that the plan quantizes comes last, as a block of the final norm and the head.
    """

    @property
    def number(self) -> int: ...

    @property
    def unit(self) -> str:
        """The key of the plan's unit that it is."""

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Names of the weights of its Linears in the order in which they run, those with one input together.

        As q, k, v; o; gate, up; down. The first stages of all experts come before their second ones: what is replaced
        in one expert does not reach another.
        """

    def weight(self, name: str) -> FloatArray:
        """A tensor of the block by its name in the source, as it is now; read-only."""

    def replace(self, name: str, values: FloatArray) -> None:
        """Use `values` from now on, such as a dequantized weight. Norms and biases can be replaced too.

        Raises ValueError for another shape, CalibrationMissing for a tensor that is not the block's.
        """

    def statistics(self, names: Collection[str], kinds: Collection[Statistic]) -> Mapping[str, Statistics]:
        """Run all calibration windows through the block as it is now, up to these Linears.

        Linears with one input share one Statistics. The numbers do not depend on threads. Raises NonFiniteActivation,
        naming the Linear, CalibrationMissing for a name that is no Linear's of the block.
        """


class Calibration(Protocol):
    """The calibration half of a Session."""

    def statistics(self, name: str) -> Statistics:
        """Of the source model's own pass. Raises CalibrationMissing for what the plan did not ask for."""

    def blocks(self, finished: Collection[str]) -> Iterator[CalibratedBlock]:
        """The blocks of the plan's units but those `finished`, in order; one is in memory at a time.

        Asking for the next one runs all windows through this one as it has become, unless `advance` has.
        """

    def advance(self) -> Path | None:
        """For the host, once it has a block's tensors: the file with the hidden states behind it.

        None where no block has been given since, and where no other one follows.
        """


def required(calibration: Calibration | None) -> Calibration:
    """Raises CalibrationMissing where there is none."""
    if calibration is None:
        raise CalibrationMissing("the job has no calibration text; give one")
    return calibration


def require_calibration(plan: Plan, method: str, *, given: bool) -> None:
    """Raises RequestRejected where a plan that needs a calibration text has none, or one that needs none has one."""
    if plan.calibration is not None and not given:
        raise RequestRejected(f"method {method!r} is calibrated with these parameters; give calibration with a text")
    if plan.calibration is None and given:
        raise RequestRejected(f"method {method!r} takes no calibration with these parameters; leave it out")


@dataclass(frozen=True)
class CalibrationCost:
    """What calibration takes beside the method's own memory, in bytes."""

    memory: int
    disk: int


# Activations of a block that are alive at once, each as wide as its widest Linear: queries, keys, values, gate, up, ...
ALIVE = 8
_IN_A_BLOCK = re.compile(r"^(.+?\.\d+)\.")


def calibration_cost(index: ModelIndex, plan: Plan, *, windows: int, window: int, threads: int = 1) -> CalibrationCost:
    """An upper estimate from headers alone, for `windows` of `window` tokens.

    Memory: the largest block in float32, the activations of the windows that run at once, and the statistics of a
    block. Disk: hidden states before and after a block, and the statistics of the source's own pass, or of one block
    where the walk makes it.
    """
    from quantmill.contract.experts import weights_of_experts  # it needs tensors, which need this module

    need = plan.calibration
    if need is None:
        return CalibrationCost(0, 0)
    if not need.runs_blocks:
        return CalibrationCost(8 * windows * window, 0)
    of_source: Counter[str] = Counter()
    shapes = {name: info.shape for name, info in weights_of_experts(index).items()}
    shapes |= {row.name: row.shape for row in plan.tensors}
    for name in need.weights:
        of_source[_block(name)] += statistics_bytes(need.of_source, _inputs(shapes[name]))
    widest = max((max(info.shape) for info in index.tensors.values() if _block(info.name) != info.name), default=0)
    for attention in need.caches:
        of_source[_block(attention)] += 2 * statistics_bytes(need.of_source, widest)
    of_blocks = {
        unit.key: sum(statistics_bytes(need.of_blocks, _inputs(plan.by_name[name].shape)) for name in unit.tensors)
        for unit in plan.units
        if unit.block is not None
    }
    blocks: Counter[str] = Counter()
    for info in index.tensors.values():
        blocks[_block(info.name)] += 4 * info.values
    running = 4 * ALIVE * widest * window * 2 * threads
    statistics = max([*of_source.values(), *of_blocks.values()], default=0)
    carried = 4 * windows * window * _hidden(index)
    at_once = max if need.walks_the_source(plan.units) else sum
    return CalibrationCost(
        memory=max(blocks.values(), default=0) + running + statistics,
        disk=2 * carried + at_once([0, *of_source.values()]),
    )


def _block(name: str) -> str:
    """Which block a tensor is of; outside of the blocks each is by itself."""
    found = _IN_A_BLOCK.match(name)
    return found[1] if found else name


def _hidden(index: ModelIndex) -> int:
    stated = [index.config.get(key) for key in ("hidden_size", "n_embd")]
    return next((size for size in stated if isinstance(size, int)), 0)


def _inputs(shape: tuple[int, ...]) -> int:
    """The width of what a weight is multiplied by; 0 for what is no matrix."""
    return shape[-1] if len(shape) == 2 else 0


def statistics_bytes(kinds: Collection[Statistic], inputs: int) -> int:
    """Of the statistics of a Linear with so many inputs, while they are gathered."""
    each: dict[Statistic, int] = {
        "second_moment": 8 * inputs,
        "mean_abs": 8 * inputs,
        "absmax": 4 * inputs,
        "hessian": 4 * inputs * inputs,
        "magnitudes": 8 * MAGNITUDE_BUCKETS,
        "samples": 8 * SAMPLED_TOKENS * inputs,
    }
    return sum(each[kind] for kind in kinds) if inputs else 0
