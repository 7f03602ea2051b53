"""Text to tokens, by a checkpoint's tokenizer.json, and tokens to windows that a model is run on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import RequestRejected, SourceRejected, TextRejected
from quantmill.contract.tensors import ModelIndex

TOKENIZER = "tokenizer.json"
WORD = re.compile(r"\S+")
DEFAULT_WINDOW = 512  # tokens, or as many as the model takes
LIMITS = ("max_position_embeddings", "n_positions")  # config.json's names for the tokens that a model takes


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, and those that the tokenizer puts in front of any text (BOS, or nothing).

    `words` says how many words begin in each token: what stands between white space. Empty where it is not known.
    """

    ids: list[int]
    prefix: list[int]
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Windows:
    """A text as a model sees it.

    ids     token ids, int64 of shape (windows, window)
    scored  which predictions count, bool of shape (windows, window - 1): [w, t] is that of token t + 1 from those
            before it. With a stride below the window each token counts in the first window that has it.
    stride  tokens of the text from the start of one window to that of the next
    prefix  tokens at the start of each window that are the tokenizer's, not the text's
    words   words that begin in the token that each prediction is of, int64 of the shape of `scored`
    tokens  of the whole text, the rest that fills no window included
    """

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]
    stride: int
    prefix: int
    words: NDArray[np.int64]
    tokens: int

    @property
    def window(self) -> int:
        return int(self.ids.shape[1])

    @property
    def overlap(self) -> bool:
        return self.stride < self.window - self.prefix


def tokenize(index: ModelIndex, text: str) -> Tokens:
    """The tokens of `text`. Template and special tokens are left out, but for the prefix; what looks like one in the
    text is plain text, as it is to llama.cpp.

    Raises SourceRejected when there is no tokenizer.json or it cannot be used, TextRejected when `text` is not
    Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextRejected(f"The text is not valid Unicode at character {error.start}.") from error
    tokenizer = open_tokenizer(index)
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return Tokens(encoded.ids, prefix_of(tokenizer), _words_per_token(text, encoded.offsets))


def open_tokenizer(index: ModelIndex) -> Any:
    """The checkpoint's tokenizer; it neither cuts nor pads, and a text that spells a control token is no control token.

    Raises SourceRejected when there is no tokenizer.json or it cannot be used, and for a GGUF file.
    """
    from tokenizers import Tokenizer

    if index.gguf is not None:
        raise SourceRejected("A GGUF file is not run on a text; give the checkpoint that it was made from.")
    if TOKENIZER not in index.files:
        raise SourceRejected(f"The checkpoint has no {TOKENIZER}; without it a text cannot be used.")
    try:
        tokenizer = Tokenizer.from_file(str(index.files[TOKENIZER]))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        tokenizer.encode("a", add_special_tokens=True)
    except Exception as error:  # the library raises nothing more special
        raise SourceRejected(f"{TOKENIZER} cannot be used: {str(error)[:300]}", file=TOKENIZER) from error
    return tokenizer


def prefix_of(tokenizer: Any) -> list[int]:
    """What the tokenizer puts in front of any text: BOS, or nothing."""
    probe = tokenizer.encode("a", add_special_tokens=True)
    in_front = takewhile(lambda pair: pair[1], zip(probe.ids, probe.special_tokens_mask, strict=True))
    return [token for token, _ in in_front]


def suffix_of(tokenizer: Any) -> list[int]:
    """What the tokenizer puts behind any text: BERT's [SEP], or nothing."""
    probe = tokenizer.encode("a", add_special_tokens=True)
    behind = takewhile(lambda pair: pair[1], zip(probe.ids[::-1], probe.special_tokens_mask[::-1], strict=True))
    return [token for token, _ in behind][::-1]


def _words_per_token(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """How many words begin in each token. `offsets` are the characters that each token stands for.

    A word belongs to the first token that reaches beyond its first character: where a character takes several
    tokens, each of them has its offsets.
    """
    ends = np.maximum.accumulate(np.array([end for _, end in offsets], np.int64))
    starts = [found.start() for found in WORD.finditer(text)]
    first = np.searchsorted(ends, starts, side="right")
    return tuple(np.bincount(first[first < len(ends)], minlength=len(ends)).tolist())


def windows_of(index: ModelIndex, text: str, window: int | None = None, stride: int | None = None) -> Windows:
    """`text` cut into windows of `window` tokens, by default 512 or the model's limit if that is less.

    Windows start `stride` tokens apart, by default without overlap. Raises what `tokenize` and `cut` raise, and
    RequestRejected for an impossible window or stride.
    """
    return cut(tokenize(index, text), window_length(index, window), stride)


def cut(tokens: Tokens, window: int, stride: int | None = None) -> Windows:
    """The windows of `tokens`; a rest that fills none is left out. Raises TextRejected when there are none.

    Where the tokenizer puts a token in front of a text (BOS), each window begins with it instead of one of the
    text's tokens.
    """
    own = window - len(tokens.prefix)
    if own < 1 or len(tokens.ids) < own:
        raise TextRejected(
            f"The text has {len(tokens.ids)} tokens, but a window takes {own}. Use a longer text or a smaller window.",
            tokens=len(tokens.ids),
            window=window,
        )
    step = own if stride is None else stride
    if not 1 <= step <= own:
        raise RequestRejected(f"A stride of {step} tokens is not possible: it must be from 1 to {own}.")
    rows = _cut(tokens.ids, own, step)  # (windows, own)
    words = _cut(tokens.words or [0] * len(tokens.ids), own, step)
    prefix = np.broadcast_to(np.asarray(tokens.prefix, np.int64), (len(rows), len(tokens.prefix)))
    scored = np.ones((len(rows), window - 1), np.bool_)
    if step < own:
        scored[1:, : window - 1 - step] = False
    begun = np.concatenate([np.zeros_like(prefix), words], axis=1)[:, 1:]
    return Windows(np.concatenate([prefix, rows], axis=1), scored, step, len(tokens.prefix), begun, len(tokens.ids))


def _cut(values: Sequence[int], window: int, step: int) -> NDArray[np.int64]:
    return np.lib.stride_tricks.sliding_window_view(np.asarray(values, np.int64), window)[::step]


def window_length(index: ModelIndex, window: int | None) -> int:
    """`window`, or the default for the model. Raises RequestRejected when it is longer than the model takes."""
    limit = stated_limit(index)
    if window is None:
        return min(DEFAULT_WINDOW, limit or DEFAULT_WINDOW)
    if window < 2 or (limit is not None and window > limit):
        most = "" if limit is None else f" and at most {limit}, the model's limit"
        raise RequestRejected(f"A window of {window} tokens is not possible: it must be at least 2{most}.")
    return window


def stated_limit(index: ModelIndex) -> int | None:
    """How many tokens the model takes, by config.json."""
    return next((n for key in LIMITS if isinstance(n := index.config.get(key), int) and n > 0), None)


def ends_of(index: ModelIndex) -> list[int]:
    """The tokens that end a text, by config.json."""
    stated = index.config.get("eos_token_id")
    listed = stated if isinstance(stated, list) else [stated]
    return [token for token in listed if isinstance(token, int)]
