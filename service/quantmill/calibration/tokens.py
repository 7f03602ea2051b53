"""Text to tokens, by a checkpoint's tokenizer.json, and tokens to windows that a model is run on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import RequestRejected, SourceRejected, TextRejected
from quantmill.contract.tensors import ModelIndex

TOKENIZER = "tokenizer.json"
DEFAULT_WINDOW = 512  # tokens, or as many as the model takes
LIMITS = ("max_position_embeddings", "n_positions")  # config.json's names for the tokens that a model takes


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, and those that the tokenizer puts in front of any text (BOS, or nothing)."""

    ids: list[int]
    prefix: list[int]


@dataclass(frozen=True)
class Windows:
    """A text as a model sees it.

    ids     token ids, int64 of shape (windows, window)
    scored  which predictions count, bool of shape (windows, window - 1): [w, t] is that of token t + 1 from those
            before it. With a stride below the window each token counts in the first window that has it.
    stride  tokens of the text from the start of one window to that of the next
    prefix  tokens at the start of each window that are the tokenizer's, not the text's
    """

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]
    stride: int
    prefix: int

    @property
    def window(self) -> int:
        return int(self.ids.shape[1])

    @property
    def overlap(self) -> bool:
        return self.stride < self.window - self.prefix


def tokenize(index: ModelIndex, text: str) -> Tokens:
    """The tokens of `text`. Template and special tokens are left out, but for the prefix.

    Raises SourceRejected when there is no tokenizer.json or it cannot be used, TextRejected when `text` is not
    Unicode.
    """
    from tokenizers import Tokenizer

    if TOKENIZER not in index.files:
        raise SourceRejected(f"The checkpoint has no {TOKENIZER}; without it a text cannot be evaluated.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextRejected(f"The text is not valid Unicode at character {error.start}.") from error
    try:
        tokenizer = Tokenizer.from_file(str(index.files[TOKENIZER]))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        probe = tokenizer.encode("a", add_special_tokens=True)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as error:  # the library raises nothing more special
        raise SourceRejected(f"{TOKENIZER} cannot be used: {str(error)[:300]}", file=TOKENIZER) from error
    in_front = takewhile(lambda pair: pair[1], zip(probe.ids, probe.special_tokens_mask, strict=True))
    return Tokens(ids, [token for token, _ in in_front])


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
    rows = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens.ids, np.int64), own)[::step]  # (windows, own)
    prefix = np.broadcast_to(np.asarray(tokens.prefix, np.int64), (len(rows), len(tokens.prefix)))
    scored = np.ones((len(rows), window - 1), np.bool_)
    if step < own:
        scored[1:, : window - 1 - step] = False
    return Windows(np.concatenate([prefix, rows], axis=1), scored, step, len(tokens.prefix))


def window_length(index: ModelIndex, window: int | None) -> int:
    """`window`, or the default for the model. Raises RequestRejected when it is longer than the model takes."""
    limit = next((n for key in LIMITS if isinstance(n := index.config.get(key), int) and n > 0), None)
    if window is None:
        return min(DEFAULT_WINDOW, limit or DEFAULT_WINDOW)
    if window < 2 or (limit is not None and window > limit):
        most = "" if limit is None else f" and at most {limit}, the model's limit"
        raise RequestRejected(f"A window of {window} tokens is not possible: it must be at least 2{most}.")
    return window
