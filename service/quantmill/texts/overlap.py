"""Whether a model is measured on what it was calibrated on: runs of words that stand in both texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHINGLE_WORDS = 13  # a run that two texts hardly share by chance (GPT-3, appendix C)
MOST_SHARE = 0.01  # of the evaluation text, that goes without saying


@dataclass(frozen=True)
class Overlap:
    """Runs of SHINGLE_WORDS words (without case and punctuation) of one text that stand in another.

    `share` is of the first text's runs; `example` is the first that stands in both.
    """

    runs: int
    shared: int
    example: str | None

    @property
    def share(self) -> float:
        return self.shared / self.runs if self.runs else 0.0

    @property
    def warning(self) -> str | None:
        """A sentence where the texts are not disjoint."""
        if self.share <= MOST_SHARE:
            return None
        return (
            f"{100 * self.share:.1f} % of the evaluation text stands in the calibration text too, such as "
            f"{self.example!r}: what is measured on it flatters the calibrated model"
        )


def overlap(evaluation: Sequence[str], calibration: Sequence[str]) -> Overlap:
    """How much of the evaluation documents stands in the calibration documents."""
    known = {digest for digest, _ in _shingles(calibration)}
    runs = shared = 0
    example = None
    for digest, words in _shingles(evaluation):
        runs += 1
        if digest in known:
            shared += 1
            example = example or " ".join(words)
    return Overlap(runs, shared, example)


def _shingles(documents: Sequence[str]) -> Iterator[tuple[bytes, list[str]]]:
    for document in documents:
        words = re.findall(r"\w+", document.lower())
        for start in range(len(words) - SHINGLE_WORDS + 1):
            run = words[start : start + SHINGLE_WORDS]
            yield hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest(), run
