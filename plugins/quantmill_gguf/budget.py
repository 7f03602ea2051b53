"""Types to fit a size: which tensors share one, what each may be, and the choice that loses least.

The choice is a knapsack: from each group of tensors one type, bytes within the limit, the sum of losses least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from quantmill.contract.errors import ParamsRejected
from quantmill_gguf.families import ExpectedTensor
from quantmill_gguf.params import GgufParams
from quantmill_gguf.policies import Choice, fall_back
from quantmill_gguf.types import FACTOR_BYTES, NVFP4, SCHEMES

LADDER = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")  # 2.6 to 8.5 bits per weight

# Matrices that take the same inputs and whose products graphs may fuse where both have one type
SHARED = {"attn_k": "attn_q", "ffn_up": "ffn_gate", "ffn_up_exps": "ffn_gate_exps", "ffn_up_shexp": "ffn_gate_shexp"}

SAME = 1.02  # losses measured on samples are not told apart below this ratio

CELLS = 1 << 13  # the budget's spare bytes are counted in as many steps at most

MEGABYTE = 10**6


@dataclass(frozen=True)
class Group:
    """Source tensors that get one type; `types` are what that may be, smallest first."""

    tensors: tuple[ExpectedTensor, ...]
    types: tuple[str, ...]

    @cached_property
    def nbytes(self) -> tuple[int, ...]:
        """Of all its tensors, by type."""
        return tuple(sum(bytes_of(tensor, type_) for tensor in self.tensors) for type_ in self.types)


def bytes_of(tensor: ExpectedTensor, type_: str) -> int:
    nbytes = tensor.copies * prod(tensor.stored[:-1]) * SCHEMES[type_].row_bytes(tensor.stored[-1])
    return nbytes + (FACTOR_BYTES if type_ == NVFP4.name else 0)


def types_for(cols: int) -> tuple[str, ...]:
    """What rows of `cols` values can be, smallest first: the ladder, each rung as far as it must fall back."""
    types = {fall_back(Choice(type_), cols).type for type_ in LADDER}
    return tuple(sorted(types, key=lambda type_: (SCHEMES[type_].row_bytes(cols), type_)))


def grouped(tensors: Iterable[ExpectedTensor]) -> list[Group]:
    """Those tensors that share a type: experts of a block, queries and keys, gate and up."""
    groups: dict[tuple[int, str, int], list[ExpectedTensor]] = {}
    for tensor in tensors:
        key = (tensor.block, SHARED.get(tensor.role, tensor.role), tensor.stored[-1])
        groups.setdefault(key, []).append(tensor)
    return [Group(tuple(members), types_for(cols)) for (_, _, cols), members in groups.items()]


def limit_of(params: GgufParams, values: int, container: int) -> int:
    """Bytes that all tensors may take: `values` in target_bpw bits each, or target_size_mb without the `container`."""
    if params.target_bpw is not None:
        return math.floor(params.target_bpw * values / 8)
    assert params.target_size_mb is not None
    return math.floor(params.target_size_mb * MEGABYTE) - container


def allot(groups: Sequence[Group], losses: Sequence[Sequence[float]], limit: int) -> list[int]:
    """Which of its types each group gets: those that lose least of all that take `limit` bytes at most.

    `losses[g][t]` is what group g loses in type t. Exact where sizes divide into CELLS steps, else at most a step for
    each group is unused at first, and goes to what gains most by it.

    Raises ValueError, with the bytes that are needed, where the smallest types do not fit.
    """
    smallest = sum(group.nbytes[0] for group in groups)
    if smallest > limit:
        raise ValueError(smallest)
    extra = [tuple(nbytes - group.nbytes[0] for nbytes in group.nbytes) for group in groups]
    spare = min(limit - smallest, sum(map(max, extra)))
    step = max(math.gcd(*(nbytes for each in extra for nbytes in each)), -(-spare // CELLS), 1)
    chosen = _knapsack([[-(-nbytes // step) for nbytes in each] for each in extra], losses, spare // step)
    left = limit - sum(group.nbytes[type_] for group, type_ in zip(groups, chosen, strict=True))
    return _filled(groups, losses, chosen, left)


def preferred(
    groups: Sequence[Group],
    losses: Sequence[Sequence[float]],
    limit: int,
    picks: list[int],
    mixes: Iterable[list[int]],
) -> list[int]:
    """`picks`, or of `mixes` that fit the one that loses least, where that cannot be told from what `picks` lose."""

    def lost(choice: list[int]) -> float:
        return math.fsum(loss[pick] for loss, pick in zip(losses, choice, strict=True))

    def nbytes(choice: list[int]) -> int:
        return sum(group.nbytes[pick] for group, pick in zip(groups, choice, strict=True))

    as_good = [mix for mix in mixes if nbytes(mix) <= limit and lost(mix) <= SAME * lost(picks)]
    return min(as_good, key=lost, default=picks)


def _knapsack(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], cells: int) -> list[int]:
    """The option of each row of `costs` so that they take `cells` together at most and the losses are least."""
    least = np.zeros(cells + 1)  # [c]: of the rows so far, in c cells
    picks = np.zeros((len(costs), cells + 1), np.uint8)
    for row, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        sums = np.full((len(cost), cells + 1), np.inf)  # (options, cells + 1)
        for option, taken in enumerate(cost):
            if taken <= cells:
                sums[option, taken:] = least[: cells + 1 - taken] + loss[option]
        picks[row] = sums.argmin(axis=0)
        least = sums.min(axis=0)
    chosen, cell = [], cells
    for row in reversed(range(len(costs))):
        chosen.append(int(picks[row, cell]))
        cell -= costs[row][chosen[-1]]
    return chosen[::-1]


def _filled(groups: Sequence[Group], losses: Sequence[Sequence[float]], chosen: list[int], left: int) -> list[int]:
    """`chosen` with what `left` bytes still buy, the largest gain for a byte first."""
    while True:
        gains = [
            ((losses[row][now] - losses[row][option]) / grows, -row, option)
            for row, now in enumerate(chosen)
            for option, nbytes in enumerate(groups[row].nbytes)
            if 0 < (grows := nbytes - groups[row].nbytes[now]) <= left and losses[row][option] < losses[row][now]
        ]
        if not gains:
            return chosen
        _, row, option = max(gains)
        left -= groups[-row].nbytes[option] - groups[-row].nbytes[chosen[-row]]
        chosen = [option if place == -row else type_ for place, type_ in enumerate(chosen)]


def too_small(params: GgufParams, needed: int, values: int, container: int) -> ParamsRejected:
    """What the smallest types come to, in terms of the parameter that asks for less. `needed` counts all tensors."""
    if params.target_bpw is not None:
        name, least = "target_bpw", f"{math.ceil(8000 * needed / values) / 1000:.3f} bits per weight"
    else:
        name, least = "target_size_mb", f"{math.ceil((needed + container) / 1000) / 1000:.3f} MB"
    message = f"{name} {getattr(params, name):g} is too small: the smallest types take {least}"
    return ParamsRejected(f"gguf: {message}", [{"pointer": f"/params/{name}", "code": "budget", "message": message}])


def choices(
    groups: Sequence[Group], picks: Sequence[int], losses: Sequence[Sequence[float]], *, measured: bool
) -> Mapping[str, Choice]:
    """The type of each tensor of the file, by its name, with the reason; before measuring also its candidates."""
    found: dict[str, Choice] = {}
    for group, pick, loss in zip(groups, picks, losses, strict=True):
        first = group.tensors[0]
        fallback = fall_back(Choice(LADDER[0]), first.stored[-1]).fell_back
        limited = f"; rows of {first.stored[-1]} values divide into none of 256" if fallback else ""
        among = ", ".join(group.types)
        reason = f"measured: loses {loss[pick]:.2g}" if measured else f"a first guess; measured weights choose: {among}"
        candidates = () if measured else group.types
        for tensor in group.tensors:
            found[tensor.output] = Choice(group.types[pick], reason + limited, fallback, candidates)
    return found
