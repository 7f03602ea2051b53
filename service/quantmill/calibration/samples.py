"""From calibration documents to the windows of tokens that a model is run on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.calibration.chat import ChatTemplate
from quantmill.calibration.tokens import TOKENIZER, open_tokenizer, prefix_of, suffix_of, window_length
from quantmill.contract.errors import TextRejected
from quantmill.contract.tensors import ModelIndex
from quantmill.domain.calibration import CalibrationOptions
from quantmill.files.blobs import digest_of
from quantmill.texts import Conversation, TextSet, batches_digest, describe_samples, read_samples, words_of

LEAST_TOKENS = 2  # of a window: a shorter document teaches nothing about attention
DOUBTFUL_SHARE, UNKNOWN_SHARE = 0.1, 0.5  # of tokens that stand for less than a character
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Samples:
    """Token windows with what they come from.

    ids        tokens of each window, in the order in which they are run
    documents  the words that the windows were chosen from, to be looked for in other texts
    digest     of everything that the windows follow from
    unknown    share of tokens that stand for less than a character
    """

    ids: tuple[NDArray[np.int64], ...]
    documents: tuple[str, ...]
    text: TextSet
    digest: str
    unknown: float
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))

    @property
    def window(self) -> int:
        """The longest."""
        return max(map(len, self.ids))


def read_windows(index: ModelIndex, path: Path, options: CalibrationOptions) -> Samples:
    """The windows of a text file as `options` ask for them.

    Each begins with what the tokenizer puts in front of a text. Those for a graph also end with what it puts behind:
    encoders know no text without.

    Raises TextRejected: as `read_samples` does, for a text too short for a window, one that the tokenizer does not
    know, and conversations where the checkpoint has no chat template. SourceRejected where the tokenizer or the
    template cannot be used, RequestRejected for a window that the model does not take.
    """
    samples = read_samples(path)
    window = window_length(index, options.window)
    template = ChatTemplate.of(index) if any(isinstance(each, Conversation) for each in samples) else None
    tokenized = list(_tokenized(index, samples, template))
    tokenizer = open_tokenizer(index)
    edges = prefix_of(tokenizer), suffix_of(tokenizer) if index.graph is not None else []
    unknown = _unknown_share(tokenizer, tokenized)
    cut = {"packed": _packed, "documents": _documents}[options.packing]
    windows = cut(tokenized, edges, window, options.truncate)
    if not windows:
        count = sum(map(len, tokenized))
        raise TextRejected(
            f"{path.name} has {count} tokens, but a window takes {window}. Use a longer text or a smaller window.",
            tokens=count,
            window=window,
        )
    described = describe_samples(samples, path)
    return Samples(
        ids=_chosen(windows, options),
        documents=tuple(map(words_of, samples)),
        text=described,
        digest=_digest(index, described.digest, window, options, template),
        unknown=unknown,
        warnings=tuple(_warnings(path, described, len(windows), options, unknown)),
    )


def _tokenized(
    index: ModelIndex, samples: Sequence[str | Conversation], template: ChatTemplate | None
) -> Iterator[list[int]]:
    """The tokens of each document. What looks like a control token is plain text, but in what the template writes."""
    tokenizer = open_tokenizer(index)
    for sample in samples:
        templated = template is not None and isinstance(sample, Conversation)
        text = template.render(sample) if template and isinstance(sample, Conversation) else words_of(sample)
        tokenizer.encode_special_tokens = not templated
        yield tokenizer.encode(text, add_special_tokens=False).ids


Edges = tuple[list[int], list[int]]  # what each window begins and ends with


def _packed(tokenized: list[list[int]], edges: Edges, window: int, truncate: str) -> list[NDArray[np.int64]]:
    """All tokens in a row, cut."""
    own = window - sum(map(len, edges))
    row = np.asarray([token for document in tokenized for token in document], np.int64)
    if own < 1:
        return []
    rest = len(row) % own
    row = row[rest:] if truncate == "start" else row[: len(row) - rest]
    front, behind = (np.asarray(each, np.int64) for each in edges)
    return [np.concatenate([front, each, behind]) for each in row.reshape(-1, own)]


def _documents(tokenized: list[list[int]], edges: Edges, window: int, truncate: str) -> list[NDArray[np.int64]]:
    """One window a document, as long as the document if that is less."""
    prefix, behind = edges
    own = window - len(prefix) - len(behind)
    found = []
    for document in tokenized:
        ids = document[len(prefix) :] if prefix and document[: len(prefix)] == prefix else document
        kept = ids[-own:] if truncate == "start" else ids[:own]
        if own > 0 and len(prefix) + len(kept) >= LEAST_TOKENS:
            found.append(np.asarray(prefix + kept + behind, np.int64))
    return found


def _chosen(windows: list[NDArray[np.int64]], options: CalibrationOptions) -> tuple[NDArray[np.int64], ...]:
    """As many as were asked for, in the order of the text."""
    if len(windows) <= options.samples:
        return tuple(windows)
    generator = np.random.Generator(np.random.PCG64(options.seed))
    return tuple(windows[each] for each in sorted(generator.permutation(len(windows))[: options.samples]))


def _unknown_share(tokenizer: Any, tokenized: list[list[int]]) -> float:
    """How many tokens stand for less than a character: unknown ones, and single bytes of longer characters."""
    known: dict[int, bool] = {}
    model = json.loads(tokenizer.to_str())
    unknown_token = model["model"].get("unk_token")
    by_byte = '"ByteLevel"' in json.dumps([model.get("pre_tokenizer"), model.get("decoder")])

    def is_known(token: int) -> bool:
        text = tokenizer.id_to_token(token) or ""
        part = by_byte and len(text) == 1 and ord(text) > ord("~") and text not in SPACES
        return not (text == unknown_token or _BYTE.fullmatch(text) or part)

    counts = [0, 0]
    for document in tokenized:
        for token in document:
            if token not in known:
                known[token] = is_known(token)
            counts[known[token]] += 1
    return counts[0] / max(sum(counts), 1)


SPACES = "ĠĊĉč"  # how byte-level tokenizers write space, line feed, tab and carriage return


def _warnings(path: Path, text: TextSet, windows: int, options: CalibrationOptions, unknown: float) -> Iterator[str]:
    """Raises TextRejected where most tokens are unknown."""
    if unknown > UNKNOWN_SHARE:
        raise TextRejected(
            f"{100 * unknown:.0f} % of the tokens of {path.name} are unknown to the tokenizer or single bytes: it does "
            "not know this language. Calibrate on text in a language that the model knows.",
            text=path.name,
            unknown=unknown,
        )
    if unknown > DOUBTFUL_SHARE:
        yield (
            f"{100 * unknown:.0f} % of the calibration tokens are unknown to the tokenizer or single bytes: it hardly "
            "knows this language"
        )
    if windows < options.samples:
        yield f"the calibration text gives {windows} windows of the {options.samples} that were asked for"
    if text.warning:
        yield text.warning


def _digest(
    index: ModelIndex, text: str, window: int, options: CalibrationOptions, template: ChatTemplate | None
) -> str:
    with index.files[TOKENIZER].open("rb") as file:
        tokenizer = digest_of(file)
    packing = f"{options.packing}, {options.samples} samples, truncated at the {options.truncate}"
    return batches_digest(
        text,
        tokenizer,
        sequence=window,
        packing=packing,
        seed=options.seed,
        template=template.digest if template is not None else "",
    )
