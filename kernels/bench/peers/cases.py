"""What a comparison with a peer is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from kernels.bench.peers.timing import Arrays, Run


@dataclass(frozen=True)
class Case:
    """One thing that both sides do to the same values."""

    what: str  # names the peer's side too, in the table of its theirs.py
    values: int
    inputs: Arrays  # what the peer gets; bfloat16 as its bits in uint16
    ours: Run
    agreement: Callable[[Arrays, Arrays], str]  # of our results and theirs, in words: "equal codes", "error 0.981x"


@dataclass(frozen=True)
class Compared:
    """One line of the report."""

    peer: str
    what: str
    isa: str
    values: int
    mvalues_s: float
    theirs_mvalues_s: float
    ratio: float  # how often as fast as the peer
    agreement: str
    commit: str
    cpu: str
