"""A whole model that scores and writes text, as lm-eval's tasks ask. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch

from quantmill.calibration.tokens import DEFAULT_WINDOW, TOKENIZER, ends_of, stated_limit
from quantmill.contract.tensors import ModelIndex

BATCH_TOKENS = 1024  # whose logits exist at once


class Scorer:
    """Log likelihoods in nats. Texts longer than the model's limit lose their beginning."""

    def __init__(self, model: Any, index: ModelIndex, device: torch.device) -> None:
        from tokenizers import Tokenizer

        self._model = model
        self._device = device
        self._limit = stated_limit(index) or 4 * DEFAULT_WINDOW
        self._tokenizer = Tokenizer.from_file(str(index.files[TOKENIZER]))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._ends = ends_of(index)
        probe = self._tokenizer.encode("a")
        in_front = takewhile(lambda pair: pair[1], zip(probe.ids, probe.special_tokens_mask, strict=True))
        self._front = [token for token, _ in in_front]  # what the tokenizer puts before a text
        stated = index.config.get("bos_token_id")
        lone = [token for token in (stated, *self._ends, 0) if isinstance(token, int)]
        self._start = self._front or lone[:1]  # what stands before a text that nothing stands before

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each continuation after its context, and whether it is what the model would write.

        Context and continuation are cut into tokens together; spaces at the context's end count to the continuation.
        """
        asked = [self._encode(context, continuation) for context, continuation in pairs]
        order = sorted(range(len(asked)), key=lambda place: len(asked[place][0]))
        found: dict[int, tuple[float, bool]] = {}
        for batch in self._batches(order, asked):
            found.update(zip(batch, self._score([asked[place] for place in batch]), strict=True))
        return [found[place] for place in range(len(asked))]

    def rolling(self, text: str) -> float:
        """Of the whole text: each token counts once, after as many before it as the last window holds."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        total = 0.0
        for start in range(0, len(ids), self._limit):
            wanted = ids[start : start + self._limit]
            before = (self._start + ids[:start])[-(self._limit + 1 - len(wanted)) :]
            total += self._score([(before + wanted, len(wanted))])[0][0]
        return total

    def generate(self, text: str, until: Sequence[str], most: int) -> str:
        """What the model writes after `text`, greedily, up to one of `until`, its end of text, or `most` tokens."""
        read = (self._front if text else self._start) + self._tokenizer.encode(text, add_special_tokens=False).ids
        ids = read[-max(1, self._limit - most) :]
        written: list[int] = []
        new, kept, shown = ids, None, ""
        with torch.inference_mode():
            for _ in range(min(most, self._limit - len(ids))):
                made = self._model(torch.tensor([new], device=self._device), past_key_values=kept, use_cache=True)
                kept, new = made.past_key_values, [int(made.logits[0, -1].argmax())]
                if new[0] in self._ends:
                    break
                written += new
                shown = self._tokenizer.decode(written)
                if any(stop in shown for stop in until if stop):
                    break
        for stop in until:
            shown = shown.split(stop)[0] if stop else shown
        return shown

    def _encode(self, context: str, continuation: str) -> tuple[list[int], int]:
        """All tokens, and how many of them are the continuation's."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        before, whole = (
            self._tokenizer.encode(text, add_special_tokens=False).ids for text in (context, context + continuation)
        )
        ids = (self._front if context else self._start) + whole
        return ids[-(self._limit + 1) :], min(len(whole) - len(before), self._limit)

    def _batches(self, order: Sequence[int], asked: Sequence[tuple[list[int], int]]) -> Iterator[list[int]]:
        batch: list[int] = []
        for place in order:  # by length, so that the last is the longest
            if batch and (len(batch) + 1) * len(asked[place][0]) > BATCH_TOKENS:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _score(self, asked: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Rows are filled up at their ends, which tokens before do not see."""
        longest = max(len(ids) for ids, _ in asked) - 1
        rows = torch.zeros(len(asked), longest, dtype=torch.int64)
        for row, (ids, _) in zip(rows, asked, strict=True):
            row[: len(ids) - 1] = torch.tensor(ids[:-1])
        with torch.inference_mode():
            logits = self._model(rows.to(self._device), use_cache=False).logits
        found = []
        for made, (ids, wanted) in zip(logits, asked, strict=True):
            end = len(ids) - 1
            log = made[end - wanted : end].float().log_softmax(-1)
            following = torch.tensor(ids[len(ids) - wanted :], device=log.device)
            total = log.gather(1, following[:, None]).double().sum().item()
            found.append((total, bool((log.argmax(-1) == following).all())))
        return found
